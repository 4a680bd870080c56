"""The last-loss predictor repeats the history."""

import pytest
import torch
from laws import make_predictor, observe

EVERY = torch.arange(4)


def observed_predictor(batches):
    predictor, history = make_predictor("last-loss", {}, num_samples=4, window=2)
    observe(predictor, history, [(torch.tensor(indices), torch.tensor(values)) for indices, values in batches])
    return predictor


def test_predictions_are_the_latest_observations_and_0_where_there_is_none():
    predictor = observed_predictor([([0, 1], [5.0, 2.0]), ([1, 3], [7.0, 0.0]), ([0], [1.0])])
    assert predictor.predict(EVERY).tolist() == [1.0, 7.0, 0.0, 0.0]


def test_predictions_stay_right_when_the_window_is_full():
    predictor = observed_predictor([([2], [float(value)]) for value in range(9)])
    assert predictor.predict(torch.tensor([2, 2])).tolist() == [8.0, 8.0]


def test_updating_alone_changes_nothing():
    predictor, _ = make_predictor("last-loss", {}, num_samples=4)
    predictor.update(torch.tensor([1]), torch.tensor([3.0]), 1)
    assert predictor.predict(EVERY).tolist() == [0.0] * 4


def test_predictions_are_local():
    assert make_predictor("last-loss", {})[0].local is True


def test_another_predictors_state_is_refused():
    with pytest.raises(ValueError, match=r"must be empty; got .*\['moments'\]"):
        make_predictor("last-loss", {})[0].load_state_dict({"moments": torch.zeros(2)})
