"""The code in the documents runs, and what they link to is there."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
from world import run_on_ranks

from approx_is import ApproxSampler, registry
from approx_is.integrations.sample_losses import sample_losses

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/frameworks.md",
    "docs/performance.md",
    "docs/results.md",
    "docs/scaling.md",
    "docs/tasks.md",
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


def test_sequences_regression_and_wrong_labels_train_as_tasks_say(training):
    sequences, regression, wrong_labels = python_blocks("docs/tasks.md")
    exec(sequences, training)
    logits, labels = torch.randn(2, 3, 4), torch.tensor([[0, 1, 2], [3, -100, -100]])
    expected = sample_losses(logits, labels)
    torch.testing.assert_close(training["sequence_losses"](logits, labels), expected)
    inputs = training["train_set"].tensors[0]
    training["loader"] = DataLoader(TensorDataset(inputs, inputs[:, :2]), batch_size=100)
    exec(regression, training)
    assert training["sampler"].metrics()["step"] == 3
    exec(wrong_labels, training)
    assert len(training["sampler"]) == 3


@pytest.mark.xdist_group("lightning")
@pytest.mark.filterwarnings("default")
def test_lightning_trains_as_frameworks_say(training, tmp_path, monkeypatch):
    pytest.importorskip("lightning.pytorch", reason="the extra `lightning` is not installed")
    monkeypatch.chdir(tmp_path)
    training["loader"] = DataLoader(training["train_set"], batch_size=100)
    exec(python_blocks("docs/frameworks.md")[0], training)
    assert training["approx"].sampler.metrics()["step"] == 6


@pytest.mark.xdist_group("transformers")
@pytest.mark.filterwarnings("default")
def test_transformers_and_accelerate_begin_as_frameworks_say(training):
    pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    training["loader"] = DataLoader(training["train_set"], batch_size=100)
    _, trainer, accelerate = python_blocks("docs/frameworks.md")
    exec(trainer, training)
    exec(accelerate, training)
    assert training["ImportanceTrainer"].create_sampler(None, training["loader"]).num_samples == 300
    assert training["accelerator"]._custom_objects == [training["sampler"]]


def test_the_versions_of_the_readme_are_those_that_tests_run_with():
    readme, pinned = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "constraints.txt"))
    names = {"PyTorch": "torch", "Lightning": "lightning", "Transformers": "transformers", "Accelerate": "accelerate"}
    for title, name in names.items():
        (version,) = re.findall(rf"^\| {title} \| ([\d.]+) \|", readme, re.MULTILINE)
        assert f"\n{name}=={version}\n" in pinned


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    folder = (ROOT / document).parent
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / document).read_text(encoding="utf-8"))
    assert [target for target in targets if not (folder / target).exists()] == []
