"""RAIS in a sampler: when it refits and to what, what it then draws by, and what it does with absurd norms."""

import math
import random
import threading
import time

import pytest
import torch
from laws import (
    assert_all_finite,
    assert_draws_are_from,
    assert_global_randomness_untouched,
    assert_is_distribution,
    assert_same,
    assert_same_draws,
    assert_unbiased_by_enumeration,
    assert_unchanged,
    make_sampler,
    snapshot,
    steady_losses,
    through_file,
    train,
)
from torch.utils.data import DataLoader, TensorDataset

from approx_is import ApproxSampler, ImportanceSampler
from approx_is.predictors import rais, refit, uncertainty_fit
from approx_is.predictors.norm_features import LARGEST_NORM
from approx_is.predictors.robust import robust_probabilities

LEAST_PROBABILITY = 1 / 11  # of a sample, times N
BACKGROUND = pytest.mark.parametrize("background", [True, False], ids=["background", "here"])
LABELS = [0, 1, 1] * 8


def make(num_samples=24, batch_size=8, *, observations=48, fit_size=24, background=False, solver="l-bfgs", **arguments):
    options = {"observations": observations, "fit_size": fit_size, "background": background, "solver": solver}
    return make_sampler(num_samples, batch_size, predictor="rais", predictor_options=options, **arguments)


def predictor_of(sampler):
    return sampler._learner.predictor


def scatter(num_samples=24, seed=0):
    """Return norms of samples that scatter, each in its own way, anew at each call."""
    generator = torch.Generator().manual_seed(seed)
    typical = 1.0 + torch.arange(num_samples) % 5
    deviation = 0.05 + 0.3 * (torch.arange(num_samples) % 3)

    def norms(indices):
        noise = torch.randn(num_samples, generator=generator)
        return (typical * torch.exp(deviation * noise))[indices]

    return norms


def refits(sampler):
    return sampler.metrics()["refits"]


@pytest.fixture
def began(monkeypatch):
    """Record the arguments of every refit that begins."""
    arguments = []

    class Recorded(refit.Refit):
        def __init__(self, *positional, **options):
            arguments.append(positional)
            super().__init__(*positional, **options)

    monkeypatch.setattr(rais, "Refit", Recorded)
    return arguments


class TestSchedule:
    WARM_UP = 3  # updates without usable observations: 24 samples, 8 a batch

    def begin_and_use(self, began, sampler, updates):
        """Return after which usable updates fits began, and after which they were in use."""
        began_after, used_after, losses = [], [], scatter()
        train(sampler, self.WARM_UP, losses)
        for update in range(1, updates + 1):
            before = len(began), refits(sampler)
            train(sampler, 1, losses)
            began_after += [update] * (len(began) - before[0])
            used_after += [update] * int(refits(sampler) - before[1])
        return began_after, used_after

    # 24, 48, 96 and 192 observations, if so many are kept, and from then on when all of them are new
    @pytest.mark.parametrize(
        ("observations", "expected"),
        [(192, [3, 6, 12, 24]), (48, [3, 6, 12, 18, 24]), (41, [3, 6, 12, 18, 24]), (24, list(range(3, 25, 3)))],
    )
    def test_it_refits_when_observations_have_doubled_and_then_once_for_all_that_it_keeps(
        self, observations, expected, began
    ):
        began_after, used_after = self.begin_and_use(began, make(observations=observations), 24)
        assert began_after == expected
        assert used_after == began_after

    @pytest.mark.parametrize("observations", [192, 48, 24])
    def test_a_fit_in_the_background_is_used_a_fixed_number_of_updates_later(self, observations, began):
        sampler = make(observations=observations, background=True)
        began_after, used_after = self.begin_and_use(began, sampler, 24)
        assert began_after[:2] == [3, 6]
        assert used_after == [update + 3 for update in began_after if update + 3 <= 24]

    def test_updates_without_usable_observations_do_not_count(self, began):
        sampler = make()
        train(sampler, self.WARM_UP)
        for _ in range(4):
            train(sampler, 1, losses=lambda indices: torch.full((len(indices),), torch.nan))
        train(sampler, 2, scatter())
        assert len(began) == 0
        train(sampler, 1, scatter())
        assert len(began) == 1

    def test_a_larger_batch_makes_refits_more_frequent(self, began):
        sampler = make(batch_size=24)
        train(sampler, 9, scatter())
        assert len(began) == refits(sampler) == 5  # after the first, second, fourth, sixth and eighth usable update

    def test_a_refit_gets_what_is_kept_the_mean_features_and_the_set_before(self, began):
        sampler = make()
        train(sampler, 3 + 3 + 6, scatter())
        (first, means, none), (second, _, previous) = began
        assert [part.shape for part in first] == [(24, 6), (24,), (24,)]
        assert [part.shape for part in second] == [(48, 6), (48,), (48,)]
        assert none is None
        fitted = refit.fit(first, means, None, size=24, solver="l-bfgs").uncertainty_set
        assert (previous.c.tolist(), previous.d.tolist()) == (fitted.c.tolist(), fitted.d.tolist())

    def test_mean_features_are_those_of_all_samples(self, began):
        sampler = make(labels=LABELS)
        train(sampler, 6, scatter())
        features = predictor_of(sampler)._features.describe(torch.arange(24), 5)
        found = torch.from_numpy(began[0][1])
        torch.testing.assert_close(found[:5], features.double().mean(0)[:5], rtol=1e-6, atol=0)
        # ages are of the moment before the last batch: up to a third of an epoch apart
        assert found[5].item() == pytest.approx(features[:, 5].double().mean().item(), abs=features[0, 0].item() / 3)


