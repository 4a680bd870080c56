import itertools
import math

import laws
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from approx_is import ApproxSampler, GainRatio, VarianceGate
from approx_is.gain import LARGEST_GAIN, gain_ratio, second_moments
from approx_is.weighting import importance_weights

GOLDEN_NORMS = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
GOLDEN_PROBABILITIES = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
GOLDEN_WEIGHTS = 1 / (10 * GOLDEN_PROBABILITIES)
PATIENCE = 8


def random_problem(seed, size=4, features=3):
    """Return per-sample gradients [N, P] and probabilities [N], float64."""
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(size, features, dtype=torch.float64, generator=generator)
    probabilities = torch.rand(size, dtype=torch.float64, generator=generator) + 0.05
    return gradients, probabilities / probabilities.sum()


def second_moment_by_enumeration(gradients, probabilities, weights, batch_size):
    """Return the expected squared norm of a minibatch gradient, over all tuples of draws."""
    total = 0.0
    for draws in itertools.product(range(len(gradients)), repeat=batch_size):
        draws = torch.tensor(draws)
        gradient = (weights[draws].unsqueeze(1) * gradients[draws]).mean(0)
        total += float(probabilities[draws].prod() * gradient.square().sum())
    return total


def observe(gain, moments, batches=1, batch_size=4, uniform=False):
    for _ in range(batches):
        gain.observe(torch.tensor(moments, dtype=torch.float64), batch_size, uniform=uniform)


def believed(moments=(2.5, 1.0), batch_size=4, **arguments):
    """Return a ratio that has seen enough batches of these moments."""
    gain = GainRatio(**arguments)
    observe(gain, moments, PATIENCE, batch_size)
    return gain


class TestSecondMoments:
    def test_golden_values(self):
        assert GOLDEN_WEIGHTS.tolist() == pytest.approx([1, 0.5, 1 / 3, 0.25])
        moments = second_moments(GOLDEN_NORMS, GOLDEN_WEIGHTS, GOLDEN_WEIGHTS)
        assert moments.dtype == torch.float64
        assert moments.tolist() == pytest.approx([2.5, 1.0], rel=1e-9)

    @pytest.mark.parametrize("k", [1.0, 0.75, 0.5, 0.0, -1.0])
    def test_are_unbiased_by_enumeration(self, k):
        gradients, probabilities = random_problem(0, size=5)
        norms = gradients.norm(dim=1)
        unbiased, weights = (importance_weights(probabilities, 5, power).double() for power in (1.0, k))
        one_draw = [second_moments(norms[[i]], unbiased[[i]], weights[[i]]) for i in range(5)]
        expected = [norms.square().mean(), (probabilities * (weights * norms) ** 2).sum()]
        torch.testing.assert_close(probabilities @ torch.stack(one_draw), torch.stack(expected), rtol=1e-6, atol=0)

    def test_of_unbiased_weights_is_the_mean_of_squares_over_np(self):
        gradients, probabilities = random_problem(1, size=5)
        norms, weights = gradients.norm(dim=1), 1 / (5 * probabilities)
        one_draw = torch.stack([second_moments(norms[[i]], weights[[i]], weights[[i]]) for i in range(5)])
        expected = (norms**2 / (5 * probabilities)).mean()
        assert (probabilities @ one_draw)[1].item() == pytest.approx(expected.item(), rel=1e-12)

    def test_at_half_the_exponent_are_alike_whatever_was_drawn(self):
        moments = second_moments(GOLDEN_NORMS, GOLDEN_WEIGHTS, GOLDEN_WEIGHTS.sqrt())
        assert moments[0].item() == pytest.approx(moments[1].item(), rel=1e-15)

    def test_average_over_the_batch(self):
        halves = [second_moments(GOLDEN_NORMS[half], *[GOLDEN_WEIGHTS[half]] * 2) for half in ([0, 3], [1, 2])]
        whole = second_moments(GOLDEN_NORMS, GOLDEN_WEIGHTS, GOLDEN_WEIGHTS)
        torch.testing.assert_close(torch.stack(halves).mean(0), whole, rtol=1e-15, atol=0)

    def test_of_norms_that_overflow_float32_when_squared_are_finite(self):
        weights = torch.ones(2, dtype=torch.float64)
        moments = second_moments(torch.tensor([1e30, 0.0]), weights, weights.float())
        assert moments.tolist() == pytest.approx([5e59, 5e59], rel=1e-6)


