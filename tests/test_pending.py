import math
from collections import deque
from itertools import islice

import pytest
import torch
from laws import assert_same, assert_same_draws, assert_unchanged, make_sampler, snapshot, through_file
from sample_sets import Numbers
from torch.utils.data import DataLoader

from approx_is import ApproxSampler, VarianceGate
from approx_is.pending import PendingDraws
from approx_is.predictors import UniformPredictor


class Scoring(UniformPredictor):
    """Scores three candidates a draw."""

    least_tau = 2.0
    needs_tau = False

    def sizes(self, batch_size, tau):
        return 3 * batch_size, batch_size

    def score(self, batch, size, chunk):
        return torch.ones(size)

    def select(self, batch, positions):
        return batch[positions]


def make_pending(num_samples=10, batch_size=4, num_batches=3, **arguments):
    return PendingDraws(make_sampler(num_samples, batch_size, **arguments), num_batches)


def take(pending, serial, iteration):
    """Take a draw as the loop does when its batch is back."""
    draw = pending.find(serial, iteration)
    pending.hand_over(serial)
    return draw


def take_epoch(pending, ahead=0):
    """Take an epoch's draws in the order of the requests, with some requests made ahead."""
    iteration, requests, draws = pending.begin(), iter(pending), []
    waiting = deque(islice(requests, ahead + 1))
    while waiting:
        request = waiting.popleft()
        draws.append(take(pending, request.serial, iteration))
        assert draws[-1].indices.tolist() == request.indices
        waiting.extend(islice(requests, 1))
    pending.end(iteration)
    return draws


def test_length_is_the_number_of_batches():
    assert len(make_pending(num_batches=3)) == 3


@pytest.mark.parametrize("ahead", [0, 1, 2, 5])
def test_an_epoch_has_its_batches_however_many_are_asked_for_ahead(ahead):
    pending = make_pending()
    assert [len(draw) for draw in take_epoch(pending, ahead)] == [4, 4, 2]
    assert [len(draw) for draw in take_epoch(pending, ahead)] == [4, 4, 4]


def test_batches_may_come_back_out_of_turn():
    pending = make_pending()
    iteration = pending.begin()
    requests = list(pending)
    for request in reversed(requests):
        assert take(pending, request.serial, iteration).indices.tolist() == request.indices


def test_requests_carry_plain_integers():
    pending = make_pending()
    pending.begin()
    request = next(iter(pending))
    assert {type(index) for index in request.indices} == {int}


def test_draws_of_an_epoch_broken_off_are_forgotten():
    pending = make_pending()
    iteration = pending.begin()
    first = list(pending)
    take(pending, first[0].serial, iteration)
    pending.begin()
    second = list(pending)
    assert len(second) == 3
    assert {request.serial for request in first}.isdisjoint(request.serial for request in second)


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_samples_of_the_first_epoch_that_were_forgotten_come_again(taken):
    pending = make_pending()
    iteration = pending.begin()
    requests = list(pending)
    for request in requests[:taken]:
        take(pending, request.serial, iteration)
    pending.end(iteration)
    pending.begin()
    assert [request.indices for request in pending][: 3 - taken] == [request.indices for request in requests[taken:]]


def test_a_plain_epoch_broken_off_is_followed_by_a_whole_one():
    pending = make_pending(gate=VarianceGate(margin=math.inf))
    for _ in range(2):
        indices = torch.cat([draw.indices for draw in take_epoch(pending)])
        assert sorted(indices.tolist()) == list(range(10))
        iteration, requests = pending.begin(), list(pending)
        take(pending, requests[0].serial, iteration)
        pending.end(iteration)


def test_plain_draws_that_were_all_forgotten_come_again():
    pending = make_pending(gate=VarianceGate(margin=math.inf))
    take_epoch(pending)
    pending.begin()
    first = [request.indices for request in pending]
    pending.begin()
    assert [request.indices for request in pending] == first