class TestObservations:
    """Which of them enter, and with what."""

    def expect(self, sampler, updates, ahead):
        """Train with draws made ahead; return what the rows should hold, by a record of who was seen when."""
        predictor, waiting, last_seen, expected = predictor_of(sampler), [], {}, []
        for step in range(1, updates + 1):
            while len(waiting) <= ahead:
                draw = sampler.draw()
                waiting.append((draw, step - 1, predictor._features.describe(draw.indices, step - 1)))
            draw, drawn_after, described = waiting.pop(0)
            assert draw.drawn_at == drawn_after
            observed = 1.0 + 100.0 * step + torch.arange(len(draw))
            for position, index in enumerate(draw.indices.tolist()):
                if last_seen.get(index, math.inf) <= drawn_after:
                    twins = draw.indices == index
                    weight = 1 / (draw.probabilities[position] * sampler.num_samples)
                    expected.append((described[position], observed[twins].mean().item(), weight.item()))
            last_seen |= dict.fromkeys(draw.indices.tolist(), step)
            sampler.update(draw, observed)
        return expected

    @pytest.mark.parametrize("ahead", [0, 1, 3, 7])
    def test_are_of_samples_seen_before_the_draw_and_not_since(self, ahead):
        sampler = make(10, 4, observations=400, fit_size=12)
        expected = self.expect(sampler, 20, ahead)
        features, norms, weights = predictor_of(sampler)._recent.arrays()
        assert 0 < len(expected) < 20 * 4 - 10
        assert norms.tolist() == pytest.approx([norm for _, norm, _ in expected], rel=1e-6)
        assert weights.tolist() == pytest.approx([weight for _, _, weight in expected], rel=1e-6)
        at_draw = torch.stack([described for described, _, _ in expected])
        of_sample = [1, 2, 3]  # last, decayed and window; what concerns all has moved with the batches between
        torch.testing.assert_close(torch.from_numpy(features)[:, of_sample].float(), at_draw[:, of_sample])
        ages = at_draw[:, 5] / at_draw[:, 0]
        torch.testing.assert_close(torch.from_numpy(features[:, 5] / features[:, 0]).float(), ages, rtol=1e-5, atol=0)
        if ahead == 0:
            torch.testing.assert_close(torch.from_numpy(features).float(), at_draw)

    def test_of_the_first_epoch_do_not_enter(self):
        sampler = make()
        train(sampler, 3)
        assert len(predictor_of(sampler)._recent) == 0

    def test_that_are_not_finite_do_not_enter(self):
        sampler = make(observations=400)
        train(sampler, 20, losses=lambda indices: torch.where(indices < 4, torch.nan, 1.0))
        _, norms, _ = predictor_of(sampler)._recent.arrays()
        assert set(norms.tolist()) == {1.0}

    def test_above_1e30_count_as_that_much(self):
        sampler = make(observations=400)
        train(sampler, 8, losses=lambda indices: torch.full((len(indices),), 3e38))
        _, norms, _ = predictor_of(sampler)._recent.arrays()
        assert norms.tolist() == pytest.approx([LARGEST_NORM] * len(norms))


