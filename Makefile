# Every target makes its own virtual environment on first use; a second run reuses it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test check bench clean

help:
	@echo "make demo    train on Shuttle with and without a predictor; draws runs/demo/comparison.png"
	@echo "make test    run the tests"
	@echo "make check   lint, format and type checks, as CI runs them"
	@echo "make bench   time the tree beside its peers, and the sampler beside the steps it serves, four minutes"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@touch $@

demo: $(READY)
	$(BIN)/python scripts/compare.py --preset demo --out runs/demo

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python scripts/benchmark_sum_tree.py --preset short --out runs/bench
	$(BIN)/python scripts/benchmark_overhead.py --preset short --out runs/bench

clean:
	rm -rf $(VENV) runs build *.egg-info
