"""The oracle: its scores, what scoring leaves as it was, sizes of batches, and errors."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_global_randomness_untouched, assert_same, observe
from torch import nn

from approx_is import LossHistory, per_sample_gradient_norms, upper_bound
from approx_is.batches import ScoreError
from approx_is.predictors.oracle import GradientNormOracle, Oracle, UpperBoundOracle
from approx_is.predictors.presampling_sizes import equal_time_sizes, presampling_threshold

ORACLES = [Oracle, UpperBoundOracle, GradientNormOracle]
SIZE = 7

every_oracle = pytest.mark.parametrize("oracle", ORACLES)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Network(nn.Module):
    """Has all that differs between the modes: dropout, batch normalisation, and a part that is frozen."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
        self.frozen = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5)).eval()
        self.head = nn.Linear(8, 3)

    def forward(self, inputs):
        return self.head(self.frozen(self.body(inputs)))


def make(oracle=Oracle, model=None, **options):
    history = LossHistory(12, 4)
    model = nn.Linear(4, 3) if model is None else model
    return oracle(history, None, 1, torch.Generator(), model=model, **options)


def pair(size=SIZE):
    return torch.randn(size, 4), torch.randint(3, (size,))


def modes(model):
    return [module.training for module in model.modules()]


def constant(value):
    """A score function that returns the same, whatever it is given."""
    return lambda model, batch: value