class TestProbabilities:
    @pytest.mark.parametrize("labels", [None, LABELS], ids=["unlabelled", "labelled"])
    @pytest.mark.parametrize("smoothing", ["adaptive", 0.0])
    def test_are_those_of_the_worst_case_but_for_the_smoothing(self, labels, smoothing):
        sampler = make(labels=labels, smoothing=smoothing)
        losses = scatter()
        train(sampler, 3 + 3 + 3, losses)  # ends with a refit, and so with a sweep
        assert refits(sampler) == 2
        fitted = predictor_of(sampler)._fit
        features = predictor_of(sampler)._features.describe(torch.arange(24), sampler.step).double()
        centre, spread = fitted.uncertainty_set.centre(features), fitted.uncertainty_set.spread(features)
        assert spread.sum() > 0.01 * centre.sum()
        worst = torch.from_numpy(centre + fitted.k * spread)
        constant = sampler.metrics()["smoothing"]
        expected = (worst + constant) / (worst + constant).sum()
        torch.testing.assert_close(sampler.probabilities(), expected, rtol=1e-5, atol=0)
        robust, k, _ = robust_probabilities(centre, spread)
        assert fitted.k == pytest.approx(k, rel=0.05)  # of the same set, over features that are a batch older
        if smoothing == 0.0:
            torch.testing.assert_close(sampler.probabilities(), torch.from_numpy(robust), rtol=0.02, atol=0)

    def test_before_the_first_fit_are_between_the_latest_norm_and_the_mean(self):
        sampler = make()
        train(sampler, 3, steady_losses)
        every = torch.arange(24)
        last, constant = steady_losses(every).double(), sampler.metrics()["smoothing"]
        predicted = 0.5 * last + 0.5 * predictor_of(sampler)._features.describe(every, 3)[:, 0].double()
        expected = (predicted + constant) / (predicted + constant).sum()
        # the sampler asked for everyone anew over the first epoch: the mean moved by less than it differs
        torch.testing.assert_close(sampler.probabilities(), expected, rtol=0.1, atol=0)
        unbiased = 1 / (24 * sampler.probabilities())
        assert unbiased.max() < 2.2

    def test_weights_are_unbiased(self):
        sampler = make()
        train(sampler, 20, scatter())
        probabilities = sampler.probabilities()
        assert_unbiased_by_enumeration(probabilities, 1 / (24 * probabilities))
        assert_draws_are_from(sampler)

    def test_another_k_leaves_the_draws_and_weighs_otherwise(self):
        samplers = [make(k=k) for k in (1.0, 0.5)]
        one, other = (train(sampler, 20, steady_losses) for sampler in samplers)
        for first, second in zip(one, other, strict=True):
            assert torch.equal(second.indices, first.indices)
            assert torch.equal(second.probabilities, first.probabilities)
            torch.testing.assert_close(second.weights, first.weights.sqrt())
        assert not torch.equal(one[-1].weights, other[-1].weights)

    def test_weights_are_bounded_as_with_any_predictor(self):
        sampler = make()
        train(sampler, 20, losses=lambda indices: torch.full((len(indices),), 2.0))
        assert sampler.metrics()["smoothing"] == pytest.approx(1.0, rel=1e-3)
        train(sampler, 20, losses=lambda indices: torch.where(indices == 0, 1e6, 0.0))
        assert (1 / (24 * sampler.probabilities())).max() <= 3 * (1 + 1e-9)

    def test_the_smoothing_of_the_user_is_kept(self):
        sampler = make(smoothing=0.25)
        train(sampler, 20)
        assert sampler.metrics()["smoothing"] == 0.25


