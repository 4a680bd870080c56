"""Every public name has its place in the documentation; `make docs` builds it, which takes too long for the suite."""

import ast
import re
from pathlib import Path

import pytest

import approx_is
from approx_is import available_predictors, predictors
from approx_is.predictors import uncertainty_set

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "api").glob("*.rst"))
DIRECTIVE = re.compile(r"^ *\.\. (currentmodule|module|auto\w+):: ([\w.]+)", re.MULTILINE)


def documented_names() -> list[str]:
    """Return the full names that the pages describe, each as often as they do."""
    names = []
    for page in PAGES:
        module = ""
        for directive, name in DIRECTIVE.findall(page.read_text(encoding="utf-8")):
            if directive.endswith("module"):
                module = name
            elif directive in ("autoclass", "autofunction", "autoexception"):
                names.append(name if name.startswith("approx_is.") else f"{module}.{name}")
    return names


def names_of(module: Path) -> list[str]:
    """Return the `__all__` of a module, which may need a framework to import."""
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


@pytest.mark.parametrize("module", [approx_is, predictors], ids=lambda module: module.__name__)
def test_no_public_name_is_missing(module):
    assert {f"{module.__name__}.{name}" for name in module.__all__} <= set(documented_names())


def test_what_fits_an_uncertainty_set_is_there():
    names = ("UncertaintySet", "fit_uncertainty_set", "robust_probabilities")
    assert all(hasattr(uncertainty_set, name) for name in names)
    assert {f"approx_is.predictors.uncertainty_set.{name}" for name in names} <= set(documented_names())


@pytest.mark.parametrize("framework", ["lightning", "transformers"])
def test_no_name_of_an_integration_is_missing(framework):
    names = names_of(ROOT / "approx_is" / "integrations" / f"{framework}.py")
    assert names
    assert {f"approx_is.integrations.{framework}.{name}" for name in names} <= set(documented_names())


def test_nothing_is_described_twice():
    names = documented_names()
    assert sorted(names) == sorted(set(names))


def test_the_table_of_predictors_has_each_name(no_registrations):
    text = (ROOT / "docs" / "api" / "predictors.rst").read_text(encoding="utf-8")
    table = dict(re.findall(r"^``([\w-]+)`` +`(\w+)`$", text, re.MULTILINE))
    assert sorted(table) == available_predictors()
    for name, predictor in table.items():
        assert approx_is.registry.resolve_predictor(name) is getattr(predictors, predictor)


def test_every_page_is_in_the_navigation():
    configuration = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    assert [page.stem for page in (ROOT / "docs").glob("*.md") if f"\ndocs/{page.stem}\n" not in configuration] == []