class TestScores:
    def test_golden_value_of_zero_logits(self):
        predictor = make(UpperBoundOracle, nn.Identity())
        scores = predictor.score((torch.zeros(3, 10), torch.tensor([1, 2, 3])), 3, 2)
        assert scores.tolist() == pytest.approx([0.948683] * 3, abs=1e-6)

    def test_are_of_the_loss_the_upper_bound_and_the_gradient_norm(self):
        model, (inputs, targets) = Network().eval(), pair()
        outputs = model(inputs).detach()
        expected = [
            F.cross_entropy(outputs, targets, reduction="none"),
            upper_bound(outputs, targets),
            per_sample_gradient_norms(model, F.cross_entropy, inputs, targets),
        ]
        for oracle, scores in zip(ORACLES, expected, strict=True):
            found = make(oracle, model.train()).score((inputs, targets), SIZE, 3)
            assert (found.dtype, found.requires_grad) == (torch.float32, False)
            torch.testing.assert_close(found, scores, rtol=1e-5, atol=1e-6)

    @every_oracle
    def test_are_of_the_loss_that_is_named(self, oracle):
        model, batch = nn.Linear(4, 3), (torch.randn(SIZE, 4), torch.randn(SIZE, 3))
        errors = (model(batch[0]) - batch[1]).detach()
        factor = torch.sqrt(1 + batch[0].square().sum(1))
        expected = {
            Oracle: errors.square().mean(1),
            UpperBoundOracle: 2 * errors.norm(dim=1),
            GradientNormOracle: 2 / 3 * errors.norm(dim=1) * factor,
        }
        found = make(oracle, model, loss="squared").score(batch, SIZE, SIZE)
        torch.testing.assert_close(found, expected[oracle])

    @every_oracle
    @pytest.mark.parametrize("micro_batch", [None, 1, 2, 7, 100])
    def test_do_not_depend_on_the_micro_batch(self, oracle, micro_batch):
        model, batch = Network(), pair()
        whole = make(oracle, model).score(batch, SIZE, SIZE)
        torch.testing.assert_close(make(oracle, model, micro_batch=micro_batch).score(batch, SIZE, 3), whole)

    @pytest.mark.parametrize(("micro_batch", "sizes"), [(None, [3, 3, 1]), (5, [5, 2]), (100, [7])])
    def test_are_computed_a_micro_batch_at_a_time(self, micro_batch, sizes):
        seen = []

        def score(model, batch):
            seen.append(len(batch))
            return batch[:, 0].abs()

        make(score=score, micro_batch=micro_batch).score(torch.ones(SIZE, 4), SIZE, 3)
        assert seen == sizes

    def test_of_a_users_function_on_a_dict_with_strings(self):
        batch = {"x": torch.randn(SIZE, 4), "names": [str(position) for position in range(SIZE)], "extra": None}

        def score(model, batch):
            assert batch["extra"] is None
            return torch.tensor([float(name) for name in batch["names"]]) + 0 * model(batch["x"]).sum(1)

        predictor = make(score=score)
        scores = predictor.score(batch, SIZE, 2)
        assert scores.tolist() == list(range(SIZE))
        chosen = predictor.select(batch, torch.tensor([6, 2, 2]))
        assert chosen["names"] == ["6", "2", "2"]
        assert torch.equal(chosen["x"], batch["x"][[6, 2, 2]])

    def test_of_a_batch_that_only_the_user_can_take_apart(self):
        batch = ("train", {3: 1.0, 4: 9.0, 5: 4.0})

        def select(batch, positions):
            keys = list(batch[1])
            return batch[0], {keys[position]: batch[1][keys[position]] for position in positions.tolist()}

        predictor = make(score=lambda model, batch: torch.tensor(list(batch[1].values())), select=select)
        assert predictor.score(batch, 3, 2).tolist() == [1.0, 9.0, 4.0]
        assert predictor.select(batch, torch.tensor([2])) == ("train", {5: 4.0})

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16, torch.float64])
    def test_of_any_real_dtype_become_float32(self, dtype):
        scores = make(score=lambda model, batch: batch).score(torch.tensor([0, 1, 1]).to(dtype), 3, 2)
        assert_same(scores, torch.tensor([0.0, 1.0, 1.0]))

    def test_are_computed_without_gradients(self):
        seen = []

        def score(model, batch):
            seen.append(torch.is_grad_enabled())
            return batch

        make(score=score).score(torch.ones(2), 2, 1)
        assert seen == [False, False]

    def test_that_have_a_graph_are_detached(self):
        def score(model, batch):
            with torch.enable_grad():
                return model(batch).square().sum(1)

        assert not make(score=score).score(torch.ones(2, 4), 2, 2).requires_grad

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    @every_oracle
    def test_of_a_model_on_a_gpu_are_on_the_historys_device(self, oracle):
        model, batch = Network(), pair()
        expected = make(oracle, model).score(batch, SIZE, 3)
        found = make(oracle, model.cuda()).score(tuple(part.pin_memory() for part in batch), SIZE, 3)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        reduced = make(oracle, model, autocast_dtype=torch.float16).score(batch, SIZE, 3)
        torch.testing.assert_close(reduced, expected, rtol=0.05, atol=0.02)