class TestBound:
    def test_is_not_there_before_the_first_fit(self):
        sampler = make()
        train(sampler, 5)
        assert math.isnan(sampler.metrics()["robust_bound"])
        assert (sampler.metrics()["refits"], sampler.metrics()["failed_refits"]) == (0.0, 0.0)

    def test_is_the_squared_mean_where_every_norm_is_known(self):
        sampler = make()
        train(sampler, 30, steady_losses)
        mean = steady_losses(torch.arange(24)).mean().item()
        assert sampler.metrics()["robust_bound"] == pytest.approx(mean**2, rel=1e-2)

    def test_bounds_the_second_moment_of_what_is_drawn(self):
        sampler, losses = make(256, 32, observations=1024, fit_size=1024), scatter(256)
        train(sampler, 8 + 32 + 32, losses)
        assert refits(sampler) == 2
        bound, moments = sampler.metrics()["robust_bound"], []
        for _ in range(31):  # until the next refit
            draw = sampler.draw()
            observed = losses(draw.indices)
            moments.append((draw.weights.double() * observed).square().mean().item())
            sampler.update(draw, observed)
        assert sampler.metrics()["robust_bound"] == bound
        second_moment = sum(moments) / len(moments)
        assert second_moment < 1.02 * bound
        assert second_moment > 0.3 * bound


def dies_out(indices, step):
    return torch.full((len(indices),), 10.0 ** -min(step, 44))


def of_all_sizes(indices, step):
    return 10.0 ** (8 * torch.sin(indices + step * 1.7))


ABSURD = {
    "zeros": lambda indices, step: torch.zeros(len(indices)),
    "NaN": lambda indices, step: torch.full((len(indices),), torch.nan),
    "some NaN": lambda indices, step: torch.where((indices + step) % 3 == 0, torch.nan, 1.0 + indices),
    "infinite": lambda indices, step: torch.where(indices == 0, torch.inf, 1.0),
    "enormous": lambda indices, step: torch.full((len(indices),), 1e30),
    "beyond": lambda indices, step: torch.full((len(indices),), 3e38),
    "tiny": lambda indices, step: torch.full((len(indices),), 1e-30),
    "smallest": lambda indices, step: torch.full((len(indices),), 1e-45),
    "in turn": lambda indices, step: torch.full((len(indices),), [0.0, 1e30][step % 2]),
    "one enormous": lambda indices, step: torch.where(indices == 0, [1.0, 1e30][step % 2], 1.0),
    "from zero": lambda indices, step: torch.full((len(indices),), 0.0 if step < 20 else 3.0),
    "from tiny to enormous": lambda indices, step: torch.full((len(indices),), 1e-30 if step < 20 else 1e30),
    "some zero, some from tiny to enormous": lambda indices, step: torch.where(
        indices % 2 == 0, 0.0, 1e-30 if step < 20 else 1e30
    ),
    "from enormous to tiny": lambda indices, step: torch.full((len(indices),), 1e30 if step < 20 else 1e-30),
    "dying out": dies_out,
    "of all sizes": of_all_sizes,
}


def assert_lawful(sampler):
    probabilities = sampler.probabilities()
    assert_is_distribution(probabilities)
    assert float(probabilities.min()) * sampler.num_samples >= LEAST_PROBABILITY * (1 - 1e-9)


