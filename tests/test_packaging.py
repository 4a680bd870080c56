"""What an installation contains, and how other packages add to it."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from approx_is import ImportanceSampler, available_predictors

ROOT = Path(__file__).parents[1]

needs_setuptools = pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None, reason="building without isolation takes setuptools"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy of the sources, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("approx_is", "predictors"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", str(source), "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--quiet", "--wheel-dir", str(folder)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@needs_setuptools
def test_the_wheel_holds_the_predictors_within_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"approx_is/predictors/{path.name}" for path in (ROOT / "predictors").glob("*.py")} <= names
    assert {f"approx_is/{path.name}" for path in (ROOT / "approx_is").glob("*.py")} <= names
    assert {f"approx_is/integrations/{path.name}" for path in (ROOT / "approx_is/integrations").glob("*.py")} <= names
    assert "approx_is/py.typed" in names
    folders = {name.split("/")[0] for name in names}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {"approx_is"}


@needs_setuptools
def test_the_wheel_draws_where_there_is_no_repository(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = """
import approx_is, torch
from approx_is.predictors import lstm
sampler = approx_is.ImportanceSampler(4, 4, predictor="lstm")
sampler.update(sampler.draw(), torch.ones(4))
print(approx_is.__file__, lstm.__file__, len(sampler.draw()))
"""
    command = [sys.executable, "-W", "error", "-c", code]
    environment = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path.anchor, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    package = tmp_path / "approx_is"
    assert done.stdout.split() == [str(package / "__init__.py"), str(package / "predictors" / "lstm.py"), "4"]


@needs_setuptools
def test_another_package_adds_a_predictor_by_entry_point(tmp_path, monkeypatch):
    source = shutil.copytree(ROOT / "tests" / "trend_package", tmp_path / "source")
    command = [sys.executable, "-m", "pip", "install", str(source), "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--quiet", "--disable-pip-version-check", "--target", str(tmp_path / "installed")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    monkeypatch.syspath_prepend(tmp_path / "installed")
    assert "trend" in available_predictors()
    sampler = ImportanceSampler(20, 4, predictor="trend", gate=None)
    for _ in range(15):  # the fifteenth draw is of the third epoch: every sample was seen twice or so
        draw = sampler.draw()
        sampler.update(draw, draw.indices.float())
    assert sampler.state_dict()["predictor_class"] == "TrendPredictor"
    probabilities = sampler.probabilities()
    assert probabilities[19] > 2 * probabilities[0]


def test_the_package_is_what_contributing_shows():
    package = ROOT / "tests" / "trend_package"
    code = (package / "trend_predictor.py").read_text(encoding="utf-8").split("\n\n\n", 1)[1]
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert code in contributing
    assert '[project.entry-points."approx_is.predictors"]' in contributing
    assert "def " in code