class TestScoringLeaves:
    @every_oracle
    def test_modes_parameters_buffers_gradients_and_generators_alone(self, oracle):
        model, batch = Network(), pair()
        model.train()
        model.frozen.eval()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        before = modes(model)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        with assert_global_randomness_untouched():
            make(oracle, model).score(batch, SIZE, 2)
        assert modes(model) == before
        assert set(before) == {True, False}
        assert_same(dict(model.state_dict()), state)
        assert_same([parameter.grad for parameter in model.parameters()], gradients)
        assert torch.is_grad_enabled()

    def test_modes_alone_also_when_the_score_raises(self):
        model = Network()
        before = modes(model)
        seen = []

        def score(model, batch):
            seen.extend(modes(model))
            raise KeyError("labels")

        with pytest.raises(ScoreError, match="labels"):
            make(model=model, score=score).score(pair(), SIZE, 2)
        assert not any(seen)
        assert modes(model) == before
        assert torch.is_grad_enabled()

    def test_modes_alone_that_a_score_function_changes(self):
        model = Network()
        before = modes(model)

        def score(model, batch):
            model.train()
            return torch.ones(len(batch[0]))

        make(model=model, score=score).score(pair(), SIZE, 2)
        assert modes(model) == before

    def test_what_train_and_eval_do_besides_undone(self):
        class Merging(nn.Linear):
            def train(self, mode=True):
                self.merged = not mode  # as low-rank adapters merge their weights
                return super().train(mode)

        model = Merging(4, 3).train()
        make(model=model).score(pair(), SIZE, 2)
        assert (model.training, model.merged) == (True, False)

    def test_training_within_the_same_autocast_its_gradients_and_new_weights(self):
        model, batch = nn.Linear(4, 3), pair()
        predictor = make(UpperBoundOracle, model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predictor.score(batch, SIZE, 2)
            F.cross_entropy(model(batch[0]), batch[1]).backward()
            with torch.no_grad():
                model.weight.mul_(10)
            found = predictor.score(batch, SIZE, 2)
            assert torch.is_autocast_cache_enabled()
        assert model.weight.grad.abs().sum() > 0
        expected = make(UpperBoundOracle, model, autocast_dtype=torch.bfloat16).score(batch, SIZE, 2)
        assert torch.equal(found, expected)


class TestAutocast:
    def dtypes(self, predictor, model):
        seen = []
        hook = model.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs.dtype))
        scores = predictor.score(pair(), SIZE, SIZE)
        hook.remove()
        assert scores.dtype == torch.float32
        return seen

    @every_oracle
    def test_scores_in_the_dtype_that_is_asked_for(self, oracle):
        model = nn.Linear(4, 3)
        assert self.dtypes(make(oracle, model, autocast_dtype=torch.bfloat16), model) == [torch.bfloat16]
        assert not torch.is_autocast_enabled("cpu")

    @every_oracle
    def test_is_left_as_it_is_without_one(self, oracle):
        model = nn.Linear(4, 3)
        predictor = make(oracle, model)
        assert self.dtypes(predictor, model) == [torch.float32]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert self.dtypes(predictor, model) == [torch.bfloat16]
            assert torch.is_autocast_enabled("cpu")

    @every_oracle
    def test_scores_are_close_to_those_of_full_precision(self, oracle):
        model, batch = nn.Linear(4, 3), pair()
        full = make(oracle, model).score(batch, SIZE, SIZE)
        half = make(oracle, model, autocast_dtype=torch.bfloat16).score(batch, SIZE, SIZE)
        assert not torch.equal(half, full)
        torch.testing.assert_close(half, full, rtol=0.05, atol=0.01)


class TestPredictor:
    def test_predicts_the_latest_observations(self):
        predictor = make()
        observe(predictor, predictor._history, [(torch.tensor([0, 3]), torch.tensor([5.0, 2.0]))])
        assert predictor.predict(torch.tensor([3, 0, 1])).tolist() == [2.0, 5.0, 0.0]

    @every_oracle
    def test_has_no_state_and_says_how_it_is_to_be_used(self, oracle):
        predictor = make(oracle)
        predictor.score(pair(), SIZE, 2)
        assert predictor.state_dict() == {}
        predictor.load_state_dict({})
        assert (oracle.own_scale, oracle.smoothing_fraction, oracle.local) == (True, 0.1, True)
        with pytest.raises(ValueError, match=rf"`{oracle.__name__}\.load_state_dict\(state\)` must be empty"):
            predictor.load_state_dict({"model": 1})