@pytest.mark.filterwarnings("ignore:A refit of the predictor `rais` failed:RuntimeWarning")
class TestAbsurdNorms:
    @pytest.mark.parametrize("norms", ABSURD.values(), ids=ABSURD.keys())
    @pytest.mark.parametrize(("num_samples", "solver"), [(1, "l-bfgs"), (3, "l-bfgs"), (12, "l-bfgs"), (12, "cvxpy")])
    def test_leave_every_sample_within_reach(self, norms, solver, num_samples):
        sampler = make(num_samples, 4, observations=32, fit_size=16, solver=solver)
        for step in range(1, 45):
            train(sampler, 1, losses=lambda indices, step=step: norms(indices, step))
            assert_lawful(sampler)
        assert sampler.metrics()["rejected_predictions"] == 0.0
        assert_all_finite(snapshot(sampler))

    @BACKGROUND
    @pytest.mark.parametrize("num_samples", [1, 2, 3, 4, 5])
    @pytest.mark.parametrize("labels", [None, "one", "each"])
    def test_so_do_data_sets_of_a_few_samples(self, background, num_samples, labels):
        labels = {None: None, "one": [0] * num_samples, "each": list(range(num_samples))}[labels]
        sampler = make(num_samples, 4, observations=16, fit_size=8, background=background, labels=labels)
        for _ in range(20):
            train(sampler, 1)
            assert_lawful(sampler)
        assert refits(sampler) >= 3

    @pytest.mark.parametrize("value", [1e-30, 2.0, 1e30], ids=str)
    @pytest.mark.parametrize("solver", ["l-bfgs", "cvxpy"])
    def test_norms_that_are_all_equal_are_drawn_uniformly(self, value, solver):
        sampler = make(12, 4, observations=32, fit_size=16, solver=solver)
        train(sampler, 45, losses=lambda indices: torch.full((len(indices),), value))
        uniform = torch.full((12,), 1 / 12, dtype=torch.float64)
        torch.testing.assert_close(sampler.probabilities(), uniform, rtol=1e-3, atol=0)


class TestFailure:
    @BACKGROUND
    def test_of_a_solver_warns_and_training_goes_on_with_the_set_before(self, background, monkeypatch):
        sampler, losses = make(background=background), scatter()
        train(sampler, 3 + 10, losses)  # no fit is under way; the next begins two usable updates later
        assert refits(sampler) == 2
        before = predictor_of(sampler)._fit.uncertainty_set

        def fail(*arguments):
            raise ArithmeticError("out of luck")

        monkeypatch.setattr(uncertainty_fit, "_descend", fail)
        match = r"predictor `rais` failed: .*'l-bfgs' failed \(ArithmeticError: out of luck\); the previous set is used"
        with pytest.warns(RuntimeWarning, match=match):
            train(sampler, 5, losses)
        assert predictor_of(sampler)._fit.uncertainty_set is before
        assert (refits(sampler), sampler.metrics()["failed_refits"]) == (3.0, 1.0)
        assert_lawful(sampler)
        monkeypatch.undo()
        train(sampler, 6, losses)
        assert (refits(sampler), sampler.metrics()["failed_refits"]) == (4.0, 1.0)
        assert predictor_of(sampler)._fit.uncertainty_set is not before

    def test_of_the_first_fit_leaves_the_best_single_feature(self, monkeypatch):
        monkeypatch.setattr(uncertainty_fit, "_descend", lambda *arguments: 1 / 0)
        sampler = make()
        with pytest.warns(RuntimeWarning, match="ZeroDivisionError: .*; the best set of a single feature is used"):
            train(sampler, 6, scatter())
        assert (predictor_of(sampler)._fit.uncertainty_set.c > 0).sum() == 1
        assert_lawful(sampler)

    @BACKGROUND
    def test_that_is_an_error_is_raised_once_and_leaves_a_sampler_that_can_go_on(self, background, monkeypatch):
        monkeypatch.setattr(uncertainty_fit, "_descend", lambda *arguments: 1 / 0)
        sampler = make(background=background)
        train(sampler, 8 if background else 5, scatter())
        with pytest.raises(RuntimeWarning, match="predictor `rais` failed"):  # filters make it an error
            train(sampler, 1, scatter())
        train(sampler, 2, scatter())
        assert refits(sampler) == sampler.metrics()["failed_refits"] == 1
        assert_lawful(sampler)


