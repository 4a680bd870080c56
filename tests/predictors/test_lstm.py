"""The LSTM: size, padding, what it learns, and that absurd observations do not break it."""

import math

import pytest
import torch
from laws import (
    assert_all_finite,
    assert_global_randomness_untouched,
    assert_same,
    assert_unchanged,
    make_predictor,
    observe,
    snapshot,
    through_file,
)

from approx_is import ImportanceSampler
from approx_is.predictors import LastLossPredictor
from approx_is.predictors.lstm import log_features

NUM_SAMPLES = 32
EVERY = torch.arange(NUM_SAMPLES)
OPTIONS = [{}, {"objective": "squared", "inputs": "loss"}, {"objective": "squared"}, {"inputs": "loss"}]
OPTION_IDS = ["poisson-log", "squared-loss", "squared-log", "poisson-loss"]
both_objectives = pytest.mark.parametrize("options", OPTIONS[:2], ids=OPTION_IDS[:2])
every_option = pytest.mark.parametrize("options", OPTIONS, ids=OPTION_IDS)


def make(options=None, window=10, num_classes=1, labels=None, seed=0):
    return make_predictor("lstm", options or {}, NUM_SAMPLES, window, labels, num_classes, seed)


def series(step):
    """Return losses that decay at a rate of the sample's own, and start anew every eighth step."""
    return 4.0 * torch.exp(-(0.1 + 0.02 * EVERY) * ((step + EVERY) % 8))


def batches(steps, first=0):
    return [(EVERY, series(step)) for step in range(first, first + steps)]


def mean_squared_error(predictor, history, first, steps):
    """Return the error of predictions of the next observations, and that of the last ones, while learning goes on."""
    last = LastLossPredictor(history, None, 1, torch.Generator())
    errors = torch.zeros(2)
    for step in range(first, first + steps):
        for position, each in enumerate((predictor, last)):
            errors[position] += (each.predict(EVERY) - series(step)).square().mean() / steps
        observe(predictor, history, batches(1, step), first_step=step)
    return errors.tolist()


@pytest.mark.parametrize("num_classes", [1, 10, 100])
def test_the_paper_s_network_has_the_golden_number_of_parameters(num_classes):
    predictor, _ = make({"inputs": "loss", "hidden_size": 32, "num_layers": 2}, num_classes=num_classes)
    assert sum(parameter.numel() for parameter in predictor.network.parameters()) == 12_993 + 32 * num_classes


def test_ages_cost_one_input_weight_a_gate():
    made = [make({"inputs": inputs, "hidden_size": 32})[0] for inputs in ("log", "loss")]
    sizes = [sum(parameter.numel() for parameter in predictor.network.parameters()) for predictor in made]
    assert sizes[0] - sizes[1] == 4 * 32


@every_option
@pytest.mark.parametrize("count", [0, 1, 7, 10])
def test_the_length_of_the_padding_does_not_matter(options, count):
    short, long = make(options, window=10), make(options, window=20)
    for predictor, history in (short, long):
        observe(predictor, history, batches(count))
    torch.testing.assert_close(long[0].predict(EVERY), short[0].predict(EVERY), rtol=1e-4, atol=1e-6)


@every_option
def test_a_loss_of_exactly_0_counts(options):
    predictor, history = make(options)
    others = EVERY[EVERY != 3]
    observe(predictor, history, [(others, 1.0 + series(step)[others]) for step in range(20)])
    before = predictor.predict(EVERY)
    history.append(torch.tensor([3]), torch.tensor([0.0]), 20)
    after = predictor.predict(EVERY)
    assert (after - before)[3].abs() > 1e-4
    torch.testing.assert_close(after[others], before[others], rtol=1e-6, atol=0)


@every_option
def test_a_prediction_does_not_depend_on_the_others_in_the_batch(options):
    predictor, history = make(options)
    observe(predictor, history, batches(5))
    every = predictor.predict(EVERY)
    alone = torch.cat([predictor.predict(index.unsqueeze(0)) for index in EVERY])
    torch.testing.assert_close(alone, every, rtol=1e-5, atol=1e-6)


def test_samples_without_a_history_are_told_apart_by_class():
    predictor, _ = make(labels=EVERY % 2, num_classes=2)
    predictions = predictor.predict(EVERY)
    assert len(predictions.unique()) == 2
    assert torch.equal(predictions[::2], predictions[:1].expand(16))