class TestSizes:
    @pytest.mark.parametrize(
        ("presample", "batch_size", "candidates"),
        [(3.0, 128, 384), (1, 7, 7), (1.5, 5, 8), (1.1, 50, 55), (2.0001, 10, 21)],
    )
    def test_candidates_are_a_multiple_of_the_batch(self, presample, batch_size, candidates):
        assert make(presample=presample).sizes(batch_size, 2.5) == (candidates, batch_size)
        assert make().sizes(4, 1.0) == (12, 4)

    @pytest.mark.parametrize(("presample", "threshold"), [(3, 2.0), (5, 2.66667)])
    def test_are_worth_their_time_from_a_threshold_on(self, presample, threshold):
        assert presampling_threshold(presample) == pytest.approx(threshold, abs=1e-5)
        assert make(presample=presample).least_tau == presampling_threshold(presample)
        assert not make(presample=presample).needs_tau

    def test_of_equal_time_are_worth_it_from_the_threshold_on(self):
        predictor = make(equal_time=True)
        assert predictor.needs_tau

        def variance(tau):
            candidates, chosen = predictor.sizes(128, tau)
            return 1 / tau**2 / chosen + (1 - 1 / tau**2) / candidates

        assert variance(predictor.least_tau) < 1 / 128
        assert variance(0.99 * predictor.least_tau) > 1 / 128

    def test_of_equal_time_follow_tau(self):
        predictor = make(equal_time=True)
        assert predictor.sizes(128, 2.5) == (179, 68)
        assert predictor.sizes(128, 2.0) == equal_time_sizes(128, 2.0) == (160, 74)

    @pytest.mark.parametrize("tau", [5.0, 10.0, math.inf])
    def test_of_equal_time_stop_at_a_fifth(self, tau):
        assert equal_time_sizes(100, tau) == (170, 43)

    @pytest.mark.parametrize("tau", [1.0, 1.25, 1.5])
    def test_of_equal_time_have_no_fewer_candidates_than_a_uniform_batch(self, tau):
        assert equal_time_sizes(90, tau) == (90, 60)

    @given(st.integers(2, 10**6), st.floats(1, 1e9))
    def test_of_equal_time_take_no_longer_than_a_uniform_step(self, batch_size, tau):
        candidates, chosen = equal_time_sizes(batch_size, tau)
        assert candidates >= batch_size > chosen >= 1
        assert candidates + 3 * chosen <= 3 * batch_size

    @given(st.integers(2, 1000), st.floats(1, 100), st.floats(1, 100))
    def test_of_equal_time_grow_and_shrink_with_tau(self, batch_size, tau, other):
        (few, large), (many, small) = (equal_time_sizes(batch_size, each) for each in sorted((tau, other)))
        assert few <= many
        assert large >= small

    def test_of_equal_time_for_one_sample(self):
        assert equal_time_sizes(1, 3.0) == (1, 1)

    @pytest.mark.parametrize("tau", [0.999, 0.0, -1.0, math.nan])
    def test_tau_below_1_is_refused(self, tau):
        with pytest.raises(ValueError, match=r"`equal_time_sizes\(tau=\.\.\.\)` must be at least 1; got"):
            equal_time_sizes(128, tau)

    def test_a_batch_of_nothing_is_refused(self):
        with pytest.raises(ValueError, match=r"`equal_time_sizes\(batch_size=\.\.\.\)` must be at least 1; got 0"):
            equal_time_sizes(0, 2.0)


