"""Predictors by name: registering, replacing, resolving."""

import pytest
import torch
from laws import PRESAMPLING, make_predictor

from approx_is import ImportanceSampler, available_predictors, register_predictor
from approx_is.predictors import LastLossPredictor, LSTMPredictor, UniformPredictor
from approx_is.registry import resolve_predictor

pytestmark = pytest.mark.usefixtures("no_registrations")

INSTALLED = ["class-gaussian", "gradient-norm", "last-loss", "lstm", "oracle", "rais", "rank", "uniform", "upper-bound"]


def test_the_installed_predictors_are_available():
    assert available_predictors() == INSTALLED


def test_installed_names_resolve_to_their_classes():
    assert resolve_predictor("lstm") is LSTMPredictor
    assert resolve_predictor("uniform") is UniformPredictor


def test_a_registered_name_is_available_and_resolves():
    register_predictor("mine", LastLossPredictor)
    assert available_predictors() == sorted([*INSTALLED, "mine"])
    assert resolve_predictor("mine") is LastLossPredictor


def test_registering_again_replaces():
    register_predictor("mine", LastLossPredictor)
    register_predictor("mine", UniformPredictor)
    assert resolve_predictor("mine") is UniformPredictor
    assert available_predictors().count("mine") == 1


def test_a_registered_name_goes_before_an_installed_one():
    register_predictor("lstm", UniformPredictor)
    assert resolve_predictor("lstm") is UniformPredictor
    assert available_predictors() == INSTALLED


def test_any_callable_is_a_factory():
    def factory(history, labels, num_classes, generator):
        return UniformPredictor(history, labels, num_classes, generator)

    register_predictor("mine", factory)
    sampler = ImportanceSampler(4, 2, predictor="mine")
    assert sampler.state_dict()["predictor_class"] == "UniformPredictor"


def test_factories_and_instances_pass_through():
    predictor, _ = make_predictor("uniform", {})
    for given in (UniformPredictor, predictor, make_predictor):
        assert resolve_predictor(given) is given


@pytest.mark.parametrize("name", ["", "LSTM", "lstm "])
def test_an_unknown_name_lists_the_known_ones(name):
    register_predictor("mine", UniformPredictor)
    message = (
        rf"one of class-gaussian, gradient-norm, last-loss, lstm, mine, oracle, rais, rank, uniform, upper-bound; "
        rf"got '{name}'\. Add yours with `register_pred"
    )
    with pytest.raises(ValueError, match=message):
        resolve_predictor(name)


@pytest.mark.parametrize("predictor", [None, 3, ["lstm"], object()])
def test_what_is_no_predictor_is_refused(predictor):
    with pytest.raises(TypeError, match=r"`predictor` must be a name, a factory or a predictor; got "):
        resolve_predictor(predictor)


@pytest.mark.parametrize("name", ["", None, 3, LSTMPredictor])
def test_only_names_can_be_registered(name):
    with pytest.raises(TypeError, match=r"name=\.\.\.\)` must be a non-empty string; got "):
        register_predictor(name, UniformPredictor)


def test_an_instance_cannot_be_registered():
    predictor, _ = make_predictor("uniform", {})
    with pytest.raises(TypeError, match=r"must be callable; got .* Pass the class, not an instance"):
        register_predictor("mine", predictor)
    assert available_predictors() == INSTALLED


@pytest.mark.parametrize("name", INSTALLED)
def test_options_that_no_predictor_has_are_named(name):
    needed = {"model": torch.nn.Linear(1, 1)} if name in PRESAMPLING else {}
    with pytest.raises(TypeError, match=rf"`predictor_options` do not fit the predictor '{name}': .*'typo'"):
        ImportanceSampler(4, 2, predictor=name, predictor_options={**needed, "typo": 1})


def test_options_of_a_predictor_that_is_built_already_are_refused():
    predictor, _ = make_predictor("uniform", {}, num_samples=4)
    with pytest.raises(ValueError, match="this one is built already"):
        ImportanceSampler(4, 2, predictor=predictor, predictor_options={"decay": 0.5})


def test_a_predictor_without_its_methods_is_refused_at_once():
    class Incomplete:
        def __init__(self, history, labels, num_classes, generator):
            pass

        def predict(self, indices):
            return indices.float()

    with pytest.raises(TypeError, match=r"Incomplete lacks \['update', 'state_dict', 'load_state_dict'\]"):
        ImportanceSampler(4, 2, predictor=Incomplete)