class TestGainRatioOfMoments:
    def test_golden_value(self):
        assert gain_ratio(2.5, 0.4, 4) == pytest.approx(2.05, rel=1e-9)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize(("size", "batch_size"), [(3, 1), (4, 2), (3, 3), (2, 5)])
    def test_is_the_ratio_of_minibatch_second_moments_by_enumeration(self, size, batch_size, seed):
        gradients, probabilities = random_problem(seed, size)
        weights, uniform = 1 / (size * probabilities), torch.full_like(probabilities, 1 / size)
        of_uniform = second_moment_by_enumeration(gradients, uniform, torch.ones_like(weights), batch_size)
        of_weighted = second_moment_by_enumeration(gradients, probabilities, weights, batch_size)
        squares = gradients.square().sum(1)
        variance_ratio = squares.mean() / (probabilities * weights**2 * squares).sum()
        signal_share = gradients.mean(0).square().sum() / of_weighted
        found = gain_ratio(float(variance_ratio), float(signal_share), batch_size)
        assert found == pytest.approx(of_uniform / of_weighted, rel=1e-12)

    @given(st.floats(0.01, 100), st.floats(0, 1))
    def test_of_one_draw_is_the_variance_ratio(self, variance_ratio, signal_share):
        assert gain_ratio(variance_ratio, signal_share, 1) == pytest.approx(variance_ratio, rel=1e-12)

    @given(st.floats(0.01, 100), st.integers(1, 10_000))
    def test_without_signal_is_the_variance_ratio(self, variance_ratio, batch_size):
        assert gain_ratio(variance_ratio, 0.0, batch_size) == pytest.approx(variance_ratio, rel=1e-12)

    @given(st.floats(1, 100), st.integers(1, 1000), st.floats(0, 1), st.floats(0, 1))
    def test_falls_with_signal_and_batch_size_but_not_below_1(self, variance_ratio, batch_size, one, other):
        less, more = sorted((one, other))
        assert gain_ratio(variance_ratio, less, batch_size) >= gain_ratio(variance_ratio, more, batch_size) >= 1
        assert gain_ratio(variance_ratio, one, batch_size) >= gain_ratio(variance_ratio, one, batch_size + 1)

    @given(st.floats(0, 1), st.integers(1, 1000))
    def test_of_equal_variances_is_exactly_1(self, signal_share, batch_size):
        assert gain_ratio(1.0, signal_share, batch_size) == 1.0


