"""Draws on their way: made, handed to the workers, not yet back with their batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.checks import check_indices
from approx_is.draw import Draw, Ticket
from approx_is.importance_sampler import ImportanceSampler
from approx_is.loader import BatchRequest
from approx_is.state import check_at_least, check_like

__all__ = ["PendingDraws"]


class PendingDraws:
    """The batch sampler of the rebuilt loader: draws, numbers the draws, and keeps each until its batch is back.

    Args:
        sampler: makes the draws.
        num_batches: batches an epoch.

    Attributes:
        num_taken: batches of this epoch that the user has got.
        is_resuming: whether the next iteration goes on with an epoch rather than begin one.
    """

    def __init__(self, sampler: ImportanceSampler, num_batches: int) -> None:
        self.num_batches = num_batches
        self._sampler = sampler
        self._draws: dict[int, Draw] = {}
        self._next_serial = 0
        self.num_taken = 0
        self._iteration = 0
        self.is_resuming = False

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        return self.num_batches

    def __iter__(self) -> Iterator[BatchRequest]:
        """Ask for the draws that are pending from a resumed state, then for new ones until the epoch is full."""
        iteration = self._iteration
        for serial, draw in list(self._draws.items()):
            yield BatchRequest(serial, draw.listed())
        while iteration == self._iteration and self.num_taken + len(self._draws) < self.num_batches:
            draw = self._sampler.request()
            serial = self._next_serial
            self._next_serial += 1
            self._draws[serial] = draw
            yield BatchRequest(serial, draw.listed())

    def begin(self) -> int:
        """Begin an epoch, or go on with a restored one; return the number of this iteration."""
        if not self.is_resuming:
            self._forget()
            self._sampler.begin_epoch()
        self.is_resuming = False
        self._iteration += 1
        return self._iteration

    def is_unfinished(self, iteration: int) -> bool:
        """Return whether batches of the epoch are still to come.

        Raises:
            RuntimeError: a later iteration has begun meanwhile, or a state was loaded.
        """
        self._check_current(iteration)
        return self.num_taken < self.num_batches

    def find(self, serial: int, iteration: int) -> Draw:
        """Return the draw whose batch is back.

        Raises:
            RuntimeError: a later iteration has begun meanwhile, or a state was loaded.
        """
        self._check_current(iteration)
        return self._draws[serial]

    def hand_over(self, serial: int) -> None:
        """Forget a draw: the user gets its batch."""
        self.num_taken += 1
        del self._draws[serial]

    def pause(self, iteration: int) -> None:
        """Keep the draws on their way: the next iteration goes on with them."""
        if iteration == self._iteration:
            self.is_resuming = True
            self._iteration += 1

    def end(self, iteration: int) -> None:
        """End an epoch, at its end or broken off, and forget draws still on their way, unless it ended before."""
        if iteration == self._iteration:
            self._forget()

    def break_off(self) -> None:
        """End the epoch under way, if there is one."""
        self._forget()
        self.is_resuming = False
        self._iteration += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the pending draws and the place in the epoch."""
        return {
            "draws": [_draw_state(serial, draw) for serial, draw in self._draws.items()],
            "next_serial": self._next_serial,
            "taken": self.num_taken,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore pending draws and place; the next iteration goes on from there."""
        self.check_state_dict(state)
        self._draws = {
            entry["serial"]: self._sampler.restore_draw(
                entry["indices"],
                entry["probabilities"],
                entry["weights"],
                place=entry["place"] if entry["place"] >= 0 else None,
                drawn_at=entry["drawn_at"],
                choose=entry["choose"],
            )
            for entry in state["draws"]
        }
        self._next_serial = state["next_serial"]
        self.num_taken = state["taken"]
        self.is_resuming = bool(self._draws) or self.num_taken > 0
        self._iteration += 1  # ends an iteration that is under way

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        where = "load_state_dict(state)['pending']"
        check_like(state, self.state_dict(), where, skip=("draws",))
        if not isinstance(state["draws"], list):
            raise ValueError(f"`{where}['draws']` must be a list; got {type(state['draws']).__name__}.")
        for entry in state["draws"]:
            has_indices = isinstance(entry, Mapping) and isinstance(entry.get("indices"), Tensor)
            size = entry["indices"].numel() if has_indices else 0
            check_like(entry, _draw_state(0, _blank_draw(size)), f"{where}['draws']")
            check_indices(entry["indices"], self._sampler.num_held, f"{where}['draws']['indices']")
            check_at_least(entry, {"place": -1, "drawn_at": 0, "choose": 0}, f"{where}['draws']")
            if entry["choose"] and self._sampler.scorer is None:
                raise ValueError(
                    f"`{where}['draws']` must be batches; got candidates, which this predictor cannot score."
                )

    def _check_current(self, iteration: int) -> None:
        if iteration != self._iteration:
            raise RuntimeError(
                "This iteration over an `ApproxSampler` ended when another one began or a state was loaded. "
                "Finish one before the next."
            )

    def _forget(self) -> None:
        self._sampler.take_back(list(self._draws.values()))
        self._draws.clear()
        self.num_taken = 0


def _draw_state(serial: int, draw: Draw) -> dict[str, Any]:
    draw = draw.whole  # so that a state is that of any rank, and of any number of them
    ticket = draw._ticket or Ticket(None)
    return {
        "serial": serial,
        "indices": draw.indices,
        "probabilities": draw.probabilities,
        "weights": draw.weights,
        "place": -1 if ticket.place is None else ticket.place,
        "drawn_at": ticket.drawn_at,
        "choose": ticket.choose,
    }


def _blank_draw(size: int) -> Draw:
    return Draw(
        indices=torch.zeros(size, dtype=torch.int64),
        probabilities=torch.zeros(size, dtype=torch.float64),
        weights=torch.zeros(size, dtype=torch.float32),
    )