class TestBadScores:
    @pytest.mark.parametrize(
        ("value", "found"),
        [
            (torch.ones(3, 1), r"torch\.float32 \[3, 1\]"),
            (torch.ones(4), r"torch\.float32 \[4\]"),
            (torch.tensor(1.0), r"torch\.float32 \[\]"),
            (torch.ones(3, dtype=torch.complex64), r"torch\.complex64 \[3\]"),
            ([1.0, 1.0, 1.0], "list"),
            (None, "NoneType"),
        ],
    )
    def test_of_another_shape_or_type_are_refused_by_the_chunks_size(self, value, found):
        message = rf"`constant\.<locals>\.<lambda>` must return a real tensor of shape \[3\], .*; got {found}\. Average"
        with pytest.raises(ScoreError, match=message):
            make(score=constant(value)).score(pair(), SIZE, 3)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.5])
    def test_that_are_not_finite_or_negative_are_refused(self, value):
        scores = torch.tensor([1.0, value, 0.0, value])
        message = rf"must return finite values of at least 0; got {value}, and 2 such of 4 in all\. Score by a gradient"
        with pytest.raises(ScoreError, match=message):
            make(score=lambda model, batch: batch).score(scores, 4, 3)

    def test_of_a_function_that_raises_tell_why(self):
        def lookup(model, batch):
            return batch["labels"]

        message = r"`.*lookup` raised KeyError: 'labels' \(It was called with a batch of 3 candidates, the model in"
        with pytest.raises(ScoreError, match=message) as caught:
            make(score=lookup).score({"x": pair()[0]}, SIZE, 3)
        assert isinstance(caught.value.__cause__, KeyError)

    def test_of_a_callable_without_a_name_tell_its_representation(self):
        class Scorer:
            def __call__(self, model, batch):
                return None

            def __repr__(self):
                return "Scorer(7)"

        with pytest.raises(ScoreError, match=r"The score function `Scorer\(7\)` must return"):
            make(score=Scorer()).score(pair(), SIZE, 3)

    @pytest.mark.parametrize(("oracle", "name"), [(Oracle, "loss_score"), (UpperBoundOracle, "upper_bound_score")])
    def test_of_built_in_ones_name_them_and_the_way_out(self, oracle, name):
        message = rf"`{name}` raised ValueError: .* takes a batch \(inputs, targets\) .*; got dict\. Pass `score=`"
        with pytest.raises(ScoreError, match=message):
            make(oracle).score({"x": torch.ones(SIZE, 4)}, SIZE, 3)

    def test_of_a_model_that_has_diverged_are_refused(self):
        model = nn.Linear(4, 3)
        nn.init.constant_(model.bias, math.nan)
        with pytest.raises(ScoreError, match=r"`upper_bound_score` must return finite .* got nan, and 7 such of 7"):
            make(UpperBoundOracle, model).score(pair(), SIZE, 3)

    def test_a_batch_that_cannot_be_split_is_refused_with_the_remedy(self):
        with pytest.raises(ValueError, match=r"`batch\['split'\]` .* got str\. Pass `predictor_options=\{'select'"):
            make().score({"x": torch.ones(SIZE, 4), "split": "train"}, SIZE, 3)


@every_oracle
class TestBadOptions:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"model": "resnet"}, TypeError, r"\(model=\.\.\.\)` must be a torch\.nn\.Module; got str\."),
            ({"score": "loss"}, TypeError, r"\(score=\.\.\.\)` must be a function of \(model, batch\) .*; got 'loss'"),
            ({"select": 3}, TypeError, r"\(select=\.\.\.\)` must be a function of \(batch, positions\) .*; got 3"),
            ({"presample": 0.5}, ValueError, r"\(presample=\.\.\.\)` must be finite and at least 1, .*; got 0\.5"),
            ({"presample": math.inf}, ValueError, r"\(presample=\.\.\.\)` must be finite and at least 1, .*; got inf"),
            ({"presample": math.nan}, ValueError, r"\(presample=\.\.\.\)` must be finite and at least 1, .*; got nan"),
            ({"presample": "3x"}, TypeError, r"\(presample=\.\.\.\)` must be a number; got '3x'"),
            ({"micro_batch": 0}, ValueError, r"\(micro_batch=\.\.\.\)` must be at least 1; got 0"),
            ({"micro_batch": 1.5}, TypeError, r"\(micro_batch=\.\.\.\)` must be an integer; got 1\.5"),
            ({"loss": "hinge"}, ValueError, r"\(loss=\.\.\.\)` must be one of 'cross-entropy', .*; got 'hinge'"),
            (
                {"autocast_dtype": torch.float32},
                ValueError,
                r"\(autocast_dtype=\.\.\.\)` must be .*; got torch\.float32",
            ),
            ({"autocast_dtype": "bf16"}, ValueError, r"\(autocast_dtype=\.\.\.\)` must be .*; got 'bf16'"),
        ],
    )
    def test_are_refused(self, oracle, options, error, message):
        with pytest.raises(error, match=f"`{oracle.__name__}{message}"):
            make(oracle, **options)

    def test_among_them_none_that_is_unknown(self, oracle):
        with pytest.raises(TypeError, match="unexpected keyword argument 'presamples'"):
            make(oracle, presamples=3)
