"""Settings of the whole suite: one thread, seeded hypothesis, helper modules on the path."""

import importlib
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes that tests start
sys.path.insert(0, str(Path(__file__).parent))  # helper modules, for tests in every folder and for workers
sys.path.insert(0, str(Path(__file__).parent / "integrations"))

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

pytest.register_assert_rewrite("laws")

settings.register_profile(
    "suite",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
    phases=(Phase.explicit, Phase.generate, Phase.shrink),  # to explain failures takes minutes
)
settings.load_profile("suite")
torch.set_num_threads(1)


@pytest.fixture
def scripts(monkeypatch):
    """Return what imports a module of `scripts/` by its name."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "scripts")
    return importlib.import_module


@pytest.fixture
def no_registrations(monkeypatch):
    """Forget at the end of the test what it registers."""
    monkeypatch.setattr("approx_is.registry._registered", {})
