"""The uniform predictor predicts 1 whatever happens."""

import pytest
import torch
from laws import make_predictor, observe

BATCH = (torch.tensor([0, 3]), torch.tensor([5.0, 0.0]))


def test_predictions_are_1_before_and_after_observations():
    predictor, history = make_predictor("uniform", {})
    indices = torch.tensor([3, 0, 3])
    for _ in range(2):
        assert torch.equal(predictor.predict(indices), torch.ones(3))
        observe(predictor, history, [BATCH])


def test_no_samples_give_no_predictions():
    assert make_predictor("uniform", {})[0].predict(torch.empty(0, dtype=torch.int64)).shape == (0,)


def test_predictions_are_local():
    assert make_predictor("uniform", {})[0].local is True


def test_the_state_is_empty_and_loads():
    predictor, _ = make_predictor("uniform", {})
    assert predictor.state_dict() == {}
    predictor.load_state_dict({})


def test_another_predictors_state_is_refused():
    with pytest.raises(ValueError, match=r"must be empty; got .*\['moments'\]"):
        make_predictor("uniform", {})[0].load_state_dict({"moments": torch.zeros(2)})