class TestGainRatio:
    def test_golden_values(self):
        gain = believed()
        assert gain.variance_ratio == pytest.approx(2.5, rel=1e-9)
        assert gain.value == pytest.approx(2.5, rel=1e-9)
        gain.observe_signal(0.8, 2.0)
        assert gain.signal_share == pytest.approx(0.4, rel=1e-9)
        assert gain.value == pytest.approx(2.05, rel=1e-9)

    def test_divides_averages_rather_than_averaging_quotients(self):
        gain = believed((1.0, 1.0), rate=0.5)
        observe(gain, (9.0, 1.0))
        share = 1 - 0.5 ** (PATIENCE + 1)
        assert gain.variance_ratio == pytest.approx((0.5 * 9 + share - 0.5) / share, rel=1e-12)
        gain.observe_signal(1.0, 1.0)
        gain.observe_signal(0.0, 5.0)
        assert gain.signal_share == pytest.approx(0.25 / (0.25 + 0.5 * 5), rel=1e-12)

    @given(st.sampled_from([1e-30, 1e-3, 7.0, 1e15]), st.sampled_from([1e-10, 3.0, 1e12]))
    def test_does_not_depend_on_the_units_of_norms_and_gradients(self, unit_of_norms, unit_of_gradients):
        gain = believed((2.5 * unit_of_norms**2, unit_of_norms**2))
        gain.observe_signal(0.4 * unit_of_gradients**2, unit_of_gradients**2)
        assert gain.value == pytest.approx(2.05, rel=1e-9)

    @pytest.mark.parametrize(("excess", "expected"), [(1e-7, 1.0), (2e-6, 1 + 2e-6)])
    def test_is_exactly_1_within_the_rounding_of_weights(self, excess, expected):
        assert believed((1 + excess, 1.0)).value == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize(
        ("moments", "expected"),
        [((0.5, 1.0), 1.0), ((3.0, 1.0), 3.0), ((30.0, 1.0), LARGEST_GAIN), ((1e60, 1e-60), 10)],
    )
    def test_is_clipped_to_1_and_10(self, moments, expected):
        assert believed(moments).value == pytest.approx(expected, rel=1e-12)

    def test_is_1_for_8_batches_after_uniform_ones(self):
        gain = GainRatio()
        asked = []
        for batch in range(14):
            asked.append(gain.value)  # before the batch is observed, as a schedule asks
            observe(gain, (2.5, 1.0), uniform=batch < 3)
        assert asked == [1.0] * (3 + PATIENCE) + [pytest.approx(2.5)] * 3

    def test_is_1_while_draws_are_uniform_whatever_their_moments(self):
        gain = GainRatio()
        observe(gain, (2.5, 1.0), 50, uniform=True)
        assert gain.value == 1.0
        assert gain.variance_ratio == 1.0

    def test_starts_anew_when_uniform_batches_return(self):
        gain = believed((6.0, 1.0))
        observe(gain, (6.0, 1.0), uniform=True)
        asked = []
        for _ in range(PATIENCE + 1):
            asked.append(gain.value)
            observe(gain, (2.0, 1.0))
        assert asked == [1.0] * PATIENCE + [pytest.approx(2.0)]

    def test_uniform_batches_need_no_moments(self):
        gain, other = believed((6.0, 1.0)), believed((6.0, 1.0))
        for _ in range(2):
            gain.observe(None, 4, uniform=True)
            observe(other, (6.0, 1.0), uniform=True)
            laws.assert_same(laws.snapshot(gain), laws.snapshot(other))
        assert gain.value == gain.variance_ratio == 1.0

    def test_uniform_batches_without_moments_count_among_the_draws_of_a_step(self):
        gain = believed((2.5, 1.0), batch_size=1)
        gain.end_step()
        gain.observe(None, 3, uniform=True)
        gain.observe(None, 2, uniform=True)
        gain.end_step()
        gain.observe_signal(0.4, 1.0)
        assert gain.state_dict()["batch_size"] == 5

    def test_a_batch_by_importance_of_which_no_moments_are_known_is_skipped(self):
        gain, spared = GainRatio(), GainRatio()
        for _ in range(5):
            gain.observe(None, 4, uniform=False)
        for each in (gain, spared):
            observe(each, (2.5, 1.0), PATIENCE - 1)
        assert gain.value == spared.value == 1.0
        observe(gain, (2.5, 1.0))
        assert gain.value == pytest.approx(2.5)

    def test_patience_can_be_chosen(self):
        gain = GainRatio(patience=2)
        observe(gain, (2.5, 1.0))
        assert gain.value == 1.0
        observe(gain, (2.5, 1.0))
        assert gain.value == pytest.approx(2.5)

    @pytest.mark.parametrize("moments", [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (1.0, math.inf)])
    def test_moments_that_are_not_finite_are_skipped(self, moments):
        gain, spared = GainRatio(), GainRatio()
        observe(gain, moments, batches=5)
        observe(spared, (2.5, 1.0), PATIENCE - 1)
        observe(gain, (2.5, 1.0), PATIENCE - 1)
        assert gain.value == spared.value == 1.0
        observe(gain, (2.5, 1.0))
        assert gain.value == pytest.approx(2.5)
        laws.assert_all_finite(gain.state_dict())

    @pytest.mark.parametrize(
        ("signal", "squared_norm"), [(math.nan, 1.0), (1.0, math.nan), (math.inf, math.inf), (-math.inf, 1.0)]
    )
    def test_signals_that_are_not_finite_are_skipped(self, signal, squared_norm):
        gain = believed()
        gain.observe_signal(0.4, 1.0)
        with laws.assert_unchanged(gain):
            gain.observe_signal(signal, squared_norm)

    def test_norms_of_0_gain_nothing(self):
        gain = believed((0.0, 0.0))
        assert gain.variance_ratio == 1.0
        assert gain.value == 1.0

    def test_gradients_of_0_have_no_signal(self):
        gain = believed()
        gain.observe_signal(0.0, 0.0)
        assert gain.signal_share == 0.0
        assert gain.value == pytest.approx(2.5)

    @pytest.mark.parametrize(("signal", "expected"), [(-3.0, 0.0), (0.25, 0.25), (7.0, 1.0)])
    def test_the_signal_share_is_clipped_to_0_and_1(self, signal, expected):
        gain = believed()
        gain.observe_signal(signal, 1.0)
        assert gain.signal_share == expected

    def test_signals_of_either_sign_cancel_before_they_are_clipped(self):
        gain = believed(rate=1e-6)
        for signal in (-1.0, 2.0) * 50:
            gain.observe_signal(signal, 1.0)
        assert gain.signal_share == pytest.approx(0.5, abs=1e-3)

    def test_where_all_is_signal_only_the_share_of_one_draw_is_gained(self):
        gain = believed((3.0, 1.0), batch_size=4)
        gain.observe_signal(1.0, 1.0)
        assert gain.value == pytest.approx(1 + 2 / 4)

    def test_draws_of_a_step_are_all_of_its_batches(self):
        gain = GainRatio()
        gain.observe_signal(0.4, 1.0)
        for _ in range(PATIENCE):
            observe(gain, (2.5, 1.0), batches=4, batch_size=1)
            gain.end_step()
        assert gain.value == pytest.approx(2.05)
        gain.end_step()  # twice, or before anything was observed, is once
        assert gain.value == pytest.approx(2.05)

    def test_without_the_end_of_steps_a_batch_is_a_step(self):
        gain = GainRatio()
        gain.observe_signal(0.4, 1.0)
        observe(gain, (2.5, 1.0), PATIENCE, batch_size=100)
        observe(gain, (2.5, 1.0), batch_size=4)
        assert gain.value == pytest.approx(2.05)

    def test_batches_skipped_or_uniform_count_among_the_draws_of_a_step(self):
        gain = believed((2.5, 1.0))
        gain.observe_signal(0.4, 1.0)
        gain.end_step()
        for moments in ((2.5, 1.0), (math.nan, 1.0)):
            observe(gain, moments, batch_size=2)
        gain.end_step()
        assert gain.value == pytest.approx(2.05)

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"patience": 0}, r"`GainRatio\(patience=...\)` must be at least 1; got 0"),
            ({"rate": 0.0}, r"must be in \(0, 1\]; got 0.0"),
            ({"rate": 2}, r"must be in \(0, 1\]; got 2"),
        ],
    )
    def test_arguments_out_of_bounds_are_refused(self, arguments, match):
        with pytest.raises(ValueError, match=match):
            GainRatio(**arguments)

    @pytest.mark.parametrize("uniform", [False, True])
    def test_a_batch_without_draws_is_refused_and_changes_nothing(self, uniform):
        gain = believed()
        with (
            laws.assert_unchanged(gain),
            pytest.raises(ValueError, match=r"`GainRatio.observe\(batch_size\)` must be at least 1; got 0"),
        ):
            observe(gain, (2.5, 1.0), batch_size=0, uniform=uniform)


