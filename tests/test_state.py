"""States are checked before any of them is loaded."""

from collections import OrderedDict

import pytest
import torch

from approx_is.state import check_at_least, check_like

REFERENCE = {
    "buffer": torch.zeros(2, 3),
    "parts": [torch.zeros(1, dtype=torch.int64), {"depth": 2}],
    "step": 3,
    "decay": 0.5,
    "name": "adaptive",
    "none": None,
}


def changed(**entries):
    return {**REFERENCE, **entries}


@pytest.mark.parametrize(
    "state",
    [
        REFERENCE,
        changed(buffer=torch.ones(2, 3), step=7, decay=0.1, name="other"),
        OrderedDict(reversed(REFERENCE.items())),
    ],
    ids=["same", "other values", "other order"],
)
def test_states_of_the_same_structure_pass(state):
    check_like(state, REFERENCE, "state")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, r"`state` must be a dict; got NoneType"),
        ([], r"`state` must be a dict; got list"),
        ({}, r"`state` has not the expected entries: missing \['buffer', .*'step'\], unknown \[\]"),
        (changed(extra=1), r"missing \[\], unknown \['extra'\]"),
        (changed(buffer=[[0.0] * 3] * 2), r"`state\['buffer'\]` must be a tensor; got list"),
        (changed(buffer=torch.zeros(3, 2)), r"float32 \[2, 3\]; got torch\.float32 \[3, 2\]\. .*another data set"),
        (changed(buffer=torch.zeros(2, 3).double()), r"float32 \[2, 3\]; got torch\.float64 \[2, 3\]"),
        (changed(parts=REFERENCE["parts"][:1]), r"`state\['parts'\]` must be a list of 2 entries"),
        (changed(parts=tuple(REFERENCE["parts"])), r"`state\['parts'\]` must be a list of 2 entries"),
        (changed(parts=[REFERENCE["parts"][0], {"depth": "2"}]), r"`state\['parts'\]\[1\]\['depth'\]` must be of type"),
        (changed(step=3.0), r"`state\['step'\]` must be of type int; got float"),
        (changed(step=True), r"`state\['step'\]` must be of type int; got bool"),
        (changed(decay=1), r"`state\['decay'\]` must be of type float; got int"),
        (changed(none=0), r"`state\['none'\]` must be of type NoneType; got int"),
    ],
)
def test_states_of_another_structure_are_refused_by_name(state, message):
    with pytest.raises(ValueError, match=message):
        check_like(state, REFERENCE, "state")


def test_a_tensor_is_no_number():
    with pytest.raises(ValueError, match=r"`step` must be of type int; got Tensor"):
        check_like(torch.tensor(1), 1, "step")


def test_entries_below_their_bounds_are_named():
    state = {"count": 0, "rows": torch.tensor([2.0, -0.5])}
    check_at_least(state, {"count": 0}, "state")
    with pytest.raises(ValueError, match=r"`state\['count'\]` must be at least 1; got 0\. The state is damaged"):
        check_at_least(state, {"count": 1}, "state")
    with pytest.raises(ValueError, match=r"`state\['rows'\]` must be at least 0; got -0\.5"):
        check_at_least(state, {"rows": 0}, "state")