class TestBackground:
    def test_a_run_depends_on_its_seed_and_not_on_the_clock(self, monkeypatch):
        original, dice = refit.fit, random.Random(0)

        def fit_at_leisure(*arguments, **options):
            time.sleep(dice.choice([0.0, 0.001, 0.02]))
            return original(*arguments, **options)

        expected = make(background=True)
        draws = train(expected, 40, scatter())
        monkeypatch.setattr(refit, "fit", fit_at_leisure)
        for _ in range(2):
            sampler = make(background=True)
            assert_same_draws(train(sampler, 40, scatter()), draws)
            assert_same(snapshot(sampler), snapshot(expected))

    def test_is_not_waited_for_before_it_is_due(self, monkeypatch):
        original, gate = refit.fit, threading.Event()

        def fit_at_last(*arguments, **options):
            assert gate.wait(60)
            return original(*arguments, **options)

        monkeypatch.setattr(refit, "fit", fit_at_last)
        sampler = make(background=True)
        train(sampler, 3 + 3 + 2, scatter())
        assert refits(sampler) == 0
        gate.set()
        train(sampler, 1, scatter())
        assert refits(sampler) == 1

    def test_reports_do_not_wait_for_a_fit(self, monkeypatch):
        original, gate = refit.fit, threading.Event()

        def fit_at_last(*arguments, **options):
            assert gate.wait(60)
            return original(*arguments, **options)

        monkeypatch.setattr(refit, "fit", fit_at_last)
        sampler = make(background=True)
        train(sampler, 6, scatter())
        assert math.isnan(sampler.metrics()["robust_bound"])
        assert_is_distribution(sampler.probabilities())
        gate.set()

    def test_reading_the_state_changes_no_run(self):
        quiet, asked = make(background=True), make(background=True)
        losses, same_losses = scatter(), scatter()
        for _ in range(30):
            with assert_unchanged(asked):
                asked.state_dict()
            assert_same_draws(train(asked, 1, losses), train(quiet, 1, same_losses))


class TestState:
    @BACKGROUND
    @pytest.mark.parametrize(
        ("steps", "solver"), [*((steps, "l-bfgs") for steps in (0, 2, 5, 6, 7, 9, 12, 14)), (7, "cvxpy"), (14, "cvxpy")]
    )
    def test_resumed_it_goes_on_to_the_bit(self, background, solver, steps):
        sampler, resumed = (make(background=background, solver=solver, seed=seed, labels=LABELS) for seed in (0, 99))
        train(sampler, steps, scatter())
        train(resumed, 8, scatter(seed=5))  # with a fit of its own on its way
        resumed.load_state_dict(through_file(sampler.state_dict()))
        assert_same(snapshot(resumed), snapshot(sampler))
        assert_same_draws(train(resumed, 14, scatter(seed=1)), train(sampler, 14, scatter(seed=1)))
        assert_same(snapshot(resumed), snapshot(sampler))
        assert_same(resumed.metrics(), sampler.metrics())

    def test_a_fit_under_way_is_part_of_it(self):
        sampler = make(background=True)
        train(sampler, 7, scatter())
        state = sampler.state_dict()["learner"]["predictor"]
        assert state["is_refitting"]
        assert not torch.equal(state["following"]["c"], state["fit"]["c"])

    @pytest.mark.parametrize(
        ("damage", "match"),
        [
            (lambda state: state["fit"]["c"].fill_(-1), r"`UncertaintySet\(c=\.\.\.\)` must be finite and at least 0"),
            (lambda state: state["following"]["d"].fill_(-1), r"`UncertaintySet\(d=\.\.\.\)` must be finite and at"),
            (lambda state: state["fit"].update(k=math.nan), r"\['fit'\]\['k'\]` must be finite; got nan"),
            (lambda state: state["recent"]["rows"].fill_(math.nan), r"\['recent'\]\['rows'\]` must be finite"),
            (lambda state: state["features"]["rows"].fill_(math.inf), r"\['features'\]\['rows'\]` must be finite"),
            (lambda state: state.update(num_fits=-1), r"\['num_fits'\]` must be at least 0; got -1"),
            (lambda state: state["fit"].update(k=-1.0), r"\['fit'\]\['k'\]` must be at least 0; got -1"),
            (lambda state: state["recent"]["rows"].fill_(-1.0), r"RecentObservations.*\['rows'\]` must be at least 0"),
            (lambda state: state["recent"].update(written=-3), r"\['written'\]` must be at least 0; got -3"),
            (lambda state: state["features"].update(batch_size=0), r"\['batch_size'\]` must be at least 1; got 0"),
            (lambda state: state.update(since=1.0), r"\['since'\]` must be of type int; got float"),
            (lambda state: state["generator"].zero_(), r"\['generator'\]` is no state of a random generator"),
        ],
    )
    def test_a_damaged_one_is_refused_and_changes_nothing(self, damage, match):
        sampler, other = make(background=True), make(background=True)
        for each in (sampler, other):
            train(each, 14, scatter())
        state = snapshot(sampler)
        damage(state["learner"]["predictor"])
        with assert_unchanged(other), pytest.raises(ValueError, match=match):
            other.load_state_dict(state)

    def test_one_of_another_number_of_observations_is_refused(self):
        sampler = make()
        with assert_unchanged(sampler), pytest.raises(ValueError, match=r"\['recent'\]\['rows'\]` must be .*\[48, 8\]"):
            sampler.load_state_dict(make(observations=64).state_dict())


