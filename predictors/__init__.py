"""What predicts importance; imports as `approx_is.predictors`."""

if __name__ != "approx_is.predictors":
    raise ImportError(f"This package is part of approx_is: import it as `approx_is.predictors`, not as `{__name__}`.")

from approx_is.predictors.class_gaussian import ClassGaussianPredictor
from approx_is.predictors.last_loss import LastLossPredictor
from approx_is.predictors.lstm import LSTMPredictor
from approx_is.predictors.oracle import GradientNormOracle, Oracle, UpperBoundOracle
from approx_is.predictors.rais import RAISPredictor
from approx_is.predictors.rank import RankPredictor
from approx_is.predictors.uniform import UniformPredictor

__all__ = [
    "ClassGaussianPredictor",
    "GradientNormOracle",
    "LSTMPredictor",
    "LastLossPredictor",
    "Oracle",
    "RAISPredictor",
    "RankPredictor",
    "UniformPredictor",
    "UpperBoundOracle",
]