class TestState:
    def test_goes_on_to_the_bit_from_a_file(self):
        gain, resumed = GainRatio(), GainRatio()
        observe(gain, (2.5, 1.0), 5)
        gain.observe_signal(0.3, 1.0)
        gain.end_step()
        observe(gain, (2.5, 1.0), batch_size=3)
        resumed.load_state_dict(laws.through_file(gain.state_dict()))
        for each in (gain, resumed):
            observe(each, (5.0, 1.5), 6, batch_size=3)
            each.observe_signal(0.1, 1.0)
            each.end_step()
        assert resumed.value == gain.value > 1
        laws.assert_same(laws.snapshot(resumed), laws.snapshot(gain))

    @pytest.mark.parametrize("name", ["moments", "signal", "batches", "batch_size", "draws"])
    def test_without_one_of_its_entries_changes_nothing(self, name):
        state = laws.snapshot(believed())
        del state[name]
        self.assert_refused(state, rf"missing \['{name}'\], unknown \[\]")

    @pytest.mark.parametrize(
        ("path", "value", "match"),
        [
            (["batches"], -1, r"\['batches'\]` must be at least 0; got -1"),
            (["batch_size"], 0, r"\['batch_size'\]` must be at least 1; got 0"),
            (["draws"], -2, r"\['draws'\]` must be at least 0; got -2"),
            (["batches"], 1.0, "must be of type int; got float"),
            (["moments", "sums"], torch.full((2,), math.nan, dtype=torch.float64), "must be finite"),
            (["moments", "sums"], torch.zeros(3, dtype=torch.float64), r"must be torch.float64 \[2\]"),
            (["signal", "share"], math.inf, "must be finite"),
            (["signal", "share"], 2.0, r"\['share'\]` must be in \[0, 1\]"),
        ],
    )
    def test_damaged_changes_nothing(self, path, value, match):
        state = laws.snapshot(believed())
        parent = state
        for name in path[:-1]:
            parent = parent[name]
        parent[path[-1]] = value
        self.assert_refused(state, match)

    def assert_refused(self, state, match):
        gain = believed((3.0, 1.0))
        gain.observe_signal(0.1, 1.0)
        with laws.assert_unchanged(gain), pytest.raises(ValueError, match=match):
            gain.load_state_dict(state)


