"""Importance sampling for PyTorch: train on the samples that matter, predicted from their loss history."""

from approx_is.annealing import GeometricAnnealing, LinearAnnealing
from approx_is.batch_norm import convert_batch_norm
from approx_is.batches import ScoreError
from approx_is.draw import Draw
from approx_is.gain import GainRatio
from approx_is.gain_lr import GainLR
from approx_is.gate import VarianceGate
from approx_is.gradient_norms import per_sample_gradient_norms
from approx_is.gradient_signal import half_batch_signal
from approx_is.history import LossHistory
from approx_is.importance_sampler import ImportanceSampler
from approx_is.observe import upper_bound
from approx_is.protocols import Predictor, PredictorFactory, Stateful
from approx_is.registry import available_predictors, register_predictor
from approx_is.resharding import reshard
from approx_is.sampler import ApproxSampler
from approx_is.smoothing import AdaptiveSmoothing, ConstantSmoothing
from approx_is.sum_tree import SumTree
from approx_is.weight_context import batch_weights
from approx_is.weighting import importance_weights

__all__ = [
    "AdaptiveSmoothing",
    "ApproxSampler",
    "ConstantSmoothing",
    "Draw",
    "GainLR",
    "GainRatio",
    "GeometricAnnealing",
    "ImportanceSampler",
    "LinearAnnealing",
    "LossHistory",
    "Predictor",
    "PredictorFactory",
    "ScoreError",
    "Stateful",
    "SumTree",
    "VarianceGate",
    "available_predictors",
    "batch_weights",
    "convert_batch_norm",
    "half_batch_signal",
    "importance_weights",
    "per_sample_gradient_norms",
    "register_predictor",
    "reshard",
    "upper_bound",
]