@every_option
def test_predictions_are_positive(options):
    predictor, history = make(options)
    observe(predictor, history, [(EVERY, torch.zeros(NUM_SAMPLES))] * 50)
    predictions = predictor.predict(EVERY)
    assert predictions.dtype == torch.float32
    assert bool((predictions > 0).all())


@both_objectives
def test_it_learns_what_the_last_loss_cannot_tell(options):
    predictor, history = make(options, window=10)
    observe(predictor, history, batches(300))
    error, error_of_last_loss = mean_squared_error(predictor, history, 300, 40)
    assert error < 0.5 * error_of_last_loss


@both_objectives
def test_absurd_observations_leave_it_finite_and_able_to_learn(options):
    predictor, history = make(options, window=10)
    observe(predictor, history, batches(20))
    for step, value in ((21, 1e30), (23, torch.finfo(torch.float32).max), (25, 0.0)):
        observe(predictor, history, [(EVERY, torch.full((NUM_SAMPLES,), value))] * 2, first_step=step)
        assert_all_finite(predictor.state_dict())
        assert bool(predictor.predict(EVERY).isfinite().all())
    observe(predictor, history, batches(400, first=30), first_step=30)
    error, error_of_last_loss = mean_squared_error(predictor, history, 430, 40)
    assert error < 0.5 * error_of_last_loss


@every_option
def test_one_absurd_observation_among_others_leaves_it_finite(options):
    predictor, history = make(options)
    values = series(0)
    values[5] = 1e30
    observe(predictor, history, [(EVERY, values)] * 12)
    assert_all_finite(predictor.state_dict())
    assert bool(predictor.predict(EVERY).isfinite().all())


def test_a_step_is_no_larger_than_adam_takes():
    predictor, history = make({"learning_rate": 1e-3})
    before = [parameter.detach().clone() for parameter in predictor.network.parameters()]
    observe(predictor, history, [(EVERY, torch.full((NUM_SAMPLES,), 1e30))])
    for old, new in zip(before, predictor.network.parameters(), strict=True):
        assert (new - old).abs().max() <= 1e-3 * 1.001


def test_global_generators_are_not_used():
    with assert_global_randomness_untouched():
        predictor, history = make()
        observe(predictor, history, batches(2))
        predictor.predict(EVERY)