def test_a_draw_is_there_until_it_is_handed_over():
    pending = make_pending()
    iteration = pending.begin()
    serial = next(iter(pending)).serial
    draw = pending.find(serial, iteration)
    assert pending.find(serial, iteration) is draw
    assert [entry["serial"] for entry in pending.state_dict()["draws"]] == [serial]
    pending.hand_over(serial)
    assert pending.state_dict()["draws"] == []
    assert pending.state_dict()["taken"] == 1
    with pytest.raises(KeyError, match=str(serial)):
        pending.find(serial, iteration)


def test_an_epoch_is_finished_when_all_of_it_is_handed_over():
    pending = make_pending()
    iteration = pending.begin()
    for request in pending:
        assert pending.is_unfinished(iteration)
        take(pending, request.serial, iteration)
    assert not pending.is_unfinished(iteration)


class TestPause:
    def paused(self, ahead=2, **arguments):
        """Return an epoch paused after its first batch, and the requests whose draws are on their way."""
        pending = make_pending(num_batches=5, **arguments)
        iteration = pending.begin()
        requests = list(islice(iter(pending), 1 + ahead))
        take(pending, requests[0].serial, iteration)
        pending.find(requests[1].serial, iteration)  # as when its batch came back, and could not be scored
        pending.pause(iteration)
        return pending, iteration, requests[1:]

    @pytest.mark.parametrize("ahead", [1, 2, 4])
    def test_keeps_the_draws_for_the_next_iteration(self, ahead):
        pending, _, waiting = self.paused(ahead)
        iteration = pending.begin()
        requests = list(pending)
        assert requests[:ahead] == waiting
        assert len(requests) == 4
        for request in requests:
            assert take(pending, request.serial, iteration).indices.tolist() == request.indices
        assert not pending.is_unfinished(iteration)

    def test_goes_on_as_if_it_had_not_been(self):
        pending, _, _ = self.paused()
        other = make_pending(num_batches=5)
        assert_same_draws(take_epoch(pending), take_epoch(other)[1:])
        assert_same_draws(take_epoch(pending), take_epoch(other))

    def test_is_for_one_iteration(self):
        pending, _, _ = self.paused()
        assert len(take_epoch(pending)) == 4
        assert len(take_epoch(pending)) == 5

    def test_ends_the_iteration(self):
        pending, iteration, waiting = self.paused()
        for ask in (lambda: pending.is_unfinished(iteration), lambda: pending.find(waiting[0].serial, iteration)):
            with pytest.raises(RuntimeError, match="This iteration over an `ApproxSampler` ended"):
                ask()

    def test_is_not_undone_by_the_end_of_the_iteration(self):
        pending, iteration, waiting = self.paused()
        with assert_unchanged(pending, pending._sampler):
            pending.end(iteration)
        pending.begin()
        assert list(islice(iter(pending), 2)) == waiting

    def test_ends_the_requests_under_way(self):
        pending = make_pending()
        iteration, requests = pending.begin(), iter(pending)
        next(requests)
        pending.pause(iteration)
        assert list(requests) == []

    def test_is_only_for_the_iteration_under_way(self):
        pending = make_pending()
        first = pending.begin()
        second = pending.begin()
        pending.pause(first)
        assert pending.is_unfinished(second)
        pending.begin()  # forgets
        assert len(list(pending)) == 3

    def test_is_saved(self):
        pending, _, _ = self.paused()
        resumed = make_pending(num_batches=5)
        resumed._sampler.load_state_dict(snapshot(pending._sampler))
        resumed.load_state_dict(through_file(pending.state_dict()))
        assert_same_draws(take_epoch(resumed), take_epoch(pending))

    def test_keeps_candidates_to_be_scored_again(self):
        pending, _, waiting = self.paused(predictor=Scoring)
        draw = pending.find(waiting[0].serial, pending.begin())
        assert not draw.is_batch
        assert len(draw) == 12


def test_only_the_current_iteration_can_be_ended():
    pending = make_pending()
    first = pending.begin()
    second = pending.begin()
    request = next(iter(pending))
    pending.end(first)
    assert take(pending, request.serial, second).indices.tolist() == request.indices


def test_requests_end_when_another_iteration_begins():
    pending = make_pending()
    pending.begin()
    requests = iter(pending)
    next(requests)
    pending.begin()
    assert list(requests) == []


