"""What importing loads, in a fresh process."""

import subprocess
import sys
from pathlib import Path

import approx_is

ROOT = Path(__file__).parents[1]
HEAVY = ["cvxpy", "sklearn", "matplotlib", "lightning", "pytorch_lightning", "transformers", "approx_is.predictors"]


def run(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_importing_loads_no_heavy_package_and_no_predictor():
    result = run(f"import sys, approx_is; print([name for name in {HEAVY} if name in sys.modules])")
    assert result.stderr == ""
    assert result.stdout.strip() == "[]"


def test_importing_prints_nothing_and_warns_of_nothing():
    result = run("import warnings; warnings.simplefilter('error'); import approx_is, approx_is.predictors")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_importing_leaves_the_global_generators_alone():
    code = "import torch; a = torch.get_rng_state(); import approx_is; print(torch.equal(a, torch.get_rng_state()))"
    assert run(code).stdout.strip() == "True"


def test_predictors_by_their_folder_name_are_refused_with_the_right_name():
    result = run("import predictors")
    assert result.returncode == 1
    message = (
        "ImportError: This package is part of approx_is: import it as `approx_is.predictors`, not as `predictors`."
    )
    assert result.stderr.strip().splitlines()[-1] == message


def test_everything_announced_is_there():
    assert sorted(approx_is.__all__) == approx_is.__all__
    for name in approx_is.__all__:
        assert getattr(approx_is, name).__module__.startswith("approx_is."), name
