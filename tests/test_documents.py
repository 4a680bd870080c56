"""The code in the documents runs, and what they link to is there."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
from world import run_on_ranks

from approx_is import ApproxSampler, registry

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/performance.md",
    "docs/scaling.md",
    "scripts/data/README.md",
]


def python_blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def training() -> dict:
    return make_training()


def make_training() -> dict:
    """Return what the README takes for granted: data, a model and its optimizer."""
    inputs = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    dataset = TensorDataset(inputs, (inputs[:, 0] > 0).long())
    return {"train_set": dataset, "model": model, "optimizer": optimizer, "epochs": 3, "F": F}


def test_the_loop_of_the_readme_trains(training):
    block, _, _ = python_blocks("README.md")
    before = training["model"].weight.clone()
    exec(block, training)
    assert not torch.equal(training["model"].weight, before)
    assert training["sampler"].metrics()["step"] == 9  # 3 epochs of 3 batches


def test_the_loop_with_presampling_trains(training):
    _, block, _ = python_blocks("README.md")
    training["loader"] = DataLoader(training["train_set"], batch_size=16, shuffle=True)
    exec(block, training)
    metrics = training["sampler"].metrics()
    assert metrics["step"] == 57  # 3 epochs of 19 batches
    assert metrics["gate_tau"] > 0.9


def test_the_loop_with_a_gain_ends_after_its_effective_steps(training):
    _, _, block = python_blocks("README.md")
    for number in ("1500", "2250", "3000"):
        assert number in block
        block = block.replace(number, number[:2])  # a hundredth of the steps
    training["loader"] = DataLoader(training["train_set"], batch_size=16, shuffle=True)
    exec(block, training)
    assert 30 <= training["gain"].effective_steps < 40
    assert training["gain"].get_last_lr()[0] == pytest.approx(0.1 * 0.1**2 * training["gain"].ratio)


@pytest.mark.parametrize("number", [0, 1])
def test_the_loaders_of_several_ranks_share_an_epoch(tmp_path, number):
    first, second = run_on_ranks(2, indices_of_an_epoch, tmp_path, number)
    assert torch.equal(torch.cat([first, second]).sort().values, torch.arange(300))


def indices_of_an_epoch(number: int) -> torch.Tensor:
    training = make_training() | {"DataLoader": DataLoader, "ApproxSampler": ApproxSampler}
    for block in python_blocks("docs/scaling.md")[: number + 1]:
        exec(block, training)
    return torch.cat([draw.indices for _, draw in training["sampler"]])


def test_the_predictor_of_contributing_draws(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    (block,) = python_blocks("CONTRIBUTING.md")
    exec(block, {})
    values = torch.arange(20.0)
    sampler = ApproxSampler(DataLoader(values, batch_size=4), predictor="trend", gate=None)
    for _ in range(2):
        for batch, draw in sampler:
            sampler.update(draw, batch)
    probabilities = sampler.probabilities()
    assert probabilities[19] > probabilities[1]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    folder = (ROOT / document).parent
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / document).read_text(encoding="utf-8"))
    assert [target for target in targets if not (folder / target).exists()] == []