def test_parameters_follow_from_the_generator():
    first, again, other = (make(seed=seed)[0].predict(EVERY) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_predicting_changes_nothing():
    predictor, history = make()
    observe(predictor, history, batches(3))
    with assert_unchanged(predictor, history):
        assert not predictor.predict(EVERY).requires_grad


def test_it_learns_where_gradients_are_off():
    predictor, history = make()
    before = predictor.predict(EVERY)
    with torch.no_grad():
        predictor.update(EVERY, series(0), 1)
    assert not torch.equal(predictor.predict(EVERY), before)
    assert history.counts(EVERY).sum() == 0


def test_no_samples_give_no_predictions():
    assert make()[0].predict(torch.empty(0, dtype=torch.int64)).shape == (0,)


def test_predictions_in_chunks_are_those_in_one(monkeypatch):
    predictor, history = make()
    observe(predictor, history, batches(3))
    whole = predictor.predict(EVERY)
    monkeypatch.setattr("approx_is.predictors.lstm.CHUNK", 5)
    torch.testing.assert_close(predictor.predict(EVERY), whole, rtol=1e-5, atol=1e-6)


def test_it_may_learn_from_every_third_update_only():
    predictor, history = make({"train_every": 3})
    changes = []
    for step in range(1, 7):
        before = snapshot(predictor)["network"]
        observe(predictor, history, [(EVERY, torch.full((len(EVERY),), float(step)))], first_step=step)
        changes.append(
            any(not torch.equal(before[name], value) for name, value in predictor.network.state_dict().items())
        )
    assert changes == [False, False, True, False, False, True]


def test_a_huge_batch_is_learned_from_in_part(monkeypatch):
    monkeypatch.setattr("approx_is.predictors.lstm.CHUNK", 5)
    whole, part = make()[0], make()[0]
    values = torch.linspace(0.1, 2.0, len(EVERY))
    whole.update(EVERY, values, 1)
    part.update(EVERY[:5], values[:5], 1)
    assert_same(whole.network.state_dict(), part.network.state_dict())


@every_option
@pytest.mark.parametrize("trained", [0, 3])
def test_a_restored_predictor_goes_on_as_the_original(options, trained):
    original, history = make(options)
    restored, other_history = make(options, seed=1)
    observe(restored, other_history, batches(2, first=50))
    observe(original, history, batches(trained))
    restored.load_state_dict(through_file(original.state_dict()))
    other_history.load_state_dict(through_file(history.state_dict()))
    for predictor, its_history in ((original, history), (restored, other_history)):
        observe(predictor, its_history, batches(3, first=trained), first_step=10)
    assert torch.equal(restored.predict(EVERY), original.predict(EVERY))


@pytest.mark.parametrize("options", [{"inputs": "loss"}, {"hidden_size": 8}, {"embedding_size": 8}])
def test_a_state_of_another_network_changes_nothing(options):
    predictor, history = make()
    observe(predictor, history, batches(2))
    with assert_unchanged(predictor), pytest.raises(ValueError, match=r"LSTMPredictor\.load_state_dict\(state\)"):
        predictor.load_state_dict(make(options)[0].state_dict())


@pytest.mark.parametrize(
    ("option", "choices"), [("objective", "poisson, squared"), ("inputs", "log, loss")], ids=["objective", "inputs"]
)
def test_an_unknown_choice_lists_the_known_ones(option, choices):
    with pytest.raises(ValueError, match=rf"LSTMPredictor\({option}=\.\.\.\)` must be one of {choices}; got 'none'"):
        make({option: "none"})


@pytest.mark.parametrize("option", ["hidden_size", "embedding_size", "learning_rate", "max_gradient_norm"])
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_options_that_are_not_positive_are_refused(option, value):
    with pytest.raises(ValueError, match=rf"LSTMPredictor\({option}=\.\.\.\)` must be positive; got {value}"):
        make({option: value})


def test_it_cannot_learn_less_often_than_never():
    with pytest.raises(ValueError, match=r"`LSTMPredictor\(train_every=\.\.\.\)` must be at least 1; got 0"):
        make({"train_every": 0})


@pytest.mark.parametrize("objective", ["poisson", "squared"])
@pytest.mark.parametrize("largest", [1.0, 1e5])
def test_the_gradient_is_that_of_the_mean_loss(objective, largest):
    predictor, _ = make({"objective": objective})
    observed = torch.tensor([0.0, 0.3, largest])
    output = torch.tensor([-2.0, 0.5, 3.0], requires_grad=True)
    losses = output.exp() - observed * output if objective == "poisson" else (output - observed).square()
    losses.mean().backward()
    torch.testing.assert_close(predictor._loss_gradient(output.detach(), observed), output.grad)


@pytest.mark.parametrize("objective", ["poisson", "squared"])
@pytest.mark.parametrize(("output", "observed"), [(1e3, 1.0), (0.0, 3e38), (-1e3, 3e38), (1e30, 3e38)])
def test_the_gradient_of_absurd_values_is_finite_and_so_is_its_norm(objective, output, observed):
    predictor, _ = make({"objective": objective})
    gradient = predictor._loss_gradient(torch.tensor([output, 0.0]), torch.tensor([observed, 1.0]))
    assert bool(gradient.isfinite().all())
    assert gradient.norm() < 1e7


def test_features_are_logarithms_of_importance_and_age():
    features = log_features(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, math.e - 1]]))
    expected = torch.tensor([[[math.log(1e-4), 0.0], [math.log(1.0001), 1.0]]])
    torch.testing.assert_close(features, expected)


def test_it_learns_in_inference_mode():
    sampler = ImportanceSampler(4, 4, predictor="lstm")
    with torch.inference_mode():
        sampler.update(sampler.draw(), torch.ones(4))
    assert sampler.metrics()["step"] == 1


@pytest.mark.parametrize(("name", "value"), [("objective", "squared"), ("inputs", "loss")])
def test_the_state_of_another_objective_or_other_inputs_is_refused(name, value):
    own = ImportanceSampler(4, 4, predictor="lstm")
    other = ImportanceSampler(4, 4, predictor="lstm", predictor_options={name: value})
    with pytest.raises(ValueError, match=name if name == "objective" else "must be torch.float32"):
        own.load_state_dict(other.state_dict())


def test_a_full_window_is_read_as_among_others_that_are_not():
    predictor, _ = make({})
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 4, 2, generator=generator)
    classes, counts = torch.zeros(3, dtype=torch.int64), torch.tensor([4, 4, 2])
    among_others = predictor.network(features, counts, classes)[:2]
    torch.testing.assert_close(predictor.network(features[:2], counts[:2], classes[:2]), among_others)
