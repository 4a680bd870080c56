"""Samples of collated batches: every form that collate functions return, and what is refused."""

import collections
import dataclasses
import types
from typing import NamedTuple

import numpy as np
import pytest
import torch
from laws import assert_same
from torch.utils.data import default_collate

from approx_is.batches import select, split

POSITIONS = torch.tensor([4, 0, 0, 5])


class Pair(NamedTuple):
    x: torch.Tensor
    name: list


@dataclasses.dataclass(frozen=True)
class Record:
    x: torch.Tensor
    name: list
    length: int = dataclasses.field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "length", len(self.x))


@dataclasses.dataclass
class Particular:
    x: torch.Tensor
    secret: dataclasses.InitVar[int]


class Encoding(collections.UserDict):
    """A mapping that is no dict, built from one."""


class Named(collections.abc.Mapping):
    """A mapping that cannot be built from a dict alone."""

    def __init__(self, content, name):
        self.content, self.name = content, name

    def __getitem__(self, key):
        return self.content[key]

    def __iter__(self):
        return iter(self.content)

    def __len__(self):
        return len(self.content)


def tensor(size=6):
    return torch.arange(2 * size).view(size, 2)


def names(size=6):
    return [f"sample {position}" for position in range(size)]


BATCHES = {
    "tensor": tensor(),
    "array": tensor().numpy(),
    "strings": np.array(names()),
    "list": [tensor(), tensor().float()],
    "pair": (tensor(), names()),
    "tuple of strings": (tensor(), tuple(names())),
    "numbers": (tensor(), [0.5, None, 2, True, np.float32(3), "x"]),
    "dict": {"x": tensor(), "name": names(), "inner": {"deep": [tensor(), tensor()]}},
    "None": (tensor(), None, {"mask": None}),
    "named tuple": Pair(tensor(), names()),
    "objects": {"x": tensor(), "path": [types.SimpleNamespace(name=name) for name in names()]},
}


def pick(value, positions):
    """The same by another way: one sample after the other, by Python's own indexing."""
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        return torch.stack([value[position] for position in positions])
    if isinstance(value, np.ndarray):
        return np.stack([value[position] for position in positions])
    if isinstance(value, dict):
        return {key: pick(part, positions) for key, part in value.items()}
    if isinstance(value, Pair):
        return Pair(*(pick(part, positions) for part in value))
    if any(isinstance(part, torch.Tensor) for part in value):
        return type(value)(pick(part, positions) for part in value)
    return type(value)(value[position] for position in positions)


