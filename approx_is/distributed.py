"""Keeping the ranks of `torch.distributed` in step: all hold the same sampler, or each a shard of the data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from approx_is import host
from approx_is.draw import Draw
from approx_is.ranks import Ranks, share_of

__all__ = ["Replicated", "Sharded", "find_ranks"]

FINGERPRINTS = 2**20
"""Sums are compared modulo this: float32 holds them exactly."""


def find_ranks(num_samples: int, batch_size: int, process_group: dist.ProcessGroup | None, *, shard: bool) -> Ranks:
    """Return the ranks of a process group; None for all there are, if `torch.distributed` was initialised.

    Args:
        num_samples: size N of the data set.
        batch_size: draws of each rank in a batch, as a rule.
        process_group: of this process and those it trains with.
        shard: whether each is to hold a shard of the data set.

    Raises:
        ValueError: this process is not in the group, there is none to shard over, or there are fewer samples.
    """
    if process_group is None and not (dist.is_available() and dist.is_initialized()):
        if shard:
            raise ValueError(
                "`shard=True` needs ranks to shard over: call torch.distributed.init_process_group() first, and run "
                "under torchrun."
            )
        return Ranks(num_samples)
    group = dist.group.WORLD if process_group is None else process_group
    if group is None or dist.get_rank(group) < 0:
        raise ValueError("`process_group` must be one that this process is in. Build the sampler on its ranks only.")
    if dist.get_world_size(group) == 1:
        return Ranks(num_samples)
    return Sharded(group, num_samples) if shard else Replicated(group, num_samples, batch_size)


class _GroupRanks(Ranks):
    """Ranks that are those of a process group."""

    def __init__(self, group: dist.ProcessGroup, num_samples: int) -> None:
        super().__init__(num_samples, rank=dist.get_rank(group), size=dist.get_world_size(group))
        self._group = group

    def check_agreement(self, facts: Mapping[str, Any]) -> None:
        """Raise `ValueError`, on all ranks alike, unless all say the same."""
        answers: list[Any] = [None] * self.size
        with _explained():
            dist.all_gather_object(answers, dict(facts), group=self._group)
        for name in facts:
            found = [answer[name] for answer in answers]
            if any(value != found[0] for value in found):
                raise ValueError(
                    f"`{name}` must be the same on all ranks; got {', '.join(map(str, found))}. Samplers of ranks that "
                    "are to have nothing to do with each other need a `process_group` each, of that rank alone."
                )

    def _sendable(self, values: Tensor) -> Tensor:
        return values.cuda() if dist.get_backend(self._group) == "nccl" else values


class Replicated(_GroupRanks):
    """All ranks hold the same sampler, draw the same batch, train on a part each, and learn from what all observe.

    W ranks with batches of b draw what one process with batches of W b draws. All know what the others drew, and so
    nothing but the observations is sent, 4 bytes a sample.
    """

    def __init__(self, group: dist.ProcessGroup, num_samples: int, batch_size: int) -> None:
        super().__init__(group, num_samples)
        self.num_drawing_together = self.size
        self._batch_size = batch_size

    def part(self, whole: Draw) -> Draw:
        """Return this rank's share, its weights such that the mean over ranks is the weighted mean of the whole."""
        share = share_of(len(whole), self.size, self.rank)
        weights = whole.weights[share.samples]
        return whole.part(
            whole.indices[share.samples],
            whole.probabilities[share.samples],
            weights if share.factor == 1 else weights * share.factor,
            is_plain=share.factor == 1,
        )

    def own_positions(self, positions: Tensor, candidates: Draw) -> Tensor:
        """Return those in this rank's share, as it counts its own candidates."""
        own = share_of(len(positions), self.size, self.rank)
        return positions[own.samples] - share_of(len(candidates), self.size, self.rank).start

    def gather(self, values: Tensor, whole: Draw) -> Callable[[], Tensor]:
        """Begin to gather what all ranks observed, while they go on; return a function that waits for it."""
        # nobody's share is longer than the first one's; as much is sent of smaller batches, for ranks that are out of
        # step to be told so
        length = max(self._batch_size, share_of(len(whole), self.size, 0).length)
        sent = torch.zeros(length + 2, dtype=torch.float32, device=whole.indices.device)
        sent[: len(values)] = values
        sent[-2:] = _fingerprint(whole)
        sent = self._sendable(sent)
        received = [torch.empty_like(sent) for _ in range(self.size)]
        with _explained():
            work = dist.all_gather(received, sent, group=self._group, async_op=True)

        def wait() -> Tensor:
            with _explained():
                work.wait()
            rows = torch.stack(received).to(whole.indices.device)
            if host.is_on_host(rows) and not bool((rows[:, -2:] == rows[self.rank, -2:]).all()):
                raise RuntimeError(
                    "Ranks have drawn different batches: their samplers are no longer the same. Seeds, states and the "
                    "order of draws and updates must be the same on all ranks."
                )
            # of a batch smaller than the number of ranks the first have all there is
            shares = [share_of(len(whole), self.size, rank) for rank in range(min(self.size, len(whole)))]
            parts = [row[: share.length] for row, share in zip(rows, shares, strict=False)]
            return torch.cat(parts)

        return wait

    @property
    def clock(self) -> Callable[[], float] | None:
        """Returns the time of the first rank's clock, in seconds."""
        return self._first_rank_s_time

    def _first_rank_s_time(self) -> float:
        seconds = self._sendable(torch.tensor([perf_counter()], dtype=torch.float64, device="cpu"))
        with _explained():
            dist.broadcast(seconds, src=dist.get_global_rank(self._group, 0), group=self._group)
        return float(seconds)


