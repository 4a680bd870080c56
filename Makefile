# Every target makes its own virtual environment on first use; a second run reuses it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
SPHINX := $(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going -c docs -d build/doctrees

.PHONY: help env demo test check bench results docs docs-external clean

help:
	@echo "make env     only the virtual environment, with all that examples and tests need"
	@echo "make demo    train on Shuttle with and without a predictor; draws runs/demo/comparison.png"
	@echo "make test    run the tests"
	@echo "make check   lint, format and type checks, as CI runs them"
	@echo "make docs    build the documentation, build/site/index.html, and check its links"
	@echo "make results do what is missing of the comparisons in docs/results.md, and draw it anew"
	@echo "make bench   time the tree beside its peers, and the sampler beside the steps it serves, four minutes"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev,lightning,transformers]'
	@touch $@

env: $(READY)

demo: $(READY)
	$(BIN)/python scripts/compare.py --preset demo --out runs/demo

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typed_user.py

results: $(READY)
	$(BIN)/python scripts/compare.py --preset results --out runs/results \
		--known docs/results.jsonl.gz --publish docs/results.jsonl.gz --document docs/results.md README.md

bench: $(READY)
	$(BIN)/python scripts/benchmark_sum_tree.py --preset short --out runs/bench
	$(BIN)/python scripts/benchmark_overhead.py --preset short --out runs/bench

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

docs: $(DOCS_READY)
	rm -rf build/site
	$(SPHINX) -b html . build/site
	$(BIN)/python scripts/check_links.py build/site
	@echo "build/site/index.html"

docs-external: $(DOCS_READY)  # follows links to other sites
	$(SPHINX) -b linkcheck . build/linkcheck

clean:
	rm -rf $(VENV) runs build *.egg-info