def as_plain(value):
    """Arrays as lists, which `assert_same` compares."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: as_plain(part) for key, part in value.items()}
    return value


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
class TestForms:
    def test_select_takes_the_samples_and_keeps_the_form(self, batch):
        found, expected = select(batch, POSITIONS), pick(batch, POSITIONS.tolist())
        assert type(found) is type(expected)
        assert_same(as_plain(found), as_plain(expected))

    @pytest.mark.parametrize("chunk", [1, 4, 6, 100])
    def test_split_gives_every_sample_once_in_order(self, batch, chunk):
        parts = list(split(batch, 6, chunk))
        starts = range(0, 6, chunk)
        assert [count for _, count in parts] == [min(chunk, 6 - start) for start in starts]
        for (part, count), start in zip(parts, starts, strict=True):
            assert_same(as_plain(part), as_plain(pick(batch, range(start, start + count))))


def test_select_of_what_default_collate_returns():
    samples = [(np.float32(row), {"y": row, "name": f"{row}", "pair": (row, f"{row}")}) for row in range(5)]
    found = select(default_collate(samples), torch.tensor([3, 1, 3]))
    assert_same(found, default_collate([samples[3], samples[1], samples[3]]))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_as_many_tensors_as_samples_are_still_a_container(size):
    batch = tuple(tensor(size) for _ in range(size))
    found = select(batch, torch.tensor([size - 1]))
    assert isinstance(found, tuple)
    assert_same(found, tuple(tensor(size)[-1:] for _ in range(size)))


@pytest.mark.parametrize("kind", [collections.OrderedDict, Encoding, types.MappingProxyType])
def test_mappings_keep_their_class(kind):
    found = select(kind({"x": tensor(), "name": names()}), POSITIONS)
    assert type(found) is kind
    assert_same(dict(found), {"x": tensor()[POSITIONS], "name": [names()[position] for position in POSITIONS]})


@pytest.mark.parametrize("batch", [Named({"x": tensor()}, "name"), collections.defaultdict(list, x=tensor())])
def test_mappings_that_cannot_be_rebuilt_become_dicts(batch):
    assert_same(select(batch, POSITIONS), {"x": tensor()[POSITIONS]})


def test_dataclasses_are_built_anew_from_the_samples():
    found = select(Record(tensor(), names()), POSITIONS)
    assert isinstance(found, Record)
    assert (found.length, found.name) == (4, [names()[position] for position in POSITIONS])
    assert torch.equal(found.x, tensor()[POSITIONS])


def test_the_batch_itself_stays_as_it_was():
    batch = {"x": tensor(), "name": names()}
    select(batch, POSITIONS)["x"].zero_()
    assert_same(batch, {"x": tensor(), "name": names()})


def test_chunks_are_views_of_the_batch():
    batch = {"x": tensor(), "array": tensor().numpy()}
    for part, _ in split(batch, 6, 4):
        part["x"].zero_()
        part["array"][:] = 0
    assert not batch["x"].any()
    assert not batch["array"].any()


def test_no_positions_give_an_empty_batch():
    found = select((tensor(), names()), torch.empty(0, dtype=torch.int64))
    assert found[0].shape == (0, 2)
    assert found[1] == []


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ("text", r"`batch` must have a value for each sample; got str\."),
        (7, r"`batch` must have a value for each sample; got int\."),
        ({1, 2}, r"`batch` must have a value for each sample; got set\."),
        (None, r"`batch` must have a value for each sample; got a NoneType of none\."),
        ({}, r"`batch` must have a value for each sample; got a dict of none\."),
        ((tensor(), 0.1), r"`batch\[1\]` must have a value for each sample; got float\."),
        ({"x": tensor(), "split": "train"}, r"`batch\['split'\]` must have a value for each sample; got str\."),
        (Pair(tensor(), "text"), r"`batch\.name` must have a value for each sample; got str\."),
        (Record(tensor(), "text"), r"`batch\.name` must have a value for each sample; got str\."),
        ((tensor(), torch.tensor(1)), r"`batch\[1\]` must have a value for each sample; got a single number\."),
        (
            (tensor(), {"w": torch.ones(10)}),
            r"`batch\[1\]\['w'\]` must have the 6 .* got a Tensor of shape \[10\]",
        ),
        ((tensor(), np.ones((5, 3))), r"`batch\[1\]` must have the 6 samples .* got a ndarray of shape \[5, 3\]"),
        (
            {"x": tensor(), "size": [224, 224]},
            r"`batch\['size'\]` must have the 6 .* got a list of shape \[2\]",
        ),
        ([tensor(), []], r"`batch\[1\]` must have the 6 samples .* got a list of shape \[0\]"),
    ],
)
def test_what_does_not_belong_to_each_sample_is_refused_with_the_remedy(batch, message):
    remedy = r".*Pass `predictor_options=\{'select': \.\.\.\}`"
    with pytest.raises(ValueError, match=message + remedy):
        select(batch, POSITIONS)
    with pytest.raises(ValueError, match=message + remedy):
        split(batch, 6, 2)


def test_a_batch_of_another_size_cannot_be_split():
    with pytest.raises(ValueError, match=r"`batch\[0\]` must have the 6 samples .* got a Tensor of shape \[5, 2\]"):
        split((tensor(5), names(5)), 6, 2)


def test_a_dataclass_that_needs_more_than_its_fields_is_refused():
    with pytest.raises(ValueError, match=r"A Particular could not be built from its samples: .*secret.*'select'"):
        select(Particular(tensor(), secret=3), POSITIONS)


@pytest.mark.parametrize("positions", [torch.tensor([0, 6]), torch.tensor([-1])])
def test_positions_outside_the_batch_are_refused(positions):
    with pytest.raises(ValueError, match=r"`select\(positions\)` must be in \[0, 6\); got entries from"):
        select((tensor(), names()), positions)


@pytest.mark.parametrize("chunk", [0, -1])
def test_chunks_of_nothing_are_refused(chunk):
    with pytest.raises(ValueError, match=r"`split\(chunk=\.\.\.\)` must be at least 1; got"):
        split(tensor(), 6, chunk)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinning and devices need a GPU")
def test_samples_stay_where_the_batch_is_and_pinned():
    found = select((tensor().cuda(), tensor().pin_memory()), POSITIONS)
    assert found[0].is_cuda
    assert torch.equal(found[0].cpu(), tensor()[POSITIONS])
    assert found[1].is_pinned()
