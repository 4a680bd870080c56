"""The last observations of every sample."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from approx_is.checks import check_importance, check_indices, check_positive
from approx_is.duplicates import average_duplicates
from approx_is.gap_codes import GapCodes
from approx_is.state import check_like

__all__ = ["LossHistory"]


DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class LossHistory:
    """Remembers the last `window` observed importances of each of N samples, and when they were observed.

    A ring buffer a sample: appending overwrites the oldest observation. With the values are kept the steps between
    them, as bfloat16, or beside values of 16 bits in a byte each, a cursor and the last step: at window 10 these are 65
    bytes a sample in float32, and 35 in float16 or bfloat16.

    Args:
        num_samples: number of samples N.
        window: number of observations kept a sample, in [1, 127].
        dtype: of the stored values, float16, bfloat16, float32 or float64.
        device: where the buffers live.
        path: a directory for memory-mapped buffers, so that the history need not fit in memory (CPU only). Existing
            files there are overwritten: they go on changing after a state was saved, so that it is the state, with a
            copy of them, that a history is restored from.

    Raises:
        ValueError: a size is out of range, or `path` is combined with a device other than the CPU.

    Reference:
        Katharopoulos & Fleuret (2017), §3.3 and §4: the history :math:`H_t`, at most 10 losses a sample.

    Example:
        >>> history = LossHistory(num_samples=3, window=2)
        >>> for step, loss in enumerate([5.0, 4.0, 3.0]):
        ...     history.append(torch.tensor([1]), torch.tensor([loss]), step)
        >>> history.recent(torch.tensor([0, 1]))
        tensor([[0., 0.],
                [4., 3.]])
        >>> history.counts(torch.tensor([0, 1]))
        tensor([0, 2])
    """

    def __init__(
        self,
        num_samples: int,
        window: int = 10,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        path: str | Path | None = None,
    ) -> None:
        self.num_samples = check_positive(num_samples, "LossHistory(num_samples=...)")
        self.window = check_positive(window, "LossHistory(window=...)", at_most=127)
        if dtype not in DTYPES:
            raise ValueError(f"`LossHistory(dtype=...)` must be one of {', '.join(map(str, DTYPES))}; got {dtype}.")
        if path is not None and torch.device(device).type != "cpu":
            raise ValueError(
                f"`LossHistory(path=...)` is a file mapped into CPU memory; got device={device!s}. Drop one of the two."
            )
        self.device = torch.device(device)
        self.step = 0
        self._files: list[Path] = []
        self._values = self._buffer("values", (num_samples, window), dtype, path)
        self._gap_codes = GapCodes(self.device) if dtype.itemsize == 2 else None
        gap_dtype = torch.bfloat16 if self._gap_codes is None else torch.uint8
        self._gaps = self._buffer("gaps", (num_samples, window), gap_dtype, path)  # since the observation before
        self._writes = self._buffer("writes", (num_samples,), torch.uint8, path)
        self._last_step = self._buffer("last_step", (num_samples,), torch.int32, path)
        # the number of writes goes up to window - 1, and then through window … 2 window - 1 again and again
        writes = torch.arange(2 * window, device=self.device)
        self._next_writes = torch.where(writes == 2 * window - 1, window, writes + 1).to(torch.uint8)
        oldest = (writes - window).clamp(min=0).unsqueeze(1)
        self._slots_in_order = (oldest + torch.arange(window, device=self.device)) % window

    def append(self, indices: Tensor, values: Tensor, step: int) -> None:
        """Store one observation a sample; a sample that appears more than once gets the mean of its values.

        Args:
            indices: samples, int64 [B] in [0, N).
            values: their observed importance, float [B], finite and ≥ 0; 0 is an observation like any other.
            step: training step of the observation, not below any step before.

        Raises:
            ValueError: an index is out of range, the shapes differ, a value is negative or not finite, or `step` is
                below the last one.
        """
        indices = check_indices(indices, self.num_samples, "LossHistory.append(indices)").to(self.device)
        check_importance(values, indices.shape, "LossHistory.append(values)")
        if step < self.step:
            raise ValueError(f"`LossHistory.append(step)` must be at least {self.step}, the last one; got {step}.")
        values = values.detach().to(self.device)
        values = values if values.is_floating_point() else values.double()
        self.append_averaged(indices, average_duplicates(indices, values), step)

    def append_averaged(self, indices: Tensor, values: Tensor, step: int) -> None:
        """Append without checks what is already on the device and averaged, see `append`."""
        writes = self._writes.index_select(0, indices)
        slots = indices * self.window + writes % self.window
        values = values.to(self._values.dtype).clamp(max=torch.finfo(self._values.dtype).max)
        gaps = step - self._last_step.index_select(0, indices)
        self._values.view(-1).index_copy_(0, slots, values)
        self._gaps.view(-1).index_copy_(0, slots, self._encoded(gaps))
        self._last_step.index_fill_(0, indices, step)
        self._writes.index_copy_(0, indices, self._next_writes.index_select(0, writes.int()))
        self.step = step

    def recent(self, indices: Tensor) -> Tensor:
        """Return the stored observations, [B, T], oldest first, left-aligned, zero beyond the sample's count."""
        writes = self._writes.index_select(0, indices).int()
        return self._values.index_select(0, indices).gather(1, self._slots_in_order.index_select(0, writes))

    def gaps(self, indices: Tensor, step: int) -> Tensor:
        """Return how many steps passed after each observation, float32 [B, T], aligned as `recent`.

        Until the next observation of the sample, and until `step` for the latest; zero beyond the sample's count. Those
        until the next observation are rounded: to 3 parts in 1000 above 256 steps, or where the history is of 16 bits
        to 4.4 % above 16.
        """
        return self.read(indices, step)[1]

    def read(self, indices: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return `recent`, `gaps` and `counts` at once, which is faster than one after the other."""
        writes = self._writes.index_select(0, indices)
        counts = writes.clamp(max=self.window).long()
        slots = self._slots_in_order.index_select(0, writes.int())
        values = self._values.index_select(0, indices).gather(1, slots)
        before = self._decoded(self._gaps.index_select(0, indices).gather(1, slots))
        gaps = before.roll(-1, 1)  # what passed after one passed before the next
        gaps[:, -1] = 0
        latest = (step - self._last_step.index_select(0, indices)) * (counts > 0)
        gaps.scatter_(1, (counts - 1).clamp_(min=0).unsqueeze(1), latest.float().unsqueeze(1))
        return values, gaps, counts

    def last(self, indices: Tensor) -> Tensor:
        """Return the latest observation of each sample, [B]; 0 where there is none."""
        writes = self._writes.index_select(0, indices)
        slots = indices * self.window + (writes - 1) % self.window  # some slot of zeros where there is none
        return self._values.view(-1).index_select(0, slots)

    def spread(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return smallest, mean and number of the stored observations of each sample; 0 where there are none.

        Returns:
            float32 [B] twice, and int64 [B].
        """
        counts = self.counts(indices)
        stored = self._values.index_select(0, indices).float()  # in no order, 0 where nothing is stored yet
        empty = torch.arange(self.window, device=self.device) >= counts.clamp(min=1).unsqueeze(1)
        mean = stored.sum(1) / counts.clamp(min=1)
        return stored.masked_fill_(empty, torch.inf).amin(1), mean, counts

    def means_after(self, indices: Tensor, values: Tensor) -> Tensor:
        """Return the mean of each sample's window as it would be with `values`, float [B], appended: float32 [B]."""
        writes = self._writes.index_select(0, indices).long()
        stored = self._values.index_select(0, indices).float()  # in no order, 0 where nothing is stored yet
        stored.scatter_(1, (writes % self.window).unsqueeze(1), values.float().unsqueeze(1))
        return stored.sum(1) / (writes + 1).clamp(max=self.window)

    def last_step(self, indices: Tensor) -> Tensor:
        """Return the step of the latest observation of each sample, int32 [B]; 0 where there is none."""
        return self._last_step.index_select(0, indices)

    def counts(self, indices: Tensor) -> Tensor:
        """Return how many observations are stored of each sample, int64 [B] in [0, window]."""
        return self._writes.index_select(0, indices).clamp(max=self.window).long()

    def have_all_been_seen(self, indices: Tensor) -> bool:
        """Return whether each of these samples, int64 [B], was observed; waits for an accelerator."""
        return len(indices) == 0 or int(self._writes.index_select(0, indices).min()) > 0

    def coverage(self) -> Tensor:
        """Return the share of samples observed at least once, a scalar. Reads one byte of every sample."""
        return self._writes.count_nonzero() / self.num_samples

    def metrics(self, step: int, epoch_steps: float) -> dict[str, float]:
        """Return figures about what is known, at a step; reads five bytes of every sample.

        - `coverage`: share of samples observed at least once.
        - `epoch_coverage`: share observed within the last epoch, `epoch_steps` steps.
        - `staleness`: mean age of the latest observation in epochs, over samples that have one; NaN if none has.
        """
        num_seen = int(self._writes.count_nonzero())
        num_recent = int((self._last_step > max(math.floor(step - epoch_steps), 0)).count_nonzero())
        mean_step = float(self._last_step.sum(dtype=torch.int64)) / num_seen if num_seen else math.nan
        return {
            "coverage": num_seen / self.num_samples,
            "epoch_coverage": num_recent / self.num_samples,
            "staleness": (step - mean_step) / epoch_steps,
        }

    def flush(self) -> None:
        """Write a memory-mapped history to the disk, as far as the system has not yet; else do nothing."""
        for file in self._files:
            with file.open("rb+") as mapped:
                os.fsync(mapped.fileno())

    def state_dict(self) -> dict[str, Any]:
        """Return the buffers (not copied) and the last step."""
        return {
            "values": self._values,
            "gaps": self._gaps,
            "writes": self._writes,
            "last_step": self._last_step,
            "step": self.step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy a state into the buffers; raise `ValueError` before changing anything if it does not fit."""
        where = "LossHistory.load_state_dict(state)"
        check_like(state, self.state_dict(), where)
        if int(state["writes"].max()) >= 2 * self.window:
            raise ValueError(f"`{where}['writes']` must be below {2 * self.window}; the state is damaged.")
        for name, buffer in self.state_dict().items():
            if isinstance(buffer, Tensor):
                buffer.copy_(state[name])
        self.step = int(state["step"])

    def _encoded(self, gaps: Tensor) -> Tensor:
        return gaps.to(torch.bfloat16) if self._gap_codes is None else self._gap_codes.encode(gaps)

    def _decoded(self, gaps: Tensor) -> Tensor:
        return gaps.float() if self._gap_codes is None else self._gap_codes.decode(gaps)

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, path: str | Path | None) -> Tensor:
        if path is None:
            return torch.zeros(shape, dtype=dtype, device=self.device)
        Path(path).mkdir(parents=True, exist_ok=True)
        size = int(torch.Size(shape).numel())
        self._files.append(Path(path) / f"{name}.bin")
        return torch.from_file(str(self._files[-1]), shared=True, size=size, dtype=dtype).view(shape).zero_()
