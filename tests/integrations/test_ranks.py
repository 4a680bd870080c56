"""Two processes of a framework train as one process with batches twice as large."""

import os

import pytest
import torch
import torch.nn.functional as F
from frameworks import SIZE, loader, network
from world import run_on_ranks

from approx_is import ApproxSampler

STEPS, RANKS, TOGETHER = 12, 2, 14
"""Batches of 14 are three an epoch: of 7 in each of the processes."""


def sampler(batches):
    return ApproxSampler(batches, predictor="last-loss", k=0.5, seed=3, update_every=1)


def by_hand():
    model, alone = network(), sampler(loader(batch_size=TOGETHER))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(STEPS * TOGETHER // SIZE):
        for (x, y), draw in alone:
            losses = F.cross_entropy(model(x), y, reduction="none")
            optimizer.zero_grad()
            draw.weighted_mean(losses).backward()
            optimizer.step()
            alone.update(draw, losses)
    return {name: value.clone() for name, value in model.state_dict().items()}


def pretend_torchrun():
    rank = torch.distributed.get_rank()
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_WORLD_SIZE": RANKS, "GROUP_RANK": 0}
    places |= {"MASTER_ADDR": "localhost", "MASTER_PORT": 29_511, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({name: str(value) for name, value in places.items()})


def with_lightning(folder):
    import lightning.pytorch as pl

    from approx_is.integrations.lightning import ApproxCallback

    pretend_torchrun()

    class Classifier(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network()

        def training_step(self, batch, batch_idx):
            (x, y), draw = batch
            losses = F.cross_entropy(self.network(x), y, reduction="none")
            return {"loss": draw.weighted_mean(losses), "per_sample_loss": losses.detach()}

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    approx = ApproxCallback(lambda: sampler(loader(batch_size=TOGETHER // RANKS)))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    quiet |= {"enable_checkpointing": False, "default_root_dir": folder}
    trainer = pl.Trainer(accelerator="cpu", devices=RANKS, strategy="ddp", max_steps=STEPS, callbacks=[approx], **quiet)
    module = Classifier()
    trainer.fit(module, approx.batches)
    return {name.removeprefix("network."): value for name, value in module.state_dict().items()}


def with_transformers(folder):
    from torch import nn
    from torch.utils.data import Dataset
    from transformers import Trainer, TrainingArguments

    from approx_is.integrations.transformers import ApproxTrainerMixin

    pretend_torchrun()

    class Rows(Dataset):
        def __len__(self):
            return SIZE

        def __getitem__(self, index):
            x, y = loader().dataset[index]
            return {"x": x, "labels": y}

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network()

        def forward(self, x):
            return {"logits": self.network(x)}

    class Importance(ApproxTrainerMixin, Trainer):
        def create_sampler(self, loader):
            return sampler(loader)

    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=TOGETHER // RANKS,
        max_steps=STEPS,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        save_strategy="steps",
        save_steps=STEPS,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        ddp_backend="gloo",
        dataloader_pin_memory=False,
        label_names=["labels"],
    )
    trainer = Importance(Classifier(), arguments, train_dataset=Rows())
    trainer.train()
    assert trainer.args.world_size == RANKS
    return {name.removeprefix("network."): value for name, value in trainer.model.state_dict().items()}


def with_accelerate(folder):
    from accelerate import Accelerator

    pretend_torchrun()
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == RANKS
    model = network()
    in_step, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    together = sampler(loader(batch_size=TOGETHER // RANKS))
    for _ in range(STEPS * TOGETHER // SIZE):
        for (x, y), draw in together:
            losses = F.cross_entropy(in_step(x), y, reduction="none")
            optimizer.zero_grad()
            accelerator.backward(draw.weighted_mean(losses))
            optimizer.step()
            together.update(draw, losses)
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("function", "module"),
    [
        pytest.param(with_lightning, "lightning", marks=pytest.mark.xdist_group("lightning")),
        pytest.param(with_transformers, "transformers", marks=pytest.mark.xdist_group("transformers")),
        pytest.param(with_accelerate, "accelerate", marks=pytest.mark.xdist_group("transformers")),
    ],
    ids=["lightning", "transformers", "accelerate"],
)
def test_two_processes_train_as_one(tmp_path, function, module):
    pytest.importorskip(module, reason=f"the extra `{module}` is not installed")
    (tmp_path / "training").mkdir()
    expected = by_hand()
    for found in run_on_ranks(RANKS, function, tmp_path, tmp_path / "training"):
        assert isinstance(found, dict), found
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name].cpu(), value, rtol=1e-4, atol=1e-5)
    saved = list((tmp_path / "training").rglob("approx_is*.pt"))
    assert [path.name for path in saved] == (["approx_is.pt"] if module == "transformers" else [])