def test_loading_a_state_ends_the_iteration_under_way():
    pending = make_pending()
    iteration = pending.begin()
    request = next(iter(pending))
    pending.load_state_dict(snapshot(pending))
    with pytest.raises(RuntimeError, match="ended when another one began"):
        take(pending, request.serial, iteration)


def test_an_iteration_ends_when_another_begins():
    pending = make_pending()
    first = pending.begin()
    request = next(iter(pending))
    pending.begin()
    with pytest.raises(RuntimeError, match="This iteration over an `ApproxSampler` ended when another one began"):
        take(pending, request.serial, first)


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_restored_epoch_goes_on_with_the_pending_draws(ahead):
    pending, resumed = make_pending(), make_pending()
    iteration, requests = pending.begin(), iter(pending)
    for _ in range(ahead + 1):
        request = next(requests)
    take(pending, request.serial - ahead, iteration)
    resumed._sampler.load_state_dict(snapshot(pending._sampler))
    resumed.load_state_dict(through_file(pending.state_dict()))
    assert_same(snapshot(resumed), snapshot(pending))
    iteration = resumed.begin()
    draws = [take(resumed, request.serial, iteration) for request in resumed]
    assert len(draws) == 2
    expected = [take(pending, serial, 1) for serial in list(pending._draws)]
    expected += [take(pending, request.serial, 1) for request in requests]
    assert_same_draws(draws, expected)


def test_a_restored_draw_can_be_used_for_an_update():
    pending, resumed = make_pending(), make_pending()
    pending.begin()
    request = next(iter(pending))
    resumed.load_state_dict(snapshot(pending))
    draw = take(resumed, request.serial, resumed.begin())
    resumed._sampler.update(draw, torch.ones(4))
    assert resumed._sampler.metrics()["step"] == 1


def test_a_restored_draw_knows_when_it_was_made():
    pending, resumed = make_pending(num_batches=6), make_pending(num_batches=6)
    iteration, requests = pending.begin(), iter(pending)
    for _ in range(2):
        draw = take(pending, next(requests).serial, iteration)
        pending._sampler.update(draw, torch.ones(len(draw)))
    serials = [next(requests).serial for _ in range(2)]
    resumed.load_state_dict(through_file(pending.state_dict()))
    iteration = resumed.begin()
    assert [take(resumed, serial, iteration).drawn_at for serial in serials] == [2, 2]


def test_a_restored_draw_knows_its_place_in_the_plain_epochs():
    pending, resumed = make_pending(num_batches=6), make_pending(num_batches=6)
    pending.begin()
    requests = list(pending)
    assert [entry["place"] for entry in pending.state_dict()["draws"]] == [0, 4, 8, -1, -1, -1]
    resumed._sampler.load_state_dict(snapshot(pending._sampler))
    resumed.load_state_dict(through_file(pending.state_dict()))
    iteration = resumed.begin()
    draws = [resumed.find(request.serial, iteration) for request in requests]
    assert [draw.is_uniform for draw in draws] == [True] * 3 + [False] * 3
    resumed.end(iteration)  # forgets them: they come again
    resumed.begin()
    assert [request.indices for request in resumed][:3] == [request.indices for request in requests[:3]]


def test_restored_candidates_are_to_be_chosen_from():
    pending, resumed = (make_pending(predictor=Scoring) for _ in range(2))
    iteration = pending.begin()
    serial = next(iter(pending)).serial
    assert [entry["choose"] for entry in pending.state_dict()["draws"]] == [4]
    resumed._sampler.load_state_dict(snapshot(pending._sampler))
    resumed.load_state_dict(through_file(pending.state_dict()))
    candidates = [pending.find(serial, iteration), resumed.find(serial, resumed.begin())]
    assert not any(draw.is_batch for draw in candidates)
    chosen = [
        each._sampler.choose(draw, torch.arange(12.0))[0]
        for each, draw in zip((pending, resumed), candidates, strict=True)
    ]
    assert len(chosen[0]) == 4
    assert_same_draws(chosen[:1], chosen[1:])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_draws_that_workers_hold_know_when_they_were_made_after_a_resume(num_workers):
    def make():
        return ApproxSampler(
            DataLoader(Numbers(40), batch_size=4, num_workers=num_workers), predictor="last-loss", gate=None
        )

    def go_on(sampler):
        drawn_at = []
        for batch, draw in sampler:
            drawn_at.append(draw.drawn_at)
            sampler.update(draw, 1.0 + batch)
        return drawn_at

    sampler, resumed = make(), make()
    drawn_at = go_on(sampler)
    assert drawn_at == ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9] if num_workers == 0 else [0, 0, 0, 0, 0, 1, 2, 3, 4, 5])
    for position, (batch, draw) in enumerate(sampler):
        sampler.update(draw, 1.0 + batch)
        if position == 4:
            resumed.load_state_dict(through_file(sampler.state_dict()))
        if position > 4:
            drawn_at.append(draw.drawn_at)
    assert go_on(resumed) == drawn_at[10:]