class Sharded(_GroupRanks):
    r"""Each rank holds every W-th sample, draws from its own, and weighs by its own probabilities.

    Nothing is sent. The mean over ranks of their unbiased estimates is one of the mean over the data set. Shards of
    :math:`N_r` samples may differ in size by one, and so weights are multiplied by :math:`W N_r / N`.
    """

    def __init__(self, group: dist.ProcessGroup, num_samples: int) -> None:
        super().__init__(group, num_samples)
        if num_samples < self.size:
            raise ValueError(
                f"`shard=True` needs at least one sample for each of {self.size} ranks; got {num_samples} in all."
            )
        self._num_samples = num_samples
        self.num_held = len(range(self.rank, num_samples, self.size))
        self._factor = self.size * self.num_held / num_samples

    @property
    def shard(self) -> str:
        """Which samples are held, for a state to say."""
        return f"{self.rank} of {self.size}"

    def epoch_size(self, *, drop_last: bool) -> int:
        """Return the size of the first shard, or of the last, which has one sample fewer if they differ."""
        return self._num_samples // self.size if drop_last else -(-self._num_samples // self.size)

    def held(self, values: Tensor | None) -> Tensor | None:
        """Return every W-th value."""
        return None if values is None else values[self.rank :: self.size].clone()

    def places(self, indices: Tensor) -> Tensor:
        """Return the places of samples among those held."""
        if bool((indices % self.size != self.rank).any()):
            raise ValueError(
                f"With `shard=True` rank {self.rank} of {self.size} knows {self.rank}, {self.rank + self.size}, "
                "… only; got others. Ask their ranks."
            )
        return indices // self.size

    def part(self, whole: Draw) -> Draw:
        """Return the draw, with the data set's indices, and weights that make up for unequal shards."""
        return whole.part(
            whole.indices * self.size + self.rank,
            whole.probabilities,
            whole.weights if self._factor == 1 else whole.weights * self._factor,
            is_plain=self._factor == 1,
        )

    def mean(self, value: float) -> float:
        """Return the mean over ranks; to be called by all of them."""
        values = self._sendable(torch.tensor([value], dtype=torch.float64, device="cpu"))
        with _explained():
            dist.all_reduce(values, group=self._group)
        return float(values) / self.size


def _fingerprint(whole: Draw) -> Tensor:
    """Return what two different draws hardly ever have in common, float32 [2]."""
    chances = whole.probabilities.sum().view(torch.int64)
    return torch.stack([whole.indices.sum(), chances]).remainder(FINGERPRINTS).float()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"A sampler could not reach the other ranks; one may be gone, late or out of step: {error}. Every rank "
            "must draw and update as often as the others; the timeout is that of torch.distributed.init_process_group."
        ) from error
