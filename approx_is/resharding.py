"""States of sharded samplers, for another number of ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from approx_is.checks import check_positive
from approx_is.sum_tree import SumTree

__all__ = ["reshard"]

PER_SAMPLE = (
    *(("learner", "history", name) for name in ("values", "gaps", "writes", "last_step")),
    ("drawer", "proposal", "tree", "leaves"),
    ("learner", "predictor", "ranks"),
    ("learner", "predictor", "features", "rows"),
)
"""Where a state of `ImportanceSampler` holds a row a sample."""

RANKS = ("learner", "predictor", "ranks")
"""Of these the rows are places among the samples of the shard; between shards, among all samples."""

State = Mapping[str, Any]


def reshard(states: Sequence[State], size: int) -> list[dict[str, Any]]:
    """Return the states that samplers with `shard=True` on another number of ranks go on from.

    Every sample keeps its history and its prediction. What a rank learned as a whole, as the network of `lstm`, is that
    of one of the old ranks. New are the draws' random numbers; an epoch under way begins anew, without the draws that
    were on their way; and observations that were not learned from yet, of less than `update_every` updates, are left
    out. A predictor of your own is resharded if it keeps nothing a sample, or keeps it in the history.

    Args:
        states: of `ApproxSampler` or `ImportanceSampler`, one of each old rank, in order; or that of a process alone.
        size: number of new ranks, at most as many as there are samples; 1 for a process alone.

    Returns:
        The states of the new ranks, in order.

    Raises:
        ValueError: the states are not those of all ranks in order, or `size` is out of bounds.
    """
    if not states:
        raise ValueError("`reshard(states)` must be the state of each rank; got none.")
    if "pending" in states[0]:
        inner = reshard([state["sampler"] for state in states], size)
        return [_with_loader(states[rank % len(states)], new) for rank, new in enumerate(inner)]
    expected = [_shard(rank, len(states)) for rank in range(len(states))]
    found = [state["shard"] for state in states]
    if found != expected:
        raise ValueError(f"`reshard(states)` must be those of all ranks in order, shards {expected}; got {found}.")
    num_samples = states[0]["num_samples"]
    size = check_positive(size, "reshard(size)", at_most=num_samples)
    rows = {path: _interleaved([_rows(state, path) for state in states], num_samples) for path in _paths(states[0])}
    return [_new_state(states[rank % len(states)], rows, rank, size) for rank in range(size)]


def _new_state(old: State, rows: Mapping[tuple[str, ...], Tensor], rank: int, size: int) -> dict[str, Any]:
    new: dict[str, Any] = _copied(old)
    num_held, num_held_before = len(range(rank, old["num_samples"], size)), len(_at(old, PER_SAMPLE[2]))
    for path, values in rows.items():
        own = values[rank::size].clone()
        if path == RANKS:
            own = (own * num_held // old["num_samples"]).to(_at(old, path).dtype)
        _at(new, path[:-1])[path[-1]] = own
    new["shard"] = _shard(rank, size)
    learner, drawer, backlog = new["learner"], new["drawer"], new["feedback"]["backlog"]
    learner |= {"cursor": 0, "unsettled": num_held, "outdated": num_held}
    backlog["lessons"] = []
    proposal, epochs = drawer["proposal"], drawer["epochs"]
    tree = SumTree(num_held)
    tree.set_values(torch.arange(num_held), proposal["tree"]["leaves"].cpu())
    proposal["tree"] = tree.state_dict()
    draws, order = np.random.SeedSequence(epochs["seed"], spawn_key=(3, size, rank)).generate_state(2)
    epochs |= {"seed": int(order), "place": epochs["place"] // num_held_before * num_held}
    proposal |= {"stock": 0, "count": 0}
    generator = torch.Generator().manual_seed(int(draws)).get_state()
    if proposal["generator"].shape == generator.shape:  # that of the CPU; others go on as they were
        proposal["generator"] = generator
    return new


def _shard(rank: int, size: int) -> str:
    return "all" if size == 1 else f"{rank} of {size}"


def _rows(state: State, path: tuple[str, ...]) -> Tensor:
    rows: Tensor = _at(state, path)
    return rows.long() * state["num_samples"] // len(rows) if path == RANKS else rows


def _with_loader(old: State, sampler: dict[str, Any]) -> dict[str, Any]:
    return {**old, "sampler": sampler, "pending": {**old["pending"], "draws": [], "taken": 0}}


def _paths(state: State) -> list[tuple[str, ...]]:
    return [path for path in PER_SAMPLE if path[:2] != RANKS[:2] or _has(state, path)]


def _interleaved(shards: Sequence[Tensor], num_samples: int) -> Tensor:
    values = shards[0].new_empty((num_samples, *shards[0].shape[1:]))
    for rank, shard in enumerate(shards):
        values[rank :: len(shards)] = shard
    return values


def _at(state: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        state = state[name]
    return state


def _has(state: Any, path: tuple[str, ...]) -> bool:
    for name in path:
        if not isinstance(state, Mapping) or name not in state:
            return False
        state = state[name]
    return True


def _copied(state: Any) -> Any:
    """Return the dicts and lists copied, tensors as they are."""
    if isinstance(state, Mapping):
        return {name: _copied(value) for name, value in state.items()}
    return [_copied(value) for value in state] if isinstance(state, list) else state
