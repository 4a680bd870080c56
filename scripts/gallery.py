"""Show which samples a sampler draws least often and most often, and which of them look mislabelled.

Trains one network with draws by predicted importance, without a gate. Of each class the figure shows the images drawn
least often and most often since the first epoch, which visits each once: below an image is how often it was drawn and,
where it is not the label, the class that the network predicts in the end. The table lists the samples that look
mislabelled, see `suspects`. With --flip, some labels are changed at random first, and a line says how many of those
are found.

Reference:
    Johnson & Guestrin (2018), *Training Deep Models Faster with Robust, Approximate Importance Sampling*: the poster.

Examples:
    python scripts/gallery.py --out runs/gallery
    python scripts/gallery.py --dataset digits --batch-size 64 --steps 400 --flip 0.05 --out runs/flipped
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from configuration import OBSERVATIONS, Config
from gallery_plot import Drawn, are_images, plot_gallery
from models import TITLES, default_model
from options import json_object, positive
from plots import OPTIMIZER_NAMES
from recorded_training import RecordedTraining
from runs import write_atomically
from samples import InMemoryDataset
from suspects import Suspect, as_csv, find_suspects, flip_labels, steady_confidence, table, verdict
from tasks import Task, load_task
from watched_training import add_figure_options, figure_config


def main() -> None:
    """Run the script."""
    arguments = parse_arguments()
    try:
        config = config_of(arguments)
        task = load_task(config.dataset, arguments.data_dir)
        training = RecordedTraining(config, with_flipped_labels(task, arguments.flip, config.seed))
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f"gallery.py: error: {error}")
    for _ in tqdm(training.steps(), total=config.steps, unit="step"):
        pass
    probabilities = training.probabilities()
    if are_images(task):
        drawn = Drawn(training.draws, training.sampler.probabilities(), probabilities.argmax(1))
        plot_gallery(training.task, drawn, arguments.columns, title(training), arguments.out / "gallery.png")
    is_flipped = training.task.train.targets != task.train.targets
    suspects = suspects_of(training, probabilities, is_flipped)
    shown = table(suspects, arguments.rows)
    write_atomically(arguments.out / "suspects.md", shown)
    write_atomically(arguments.out / "suspects.csv", as_csv(suspects))
    print(f"{len(suspects):,} of {len(task.train):,} samples look mislabelled; the first {arguments.rows}:\n\n{shown}")
    if arguments.flip:
        print(verdict(suspects, int(is_flipped.sum()), arguments.rows))


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add_figure_options(parser, out="runs/gallery")
    option = parser.add_argument
    option("--predictor", default="rais", help="that chooses the samples (default: %(default)s)")
    option(
        "--predictor-options", type=json_object, default={}, metavar="JSON", help="keyword arguments of the predictor"
    )
    option("--k", type=float, default=Config.k, help="bias exponent, at most 1; 1 is unbiased (default: %(default)s)")
    option(
        "--observe",
        choices=OBSERVATIONS,
        default="upper-bound",
        help="what the sampler learns from (default: %(default)s)",
    )
    option("--batch-size", type=positive, default=Config.batch_size, metavar="B", help="(default: %(default)s)")
    option("--device", default=Config.device, help="where the network trains (default: %(default)s)")
    option("--columns", type=positive, default=5, metavar="N", help="images on either side (default: %(default)s)")
    option("--rows", type=positive, default=20, metavar="N", help="of the table (default: %(default)s)")
    option("--flip", type=share, default=0.0, metavar="SHARE", help="labels to change first (default: %(default)s)")
    return parser.parse_args()


def share(text: str) -> float:
    """Parse a share of things."""
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"must be in [0, 1]; got {value}")
    return value


def config_of(arguments: argparse.Namespace) -> Config:
    """Return the config of the command.

    Raises:
        ValueError: an option is out of bounds.
    """
    names = ("predictor", "predictor_options", "k", "observe", "batch_size", "device")
    return replace(figure_config(arguments), **{name: getattr(arguments, name) for name in names})


def with_flipped_labels(task: Task, share: float, seed: int) -> Task:
    """Return the task with that share of its training labels changed at random."""
    targets = flip_labels(task.train.targets, share, len(task.class_names), seed)
    return replace(task, train=InMemoryDataset(task.train.inputs, targets))


def suspects_of(training: RecordedTraining, probabilities: Tensor, is_flipped: Tensor) -> list[Suspect]:
    """Return the samples that look mislabelled, the most suspicious first.

    Args:
        training: that is over.
        probabilities: of each class for each sample in the end, float [N, C].
        is_flipped: whether a label was changed, bool [N].
    """
    samples = torch.arange(len(training.draws))
    counts = training.norms.counts(samples)
    norms, losses = training.norms.recent(samples), training.losses.recent(samples)
    labels, names = training.task.train.targets, training.task.class_names
    (probability, predicted), confidence = probabilities.max(1), steady_confidence(norms, counts)
    return [
        Suspect(
            index=index,
            label=names[int(labels[index])],
            predicted=names[int(predicted[index])],
            probability=float(probability[index]),
            confidence=float(confidence[index]),
            draws=int(training.draws[index]),
            losses=losses[index, : counts[index]].tolist(),
            norms=norms[index, : counts[index]].tolist(),
            is_flipped=bool(is_flipped[index]),
        )
        for index in find_suspects(confidence, labels, predicted).tolist()
    ]


def title(training: RecordedTraining) -> str:
    """Return what was trained and how, and what the figure counts."""
    config, task = training.config, training.task
    network = TITLES[config.model or default_model(task.input_shape, task.kind)]
    optimizer = f"{OPTIMIZER_NAMES[config.optimizer]} {config.lr:g}"
    mean = training.draws.double().mean()
    method = f"batches of {config.batch_size} by {config.predictor}, k = {config.k:g}"
    return (
        f"{task.title}, {network}, {optimizer}, {method}, seed {config.seed}\n"
        f"below an image: draws in the {config.steps - training.steps_per_epoch:,} steps after the "
        f"first epoch (mean {mean:.1f}), and the predicted class where it is another"
    )


if __name__ == "__main__":
    main()