def test_only_one_epoch_is_resumed():
    pending, resumed = make_pending(), make_pending()
    iteration = pending.begin()
    take(pending, next(iter(pending)).serial, iteration)
    resumed.load_state_dict(snapshot(pending))
    assert len(take_epoch(resumed)) == 2
    assert len(take_epoch(resumed)) == 3


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda state: state.pop("taken"), r"\['pending'\]` has not the expected entries: missing \['taken'\]"),
        (lambda state: state.update(taken=1.0), r"\['pending'\]\['taken'\]` must be of type int; got float"),
        (lambda state: state["draws"][0].pop("weights"), r"\['draws'\]` .* missing \['weights'\]"),
        (lambda state: state["draws"][0].pop("drawn_at"), r"\['draws'\]` .* missing \['drawn_at'\]"),
        (lambda state: state["draws"][0].update(drawn_at=1.0), r"\['drawn_at'\]` must be of type int; got float"),
        (lambda state: state["draws"][0].pop("place"), r"\['draws'\]` .* missing \['place'\]"),
        (lambda state: state["draws"][0].pop("choose"), r"\['draws'\]` .* missing \['choose'\]"),
        (lambda state: state["draws"][0].update(place=None), r"\['place'\]` must be of type int; got NoneType"),
        (lambda state: state["draws"][0].update(place=-2), r"\['draws'\]\['place'\]` must be at least -1; got -2"),
        (lambda state: state["draws"][0].update(drawn_at=-1), r"\['drawn_at'\]` must be at least 0; got -1"),
        (lambda state: state["draws"][0].update(choose=-1), r"\['choose'\]` must be at least 0; got -1"),
        (lambda state: state["draws"][0].update(is_warm_up=True), r"unknown \['is_warm_up'\]"),
        (lambda state: state["draws"][0].pop("indices"), r"\['draws'\]` .* missing \['indices'\]"),
        (
            lambda state: state["draws"][0].update(weights=torch.ones(4).double()),
            r"\['weights'\]` must be torch.float32 \[4\]; got torch.float64",
        ),
        (
            lambda state: state["draws"][0].update(probabilities=torch.ones(3).double()),
            r"\['probabilities'\]` must be torch.float64 \[4\]; got torch.float64 \[3\]",
        ),
        (lambda state: state["draws"][0].update(indices=[1, 2, 3, 4]), r"\['pending'\]\['draws'\]\['.*'\]` must be"),
        (lambda state: state.pop("draws"), r"missing \['draws'\]"),
    ],
)
def test_damaged_state_is_refused_and_changes_nothing(damage, match):
    pending, resumed = make_pending(), make_pending()
    pending.begin()
    next(iter(pending))
    state = snapshot(pending)
    damage(state)
    with assert_unchanged(resumed), pytest.raises(ValueError, match=match):
        resumed.load_state_dict(state)


def test_pending_samples_that_do_not_exist_are_refused():
    pending, resumed = make_pending(), make_pending()
    pending.begin()
    next(iter(pending))
    state = snapshot(pending)
    state["draws"][0]["indices"] += 100
    with assert_unchanged(resumed), pytest.raises(ValueError, match=r"\['indices'\]"):
        resumed.load_state_dict(state)
