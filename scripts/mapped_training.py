"""Train on more samples than one would hold in memory: their history is in memory-mapped files.

No data set is needed: features and class of a sample follow from its index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approx_is import ImportanceSampler
from resident_memory import Resident, reset_peak

NUM_CLASSES = 10
BATCH_SIZE = 128
PLAIN_STEPS = 50
FILL = 1_000_000
"""Samples a draw where the first epoch is cut short."""

LONGEST_FILL = 300.0
"""Seconds in which they are all to be observed."""

PROBE = 10_000
"""Samples whose mean loss tells whether training gets on."""

BLOCK = 512
"""Bytes of a block that `stat` counts."""


@dataclass(frozen=True)
class StepTime:
    """Milliseconds of a training step that the sampler took.

    Attributes:
        draw: for the draw.
        update: for the update.
    """

    draw: float
    update: float


class MappedTraining:
    """A linear classifier, and a sampler that predicts the last loss.

    Args:
        num_samples: N.
        folder: for the history's files.
    """

    def __init__(self, num_samples: int, folder: Path) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(NUM_CLASSES, NUM_CLASSES)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.probe = torch.randint(num_samples, (PROBE,))
        labels = torch.arange(NUM_CLASSES, dtype=torch.uint8).repeat(math.ceil(num_samples / NUM_CLASSES))
        self.sampler = ImportanceSampler(
            num_samples,
            BATCH_SIZE,
            predictor="last-loss",
            labels=labels[:num_samples],
            gate=None,
            update_every=1,  # what one update takes is to be seen
            history_path=folder,
        )

    def step(self) -> StepTime:
        """Take a training step."""
        started = perf_counter()
        draw = self.sampler.draw()
        drawn = perf_counter()
        losses = self.losses(draw.indices)
        self.optimizer.zero_grad()
        torch.autograd.backward(draw.weighted_mean(losses))
        self.optimizer.step()
        trained = perf_counter()
        self.sampler.update(draw, losses)
        return StepTime(draw=1e3 * (drawn - started), update=1e3 * (perf_counter() - trained))

    @torch.no_grad()
    def finish_first_epoch(self, seconds: float) -> None:
        """Draw all samples that were not drawn yet, and observe as many as time allows, without training on them."""
        deadline = perf_counter() + seconds
        for _ in range(self.sampler.step * BATCH_SIZE, self.sampler.num_samples, FILL):
            draw = self.sampler.draw(FILL)
            if perf_counter() < deadline:
                self.sampler.update(draw, self.losses(draw.indices))

    def losses(self, indices: Tensor) -> Tensor:
        """Return the losses of samples, int64 [B] → float32 [B]."""
        return F.cross_entropy(self.model(features(indices)), indices % NUM_CLASSES, reduction="none")

    @torch.no_grad()
    def probe_loss(self) -> float:
        """Return the mean loss of the probe, in nats."""
        return self.losses(self.probe).mean().item()


def features(indices: Tensor) -> Tensor:
    """Return the class of each sample, one-hot, in noise that follows from the index: int64 [B] → float32 [B, C]."""
    phases = indices.double().unsqueeze(1) * torch.arange(1, NUM_CLASSES + 1).sqrt()
    return F.one_hot(indices % NUM_CLASSES, NUM_CLASSES) + phases.sin().float()


def train_mapped(num_samples: int, steps: int, folder: Path, seconds: float = LONGEST_FILL) -> dict[str, Any]:
    """Train plainly, finish the first epoch in large draws, and train with draws by importance.

    Args:
        num_samples: N.
        steps: by importance.
        folder: for the history's files.
        seconds: after which what is left of the first epoch is drawn without being observed.

    Returns:
        Seconds, milliseconds a step, losses of the probe, and bytes in memory and on disk.
    """
    torch.set_num_threads(1)
    reset_peak()
    started = perf_counter()
    training = MappedTraining(num_samples, folder)
    report: dict[str, Any] = {"num_samples": num_samples, "build_seconds": perf_counter() - started}
    report |= {"build_peak": Resident.now().peak, "loss": training.probe_loss()}
    report["plain"] = take_steps(training, PLAIN_STEPS)
    started = perf_counter()
    training.finish_first_epoch(seconds)
    report["fill_seconds"] = perf_counter() - started
    report["coverage"] = training.sampler.metrics()["coverage"]
    report["by_importance"] = take_steps(training, steps)
    return report | {"files": files_of(folder)}


def take_steps(training: MappedTraining, count: int) -> dict[str, Any]:
    """Take training steps and return what they took, and the probe's loss after them."""
    reset_peak()
    times = [training.step() for _ in range(count)]
    memory = Resident.now()
    return {
        "first_draw_ms": times[0].draw,
        "draw_ms": median(time.draw for time in times),
        "update_ms": median(time.update for time in times),
        "loss": training.probe_loss(),
        "anonymous": memory.anonymous,
        "mapped": memory.mapped,
        "peak": memory.peak,
    }


def files_of(folder: Path) -> dict[str, dict[str, int]]:
    """Return the bytes of each file, and how many of them are on disk."""
    stats = {path.name: path.stat() for path in sorted(folder.iterdir())}
    return {name: {"size": stat.st_size, "on_disk": BLOCK * stat.st_blocks} for name, stat in stats.items()}


def mapped_table(report: dict[str, Any]) -> str:
    """Return what training took, in Markdown."""
    seconds = report["fill_seconds"]
    lines = [
        f"{report['num_samples']:,} samples, history mapped: built in {report['build_seconds']:.1f} s, peak "
        f"{report['build_peak'] / 1e6:,.0f} MB; {report['coverage']:.1%} observed in {seconds:.0f} s\n",
        "| steps | draw ms | first | update ms | own MB | mapped MB | peak MB | loss before | after |",
        f"|---|{'---:|' * 8}",
    ]
    loss = report["loss"]
    for title, name in (("plain", "plain"), ("by importance", "by_importance")):
        steps = report[name]
        times = (steps["draw_ms"], steps["first_draw_ms"], steps["update_ms"])
        memory = (steps["anonymous"], steps["mapped"], steps["peak"])
        cells = (title, *(f"{time:.2f}" for time in times), *(f"{size / 1e6:,.0f}" for size in memory))
        lines.append(f"| {' | '.join(cells)} | {loss:.4f} | {steps['loss']:.4f} |")
        loss = steps["loss"]
    lines += ["\n| file | MB | on disk |", "|---|---:|---:|"]
    for name, file in report["files"].items():
        lines.append(f"| {name} | {file['size'] / 1e6:,.0f} | {file['on_disk'] / 1e6:,.0f} |")
    return "\n".join(lines)