def spread_norms(indices):
    """Return norms of which one in ten is 50 times the others."""
    return torch.where(indices % 10 == 0, 50.0, 1.0)


class TestInASampler:
    NUM_SAMPLES = 40
    WARM_UP = 10  # steps

    def make(self, **arguments):
        return laws.make_sampler(self.NUM_SAMPLES, 4, **{"smoothing": 0.1, **arguments})

    def test_is_1_in_the_first_epoch_and_for_8_batches_after(self):
        sampler = self.make()
        asked = []
        for _ in range(self.WARM_UP + PATIENCE + 1):
            asked.append(sampler.gain.value)
            laws.train(sampler, 1, spread_norms)
        assert asked[:-1] == [1.0] * (self.WARM_UP + PATIENCE)
        assert asked[-1] > 2

    @pytest.mark.parametrize("relative_cost", [None, 1.0], ids=["asleep", "learning"])
    def test_is_1_while_a_gate_is_closed(self, relative_cost):
        sampler = self.make(gate=VarianceGate(margin=math.inf, relative_cost=relative_cost))
        for _ in range(6 * self.WARM_UP):
            laws.train(sampler, 1, spread_norms)
            assert sampler.gain.value == sampler.gain.variance_ratio == 1.0

    def test_is_1_for_8_batches_after_a_gate_opened(self):
        sampler = self.make(gate=VarianceGate(relative_cost=1.0))
        for _ in range(100):
            if not sampler.gate.is_open:
                laws.train(sampler, 1, spread_norms)
        assert sampler.gate.is_open
        asked = []
        for _ in range(PATIENCE + 1):
            asked.append(sampler.gain.value)
            laws.train(sampler, 1, spread_norms)
        assert asked[:-1] == [1.0] * PATIENCE
        assert asked[-1] > 2

    def test_finds_the_variance_ratio_of_its_probabilities(self):
        sampler = self.make(predictor="last-loss")
        laws.train(sampler, self.WARM_UP + 200, spread_norms)
        norms = spread_norms(torch.arange(self.NUM_SAMPLES)).double()
        squares = norms**2 / (self.NUM_SAMPLES * sampler.probabilities())
        expected = float((norms**2).mean() / squares.mean())
        assert expected > 3
        assert sampler.gain.variance_ratio == pytest.approx(expected, rel=0.2)

    def test_takes_the_moments_of_what_it_was_shown(self):
        sampler = self.make()
        laws.train(sampler, self.WARM_UP, spread_norms)
        draw = sampler.draw()
        observed = torch.tensor([1.0, 2.0, 3.0, 4.0])
        sampler.update(draw, observed)
        unbiased = 1 / (self.NUM_SAMPLES * draw.probabilities)
        uniform, weighted = second_moments(observed, unbiased, draw.weights).tolist()
        assert sampler.gain.variance_ratio == pytest.approx(uniform / weighted, rel=1e-12)

    def test_does_not_depend_on_the_unit_of_what_is_observed(self):
        ratios = []
        for unit in (1.0, 1e-6, 1e6):
            sampler = self.make(smoothing=0.1 * unit, seed=3)
            laws.train(sampler, 60, lambda indices, unit=unit: unit * spread_norms(indices))
            ratios.append(sampler.gain.value)
        assert ratios[0] > 2
        assert ratios == pytest.approx([ratios[0]] * 3, rel=1e-3)

    @pytest.mark.parametrize("arguments", [{"predictor": "uniform"}, {"k": 0.5}], ids=str)
    def test_of_which_nothing_is_gained_stays_exactly_1(self, arguments):
        sampler = self.make(**arguments)
        for _ in range(60):
            laws.train(sampler, 1, spread_norms)
            assert sampler.gain.value == 1.0

    def test_counts_the_weights_that_gradients_had(self):
        ratios = {}
        for k in (1.0, 0.75, 0.5, 0.0):
            sampler = self.make(k=k)
            laws.train(sampler, 100, spread_norms)
            ratios[k] = sampler.gain.variance_ratio
        assert ratios[1.0] > ratios[0.75] > 1.2
        assert ratios[0.5] == pytest.approx(1.0, rel=1e-6)
        assert ratios[0.0] < 0.8

    def test_leaves_out_observations_that_are_not_finite(self):
        sampler = self.make()
        laws.train(sampler, 40, lambda indices: torch.where(indices % 3 == 0, math.nan, spread_norms(indices)))
        laws.assert_all_finite(sampler.gain.state_dict())
        assert sampler.gain.value > 1
        with laws.assert_unchanged(sampler.gain._moments):
            laws.train(sampler, 3, lambda indices: torch.full(indices.shape, math.nan))

    @pytest.mark.parametrize("norm", [0.0, 1e30])
    def test_bears_norms_of_0_and_1e30(self, norm):
        sampler = self.make(smoothing="adaptive")
        laws.train(sampler, 40, lambda indices: torch.full(indices.shape, norm))
        laws.assert_all_finite(sampler.gain.state_dict())
        assert sampler.gain.value == 1.0

    def test_is_among_the_metrics(self):
        sampler = self.make()
        assert sampler.metrics()["gain_ratio"] == 1.0
        laws.train(sampler, 60, spread_norms)
        assert sampler.metrics()["gain_ratio"] == sampler.gain.value > 2

    def test_is_resumed_to_the_bit_with_the_sampler(self):
        sampler, resumed = self.make(seed=1), self.make(seed=1)
        laws.train(sampler, self.WARM_UP + 5, spread_norms)
        sampler.gain.observe_signal(0.2, 1.0)
        resumed.load_state_dict(laws.through_file(sampler.state_dict()))
        laws.assert_same(laws.snapshot(resumed.gain), laws.snapshot(sampler.gain))
        for each in (sampler, resumed):
            laws.train(each, 10, spread_norms)
        assert resumed.gain.value == sampler.gain.value > 1
        laws.assert_same(laws.snapshot(resumed), laws.snapshot(sampler))

    @pytest.mark.parametrize(
        ("path", "value", "match"),
        [
            (["batches"], 1.0, r"\['gain'\]\['batches'\]` must be of type int"),
            (["moments", "sums"], torch.full((2,), math.nan, dtype=torch.float64), r"\['gain'\].*must be finite"),
            (["signal"], {}, r"\['gain'\]\['signal'\]` has not the expected entries"),
        ],
    )
    def test_damaged_in_a_sampler_changes_nothing_of_it(self, path, value, match):
        sampler, other = self.make(), self.make()
        laws.train(sampler, self.WARM_UP + 5, spread_norms)
        state = laws.snapshot(sampler)
        parent = state["gain"]
        for name in path[:-1]:
            parent = parent[name]
        parent[path[-1]] = value
        laws.train(other, 3, spread_norms)
        with laws.assert_unchanged(other), pytest.raises(ValueError, match=match):
            other.load_state_dict(state)

    def test_is_that_of_a_loader_too(self):
        loader = DataLoader(torch.arange(self.NUM_SAMPLES), batch_size=4)
        sampler = ApproxSampler(loader, predictor="last-loss", smoothing=0.1, gate=None)
        for _ in range(4):
            for _, draw in sampler:
                sampler.update(draw, spread_norms(draw.indices))
        assert isinstance(sampler.gain, GainRatio)
        assert sampler.metrics()["gain_ratio"] == sampler.gain.value > 2