class TestOptions:
    @pytest.mark.parametrize("value", [0, -1])
    def test_sizes_below_1_are_refused(self, value):
        with pytest.raises(ValueError, match=rf"RAISPredictor\(observations=\.\.\.\)` must be at least 1; got {value}"):
            make(observations=value)
        with pytest.raises(ValueError, match=rf"`RAISPredictor\(fit_size=\.\.\.\)` must be in \[1, 48\]; got {value}"):
            make(fit_size=value)

    @pytest.mark.parametrize("value", [1.5, "4", None])
    def test_sizes_that_are_no_integers_are_refused(self, value):
        with pytest.raises(TypeError, match=r"`RAISPredictor\(observations=\.\.\.\)` must be an integer; got "):
            make(observations=value)
        with pytest.raises(TypeError, match=r"`RAISPredictor\(fit_size=\.\.\.\)` must be an integer; got "):
            make(fit_size=value)

    def test_a_fit_of_more_than_is_kept_is_refused(self):
        with pytest.raises(ValueError, match=r"`RAISPredictor\(fit_size=\.\.\.\)` must be in \[1, 48\]; got 49"):
            make(fit_size=49)

    def test_an_unknown_solver_is_refused_with_the_known_ones(self):
        with pytest.raises(ValueError, match=r"`solver` must be one of 'cvxpy', 'l-bfgs'; got 'simplex'"):
            make(solver="simplex")

    def test_unknown_options_are_refused(self):
        with pytest.raises(TypeError, match="`predictor_options` do not fit the predictor 'rais'"):
            make_sampler(predictor="rais", predictor_options={"obsevations": 9})

    def test_of_32768_observations_kept_2048_are_fitted(self):
        predictor = predictor_of(make_sampler(predictor="rais"))
        assert predictor._recent._rows.shape == (32_768, 8)
        assert predictor._fit_size == 2048


def position(sampler):
    """Return where the predictor's random generator is."""
    return predictor_of(sampler)._generator.get_state()


class TestReferences:
    def test_more_samples_than_references_are_taken_at_random(self, monkeypatch, began):
        monkeypatch.setattr(rais, "NUM_REFERENCES", 10)
        with assert_global_randomness_untouched():
            one, again, other = make(seed=3), make(seed=3), make(seed=4)
            for sampler in (one, again, other):
                train(sampler, 20, scatter())
        assert_same(snapshot(again), snapshot(one))
        assert not torch.equal(position(other), position(one))
        assert not torch.equal(position(make(seed=3)), position(one))
        assert_lawful(one)

    def test_as_many_are_all_taken(self, monkeypatch):
        monkeypatch.setattr(rais, "NUM_REFERENCES", 24)
        sampler = make(seed=3)
        train(sampler, 20, scatter())
        assert refits(sampler) > 2
        assert torch.equal(position(make(seed=3)), position(sampler))

    def test_means_over_some_are_nearly_those_over_all(self, monkeypatch, began):
        means = []
        for number in (1000, 400):
            monkeypatch.setattr(rais, "NUM_REFERENCES", number)
            predictor = predictor_of(make(1000, 250, observations=250, fit_size=250))
            observed = scatter(1000)(torch.arange(1000))
            predictor._features.observe(torch.arange(1000), observed, torch.ones(1000).double(), 1, 0)
            means.append(predictor._mean_features())
        assert means[1] == pytest.approx(means[0], rel=0.15)
        assert not (means[1] == means[0]).all()


