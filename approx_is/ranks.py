"""Who holds which samples, who trains on which part of a draw, and what all get to know: here, one process alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from approx_is.draw import Draw

__all__ = ["Ranks", "Share", "share_of"]


class Ranks:
    """What a sampler asks of the ranks that it is one of. This is a process alone: it holds and draws everything.

    Args:
        num_samples: size N of the data set.

    Attributes:
        rank: number of this one.
        size: how many there are, W.
        num_drawing_together: how many share a draw, W or 1.
        num_held: how many samples this one holds.
    """

    def __init__(self, num_samples: int, *, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.num_drawing_together = 1
        self.num_held = num_samples

    @property
    def shard(self) -> str:
        """Which samples are held, for a state to say."""
        return "all"

    def epoch_size(self, *, drop_last: bool) -> int:
        """Return how many samples make up an epoch, the same on all ranks: the most that one holds, or the fewest."""
        return self.num_held

    def held(self, values: Tensor | None) -> Tensor | None:
        """Return the values, [N], of the samples held."""
        return values

    def places(self, indices: Tensor) -> Tensor:
        """Return the places that samples of the data set have among those held, int64 [B].

        Raises:
            ValueError: one is not held.
        """
        return indices

    def part(self, whole: Draw) -> Draw:
        """Return the part of a draw that this rank trains on, with the data set's indices."""
        return whole

    def own_positions(self, positions: Tensor, candidates: Draw) -> Tensor:
        """Return this rank's part of positions chosen among candidates of all, int64 [B], among its own."""
        return positions

    def gather(self, values: Tensor, whole: Draw) -> Callable[[], Tensor]:
        """Begin to gather what was observed of a draw, float [part]; return a function that waits for it: [whole].

        Raises:
            RuntimeError: here or when waiting, another rank is gone or late, or had another draw.
        """
        return lambda: values

    def check_agreement(self, facts: Mapping[str, Any]) -> None:
        """Raise `ValueError`, on all ranks alike, unless all say the same."""

    def mean(self, value: float) -> float:
        """Return the mean over ranks that draw by themselves; to be called by all of them."""
        return value

    @property
    def clock(self) -> Callable[[], float] | None:
        """Returns the time in seconds, the same for all that are to decide alike by it; None for one's own clock."""
        return None


@dataclass(frozen=True)
class Share:
    """What one rank gets of a batch.

    Attributes:
        start: its first sample there.
        length: how many it gets, one at least.
        factor: what its mean is to be multiplied by, for the mean over ranks to be that of the batch.
    """

    start: int
    length: int
    factor: float

    @property
    def samples(self) -> slice:
        """Where its samples are in the batch."""
        return slice(self.start, self.start + self.length)


def share_of(batch_size: int, num_ranks: int, rank: int) -> Share:
    """Return what a rank gets of a batch: consecutive samples, as many as the others or one fewer.

    Of a batch smaller than the number of ranks some samples go to several of them: nobody's batch may be empty.

    Example:
        >>> share_of(7, 2, 1)
        Share(start=4, length=3, factor=0.8571428571428571)
        >>> share_of(2, 3, 2)
        Share(start=0, length=1, factor=0.75)
    """
    if batch_size < num_ranks:
        start = rank % batch_size
        copies = len(range(start, num_ranks, batch_size))
        return Share(start, 1, num_ranks / (batch_size * copies))
    length, rest = divmod(batch_size, num_ranks)
    start = rank * length + min(rank, rest)
    length += rank < rest
    return Share(start, length, num_ranks * length / batch_size)