@pytest.mark.parametrize("outlier", [1e3, 1e15, 1e30])
def test_one_outlier_does_not_make_the_ratio_its_own(outlier):
    gain = GainRatio()
    for _ in range(100):
        gain.observe(second_moments(torch.ones(8), torch.ones(8).double(), torch.ones(8)), 8, uniform=False)
    norms, weights = torch.ones(8), torch.ones(8)
    norms[0], weights[0] = outlier, 0.1  # would be a ratio of 10 until it is forgotten
    gain.observe(second_moments(norms, weights.double(), weights), 8, uniform=False)
    assert gain.value < 1.1


def test_moments_of_batches_handed_in_later_count_as_often():
    later, at_once = GainRatio(), believed()
    for moments in ((2.5, 1.0), (3.0, 1.0)):
        for _ in range(PATIENCE):
            later.observe(None, 4, uniform=False)
        later.observe_moments(torch.tensor(moments, dtype=torch.float64), PATIENCE)
    observe(at_once, (3.0, 1.0), PATIENCE)
    assert later.value == pytest.approx(at_once.value, rel=1e-12)
    laws.assert_same({**laws.snapshot(later), "moments": 0}, {**laws.snapshot(at_once), "moments": 0})


def test_moments_handed_in_later_that_are_not_finite_are_skipped():
    gain = believed()
    with laws.assert_unchanged(gain):
        gain.observe_moments(torch.tensor([math.nan, 1.0], dtype=torch.float64), 8)