class TestConfigurations:
    @pytest.mark.parametrize(
        "arguments",
        [
            {"history_dtype": torch.float16},
            {"history_dtype": torch.float64},
            {"window": 1},
            {"candidates": 12},
            {"candidates": 24, "window": 1, "history_dtype": torch.bfloat16},
            {"labels": LABELS},
            {"labels": [0] * 24, "num_classes": 9},
            {"refresh": math.inf},
            {"smoothing": 0.0},
        ],
        ids=str,
    )
    def test_all_work(self, arguments):
        sampler = make(background=True, **arguments)
        train(sampler, 30, scatter())
        assert refits(sampler) >= 3
        assert sampler.metrics()["failed_refits"] == 0
        assert_is_distribution(sampler.probabilities())
        assert_all_finite(snapshot(sampler))
        if "candidates" not in arguments:
            assert_draws_are_from(sampler)

    def test_with_candidates_rows_hold_the_weights_of_the_pools(self):
        sampler = make(observations=400, candidates=6)
        draws = train(sampler, 10, scatter())
        expected = torch.cat([1 / (24 * draw.probabilities) for draw in draws[3:]])
        _, _, weights = predictor_of(sampler)._recent.arrays()
        torch.testing.assert_close(torch.from_numpy(weights), expected, rtol=1e-6, atol=0)

    def test_batches_of_other_sizes(self):
        sampler = make()
        for size in [None] * 3 + [1, 40, 3, 8, 60] * 4:
            draw = sampler.draw(size)
            sampler.update(draw, steady_losses(draw.indices))
        assert_lawful(sampler)

    def test_a_sampler_of_a_loader_trains_with_it(self):
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(96, 3, generator=generator)
        targets = (inputs.sum(1) > 0).long()
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        loader = DataLoader(TensorDataset(inputs, targets), batch_size=16, shuffle=True)
        options = {"observations": 64, "fit_size": 32}
        sampler = ApproxSampler(loader, predictor="rais", gate=None, labels=targets, predictor_options=options)
        for _ in range(8):
            for (x, y), draw in sampler:
                losses = torch.nn.functional.cross_entropy(model(x), y, reduction="none")
                optimizer.zero_grad()
                draw.weighted_mean(losses).backward()
                optimizer.step()
                sampler.update(draw, losses)
        metrics = sampler.metrics()
        assert metrics["refits"] > 5
        assert metrics["failed_refits"] == metrics["rejected_predictions"] == 0
        assert metrics["robust_bound"] > 0
        assert metrics["captured"] > 0.3
        accuracy = (model(inputs).argmax(1) == targets).float().mean()
        assert accuracy > 0.9

    def test_memory_grows_by_at_most_32_bytes_a_sample(self):
        def size(num_samples):
            sampler = ImportanceSampler(num_samples, 8, predictor="rais")
            return tensor_bytes(predictor_of(sampler), but=sampler._learner.history)

        assert size(9000) - size(4000) <= 32 * 5000


def tensor_bytes(owner, but):
    """Return the bytes of the tensors that an object and the objects in it hold, but for those of one of them."""
    storages, waiting, met = {}, [owner], {id(but)}
    while waiting:
        found = waiting.pop()
        if id(found) in met:
            continue
        met.add(id(found))
        if isinstance(found, torch.Tensor):
            storages[found.untyped_storage().data_ptr()] = found.untyped_storage().nbytes()
        elif hasattr(found, "__dict__"):
            waiting.extend(vars(found).values())
    assert storages
    return sum(storages.values())


def test_used_alone_it_takes_draws_for_uniform_and_made_just_before():
    options = {"observations": 32, "fit_size": 16, "solver": "l-bfgs", "background": False}
    sampler = make_sampler(12, 4, predictor="rais", predictor_options=options)
    predictor = predictor_of(sampler)
    indices = torch.arange(4)
    for step in range(1, 8):
        predictor.update(indices, steady_losses(indices), step)
        sampler._learner.history.append(indices, steady_losses(indices), step)
    assert predictor.revision == 1
    assert predictor._recent.arrays()[2].tolist() == [1.0] * 24
