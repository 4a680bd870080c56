"""The methods of other papers in the training loop that all methods share, and what draws capture."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

CHOOSERS, GRADIENT_METHODS = ("rs2", "infobatch", "selective-backprop"), ("svrg", "katyusha", "scsg")
METHODS = (*CHOOSERS, *GRADIENT_METHODS)


@pytest.fixture
def task(scripts):
    """Return 60 samples of three classes that a network can learn."""
    targets = torch.arange(72) % 3
    inputs = torch.eye(3)[targets] + 0.3 * torch.randn(72, 3, generator=torch.Generator().manual_seed(0))
    return scripts("samples").split("few", "Few", inputs, targets, 60, ("a", "b", "c"))


@pytest.fixture
def start(scripts, task):
    """Return a maker of trainings on these samples."""

    def make(predictor, **options):
        settings = {"batch_size": 16, "lr": 0.1, "steps": 100, "optimizer": "sgd", **options}
        return scripts("training").Training(scripts("configuration").Config("few", predictor, **settings), task)

    return make


def go(training, steps):
    for _ in zip(range(steps), training.steps(), strict=False):
        pass
    return training


class TestMethods:
    @pytest.mark.parametrize("method", METHODS)
    def test_learns(self, start, method):
        training = start(method)
        first = go(training, 1).evaluate().train_loss
        last = go(training, 60).evaluate()
        assert last.step == 61
        assert last.train_loss < 0.5 * first
        assert last.seconds > last.overhead_ms / 1e3 > 0

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("before", [5, 7])
    def test_goes_on_from_its_state_as_if_nothing_had_happened(self, start, method, before):
        options = {"predictor_options": {"fraction": 0.5}} if method == "rs2" else {}  # for two batches an epoch
        training, other = trainings = [start(method, **options) for _ in range(2)]
        for each in trainings:
            each.model.insert(2, torch.nn.Dropout(0.5))
        steps = training.steps()  # which do not begin the epoch anew, as another iterator would
        for _ in zip(range(before), steps, strict=False):
            pass
        state = copy.deepcopy(training.state_dict())
        for _ in zip(range(9), steps, strict=False):
            pass
        other.load_state_dict(state)
        go(other, 9)
        assert torch.equal(*(torch.cat([value.flatten() for value in each.model.parameters()]) for each in trainings))

    def test_takes_the_options_of_its_class(self, start):
        with pytest.raises(TypeError, match="fraktion"):
            start("rs2", predictor_options={"fraktion": 0.5})
        with pytest.raises(ValueError, match=r"RS2\(fraction=\.\.\.\)"):
            start("rs2", predictor_options={"fraction": 2.0})

    @pytest.mark.parametrize("method", METHODS)
    def test_weight_decay_keeps_weights_small(self, start, method):
        norms = [
            sum(value.square().sum().item() for value in go(start(method, weight_decay=decay), 20).model.parameters())
            for decay in (0.0, 0.5)
        ]
        assert norms[1] < 0.5 * norms[0]

    @pytest.mark.parametrize("method", CHOOSERS)
    def test_a_chooser_refuses_workers_who_would_run_ahead_of_it(self, start, method):
        with pytest.raises(ValueError, match=rf"`--workers` must be 0 for `--predictor {method}`.*; got 2\. Leave it"):
            start(method, workers=2)

    @pytest.mark.parametrize("method", METHODS)
    def test_has_no_k_and_no_gain(self, start, method):
        with pytest.raises(ValueError, match="no weights of approx_is"):
            start(method, k=0.5)
        with pytest.raises(ValueError, match="`--gain` needs a sampler"):
            start(method, gain=True, observe="upper-bound")

    def test_infobatch_anneals_by_the_share_of_all_steps(self, start):
        training = start("infobatch", steps=20)
        chances = [
            set(go(training, steps).chooser.propensities(torch.arange(60), torch.rand(60)).tolist())
            for steps in (16, 4)
        ]
        assert chances == [{0.5, 1.0}, {1.0}]

    def test_the_rate_falls_to_nought(self, start):
        training = start("svrg", schedule="linear", steps=4)
        rates = [training.learning_rate for _ in training.steps()]
        assert rates == pytest.approx([0.075, 0.05, 0.025, 0.0])


class TestAnnealed:
    def test_the_pressure_of_ranks_falls_from_100_to_1(self, start):
        training = start("rank", k=0.0, annealed=True)

        def pressure():
            probabilities = training.sampler.probabilities()
            return (probabilities.max() / probabilities.min()).item()

        go(training, 5)  # the first epoch is uniform, and has 4 steps
        early = pressure()
        go(training, 95)
        assert 50 < early < 100
        assert 1 <= pressure() < 1.3

    def test_replay_draws_by_a_power_and_ends_unbiased(self, start, monkeypatch):
        training, seen = start("last-loss", k=0.4, annealed=True), torch.zeros(60, dtype=torch.float64)
        update = training.sampler.update

        def observe(draw, losses):
            seen[draw.indices] = losses.detach().double()
            update(draw, losses)

        monkeypatch.setattr(training.sampler, "update", observe)
        assert training.sampler._sampler.k == 0.4
        go(training, 50)
        assert training.sampler._sampler.k == pytest.approx(0.7, abs=0.02)
        expected = seen**0.6 / (seen**0.6).sum()
        torch.testing.assert_close(training.sampler.probabilities(), expected, rtol=1e-4, atol=1e-6)
        go(training, 50)
        assert training.sampler._sampler.k == pytest.approx(1.0, abs=0.02)

    @pytest.mark.parametrize(
        ("predictor", "options", "message"),
        [
            ("lstm", {}, "`annealed` is for rank and last-loss; got lstm"),
            ("last-loss", {"gate": "auto"}, "`annealed` is as in the papers, which have no gate"),
        ],
    )
    def test_is_refused_where_papers_have_no_such_thing(self, scripts, predictor, options, message):
        with pytest.raises(ValueError, match=message):
            scripts("configuration").Config("few", predictor, annealed=True, **options)


class TestCaptured:
    def captured(self, scripts, importance, scores, pool, smoothing=0.0):
        values = (torch.tensor(importance), torch.tensor(scores))
        return scripts("capture").captured_by_pools(*values, pool, smoothing=smoothing)

    def test_one_pool_of_all_samples_is_the_whole_distribution(self, scripts):
        assert self.captured(scripts, [1.0, 3.0], [1.0, 3.0], 2) == pytest.approx(1)
        assert self.captured(scripts, [1.0, 3.0], [1.0, 1.0], 2) == pytest.approx(0)
        moment = 2 * (1 / 2 / 1 + 9 / 2 / 2)  # mean score 1.5 · mean of v²/s
        assert self.captured(scripts, [1.0, 3.0], [1.0, 2.0], 2) == pytest.approx(
            math.log(5 / (1.5 * moment / 2)) / math.log(5 / 4)
        )

    def test_small_pools_capture_less(self, scripts):
        importance = torch.rand(3_000, generator=torch.Generator().manual_seed(0)).pow(8).tolist()
        shares = [self.captured(scripts, importance, importance, pool, smoothing=0.1) for pool in (3, 30, 300)]
        assert 0 < shares[0] < shares[1] < shares[2] < 1

    def test_equal_importances_leave_nothing_to_capture(self, scripts):
        assert math.isnan(self.captured(scripts, [1.0, 1.0], [1.0, 1.0], 2))

    @pytest.mark.parametrize(
        ("method", "options"),
        [
            *[(name, {"observe": "upper-bound"}) for name in ("upper-bound", "gradient-norm", "lstm", "last-loss")],
            *[("oracle", {}), ("infobatch", {}), ("selective-backprop", {})],
        ],
    )
    def test_methods_that_prefer_hard_samples_capture_some(self, start, method, options):
        row = go(start(method, **options), 40).evaluate()
        assert 0 < row.captured_of_probe <= 1

    @pytest.mark.parametrize("method", ["uniform", "svrg", "rs2"])
    def test_uniform_draws_capture_nothing(self, start, method):
        assert go(start(method), 10).evaluate().captured_of_probe == 0

    @pytest.mark.parametrize(
        ("is_open", "times_plain_steps", "expected"), [(True, False, 0), (True, True, 1), (False, True, 0)]
    )
    def test_is_of_the_distribution_among_the_samples_looked_at(self, scripts, is_open, times_plain_steps, expected):
        probabilities = torch.tensor([0.125, 0.375, 0.5], dtype=torch.float64)
        plain = torch.full_like(probabilities, 1 / 3)  # those of the next draw, which is a plain one
        training = SimpleNamespace(
            chooser=None,
            config=replace(scripts("configuration").Config("few"), predictor="lstm"),
            sampler=SimpleNamespace(
                probabilities=lambda indices, *, gated: (plain if gated else probabilities)[indices],
                gate=SimpleNamespace(is_open=is_open, times_plain_steps=times_plain_steps),
            ),
        )
        bounds = torch.tensor([1.0, 3.0])
        share = scripts("capture").share_captured(training, torch.tensor([0, 1]), bounds, bounds)
        assert share == pytest.approx(expected)

    def test_gradient_norms_are_of_the_same_samples_each_time_not_of_the_first_ones(self, scripts, start, monkeypatch):
        training, scored = start("gradient-norm", observe="upper-bound", batch_size=2), []
        monkeypatch.setattr(
            scripts("capture"), "_gradient_norms", lambda _, indices: scored.append(indices) or torch.ones(len(indices))
        )
        importance = torch.rand(60, generator=torch.Generator().manual_seed(0))
        shares = [
            scripts("capture").share_captured(training, torch.arange(100, 160), importance, importance)
            for _ in range(2)
        ]
        assert shares == [pytest.approx(0, abs=1e-6)] * 2
        assert torch.equal(*scored)
        assert len(scored[0].unique()) == 8 * 6  # pools of three times the batch
        assert scored[0].max() >= 148

    @pytest.mark.parametrize(("options", "pool"), [({}, 48), ({"presample": 2}, 32)])
    def test_pools_are_those_of_the_predictor(self, scripts, start, monkeypatch, options, pool):
        asked = []
        monkeypatch.setattr(
            scripts("capture"), "captured_by_pools", lambda *values, **named: asked.append((*values[2:], named))
        )
        training = start("upper-bound", observe="upper-bound", predictor_options=options)
        scripts("capture").share_captured(training, torch.arange(60), torch.ones(60), torch.ones(60))
        assert asked == [(pool, {"smoothing": 0.1})]
