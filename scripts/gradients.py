"""The gradients of many samples at once: their Gram matrix, and how far from their mean a minibatch's is.

A minibatch's gradient is a linear combination of its samples', so that its distance from their mean follows from their
inner products alone: no gradient is kept, and a thousand minibatches cost no more than one.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approx_is import upper_bound

UNFOLDED_SAMPLES = 128
"""Samples whose patches are laid out at a time: a convolution's fill much memory."""

Layer = nn.Linear | nn.Conv2d

LayerGradient = tuple[Layer, Tensor, Tensor]
"""A layer, its inputs, and the loss's gradient at its outputs, both [n, ...]."""


def sample_scores(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return what samples can be drawn in proportion to, and the Gram matrix of their gradients.

    In float64 and in eval mode, on a copy: where the network is sure, float32 would round losses to 0.

    Args:
        model: of `Linear` and `Conv2d` layers, each used once, and modules without parameters.
        inputs: [n, ...].
        targets: class labels, int64 [n].

    Returns:
        Float64 [n] by the name of the score, and float64 [n, n].

    Raises:
        ValueError: the model has other parameters.
    """
    model = copy.deepcopy(model).double().eval()
    logits, gradients = layer_gradients(model, inputs.double(), targets)
    gram = torch.stack([layer_gram(*gradient) for gradient in gradients]).sum(0)
    scores = {
        "loss": F.cross_entropy(logits, targets, reduction="none"),
        "upper-bound": upper_bound(logits, targets).double(),
        "gradient-norm": gram.diagonal().sqrt(),
    }
    return scores, gram


def layer_gradients(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, list[LayerGradient]]:
    """Return the logits and the layers' gradients: of each sample's own cross-entropy, as the losses are summed.

    Raises:
        ValueError: the model has parameters outside of `Linear` and `Conv2d`, or uses a layer more or less than once.
    """
    passed: list[LayerGradient] = []
    hooks = [
        layer.register_forward_hook(lambda layer, arguments, output: passed.append((layer, arguments[0], output)))
        for layer in model.modules()
        if isinstance(layer, Layer)
    ]
    logits = model(inputs)
    for hook in hooks:
        hook.remove()
    used = [parameter for layer, _, _ in passed for parameter in layer.parameters()]
    if sorted(map(id, used)) != sorted(map(id, model.parameters())):
        raise ValueError("`model` must have parameters in `Linear` and `Conv2d` layers only, each layer used once.")
    loss = F.cross_entropy(logits, targets, reduction="sum")
    gradients = torch.autograd.grad(loss, [output for _, _, output in passed])
    layers = [(layer, given.detach(), at) for (layer, given, _), at in zip(passed, gradients, strict=True)]
    return logits.detach(), layers


def layer_gram(layer: Layer, inputs: Tensor, gradients: Tensor) -> Tensor:
    """Return the inner products of the samples' gradients with respect to a layer's parameters, [n, n].

    A sample's gradient of a `Linear`'s weight is an outer product: those of two samples have the product of their
    factors' inner products.
    """
    if isinstance(layer, nn.Linear):
        weight = _inner_products(inputs) * _inner_products(gradients)
    else:
        weight = _inner_products(_convolution_gradients(layer, inputs, gradients))
    if layer.bias is None:
        return weight
    return weight + _inner_products(gradients.flatten(2).sum(2) if gradients.ndim > 2 else gradients)


def proportional(scores: Tensor) -> Tensor:
    """Return the probabilities in proportion to scores [n]."""
    return scores / scores.sum()


def coefficients(drawn: Tensor, probabilities: Tensor) -> Tensor:
    r"""Return what a minibatch's gradient is made of: that of sample i counts :math:`\sum_{draws of i} 1/(b n p_i)`.

    Args:
        drawn: R minibatches of b draws, int64 [R, b].
        probabilities: of the n samples, float64 [n], positive where drawn.

    Returns:
        Float64 [R, n]; its expectation is 1/n for every sample.
    """
    num_samples = len(probabilities)
    weights = 1 / (drawn.shape[1] * num_samples * probabilities[drawn])
    return torch.zeros(len(drawn), num_samples, dtype=torch.float64).scatter_add_(1, drawn, weights)


def distances(gram: Tensor, combinations: Tensor) -> Tensor:
    r"""Return how far linear combinations of the gradients are from their mean, L2, float64 [R].

    .. math:: \| \sum_i c_i g_i - \bar g \|^2 = (c - 1/n)^T K (c - 1/n)

    Args:
        gram: the inner products K, float64 [n, n].
        combinations: c, float64 [R, n].
    """
    deviations = combinations - 1 / len(gram)
    return ((deviations @ gram) * deviations).sum(1).clamp(min=0).sqrt()


def mean_distance(gram: Tensor, probabilities: Tensor, *, batch_size: int, resamples: int, seed: int) -> float:
    """Return the mean distance of minibatches' gradients from the mean of all; equal probabilities draw equally."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(probabilities.expand(resamples, -1), batch_size, replacement=True, generator=generator)
    return distances(gram, coefficients(drawn, probabilities)).mean().item()


def _inner_products(rows: Tensor) -> Tensor:
    rows = rows.flatten(1)
    return rows @ rows.T


def _convolution_gradients(layer: nn.Conv2d, inputs: Tensor, gradients: Tensor) -> Tensor:
    """Return each sample's gradient with respect to a convolution's weight, [n, filters, values of a patch]."""
    geometry: dict[str, Any] = {"dilation": layer.dilation, "padding": layer.padding, "stride": layer.stride}
    chunks = zip(inputs.split(UNFOLDED_SAMPLES), gradients.split(UNFOLDED_SAMPLES), strict=True)
    return torch.cat(
        [at.flatten(2) @ F.unfold(given, layer.kernel_size, **geometry).transpose(1, 2) for given, at in chunks]
    )
