"""A small recurrent network reads each sample's history and predicts what comes next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from approx_is.checks import check_number, check_positive
from approx_is.history import LossHistory
from approx_is.labels import classes_of
from approx_is.predictors.clipped_adam import ClippedAdam
from approx_is.predictors.history_network import HistoryNetwork
from approx_is.state import check_like

__all__ = ["LSTMPredictor", "log_features"]

LOG_OFFSET = 1e-4
LARGEST_LOG = 80.0  # exp(80) is still a float32
LEAST_PREDICTION = 1e-6
LARGEST_UNSCALED = 1e6
CHUNK = 16_384  # samples read at a time


class LSTMPredictor:
    r"""Predicts the mean of a sample's next importance by an LSTM over its last ones and an embedding of its class.

    An LSTM reads the history of the sample; the last hidden state and the class embedding are projected to one number.
    One step of Adam a training step fits it to the batch just observed, from the history before that; of more
    than 16,384 samples, to the first of them.

    By default it reads log-importances and log-ages, and its output is :math:`\lambda = e^{o}`, fitted by the Poisson
    deviance :math:`\lambda - v \log \lambda`. Its minimiser is the conditional mean, as that of the squared error is,
    but errors count in proportion to the size of what is predicted: importances span many orders of magnitude.
    `objective="squared", inputs="loss", hidden_size=32, num_layers=2` is the paper's: eq. 17, and the size of its two
    LSTMs. One of half that size captures about as much, see `docs/performance.md`, and takes less time.

    Reference:
        Katharopoulos & Fleuret (2017), §3.3, eq. 17 and §4.

    Args:
        history: of the sampler.
        labels: class of each sample, integer [N]; None gives all samples one class.
        num_classes: number of classes C.
        generator: source of the initial parameters.
        objective: "poisson" or "squared".
        inputs: "log", log-importances and log-ages, or "loss", the importances as they are.
        hidden_size: of each LSTM.
        num_layers: LSTMs, one upon the other.
        embedding_size: of the class embedding.
        learning_rate: of Adam.
        max_gradient_norm: gradients are clipped to this norm.
        train_every: updates from one step of Adam to the next, at least 1: beyond 1 it saves time where losses change
            slowly, and costs much of the gain where they jump.

    Raises:
        ValueError: an option is not one of those above, or not positive.
    """

    joins_batches = True

    def __init__(
        self,
        history: LossHistory,
        labels: Tensor | None,
        num_classes: int,
        generator: torch.Generator,
        *,
        objective: Literal["poisson", "squared"] = "poisson",
        inputs: Literal["log", "loss"] = "log",
        hidden_size: int = 16,
        num_layers: int = 1,
        embedding_size: int = 32,
        learning_rate: float = 3e-3,
        max_gradient_norm: float = 1.0,
        train_every: int = 1,
    ) -> None:
        _check_choice(objective, ("poisson", "squared"), "LSTMPredictor(objective=...)")
        _check_choice(inputs, ("log", "loss"), "LSTMPredictor(inputs=...)")
        for name, value in {
            "hidden_size": hidden_size,
            "embedding_size": embedding_size,
            "learning_rate": learning_rate,
            "max_gradient_norm": max_gradient_norm,
        }.items():
            if not check_number(value, f"LSTMPredictor({name}=...)") > 0:
                raise ValueError(f"`LSTMPredictor({name}=...)` must be positive; got {value}.")
        self._history = history
        self._labels = labels
        self._objective = objective
        self._inputs = inputs
        self._batch_size = 1  # largest batch seen: turns steps into epochs
        num_layers = check_positive(num_layers, "LSTMPredictor(num_layers=...)")
        num_features = 1 if inputs == "loss" else 2
        self.network = HistoryNetwork(num_features, num_classes, hidden_size, embedding_size, num_layers)
        self.network.to_empty(device=history.device)
        self.network.initialise(generator)
        self._optimizer = ClippedAdam(self.network.parameters(), learning_rate)
        self._max_gradient_norm = max_gradient_norm
        self._train_every = check_positive(train_every, "LSTMPredictor(train_every=...)")

    @torch.no_grad()
    def predict(self, indices: Tensor) -> Tensor:
        """Return the predicted importance, float32 [B], positive; from the class alone where nothing was observed."""
        step = self._history.step
        if len(indices) <= CHUNK:
            return self._rate(self._output(indices, step))
        return torch.cat([self._rate(self._output(chunk, step)) for chunk in torch.split(indices, CHUNK)])

    def update(self, indices: Tensor, observed: Tensor, step: int, *, num_batches: int = 1) -> None:
        """Take a step of Adam for each batch that it is due for, from the history as it is before they enter."""
        self._batch_size = max(self._batch_size, math.ceil(len(indices) / num_batches))
        indices, observed = indices[: num_batches * CHUNK], observed[: num_batches * CHUNK]
        with torch.inference_mode(False):  # its tensors could not be differentiated through
            inputs = (*self._inputs_of(indices.clone(), step), observed.clone())
            batches = zip(*(torch.tensor_split(tensor, num_batches) for tensor in inputs), strict=True)
            for number, batch in enumerate(batches, start=step - num_batches + 1):
                if number % self._train_every == 0:
                    self._descend(*batch)

    def state_dict(self) -> dict[str, Any]:
        """Return network, optimizer and the largest batch size seen."""
        return {
            "network": dict(self.network.state_dict()),
            "optimizer": self._optimizer.state(),
            "batch_size": self._batch_size,
            "objective": self._objective,
            "inputs": self._inputs,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore network and optimizer; raise `ValueError` before changing anything if they do not fit."""
        check_like(state, self.state_dict(), "LSTMPredictor.load_state_dict(state)")
        for name, setting in {"objective": self._objective, "inputs": self._inputs}.items():
            if state[name] != setting:
                raise ValueError(
                    f"The state was made with `LSTMPredictor({name}={state[name]!r})`; this one has {setting!r}."
                )
        self.network.load_state_dict(state["network"])
        for own, loaded in zip(self._optimizer.state(), state["optimizer"], strict=True):
            for name, value in own.items():
                value.copy_(loaded[name])
        self._batch_size = state["batch_size"]

    def _inputs_of(self, indices: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the network reads of samples: features [B, T, F], counts [B] and classes [B]."""
        values, gaps, counts = self._history.read(indices, step)
        if self._inputs == "loss":
            features = values.float().unsqueeze(2)
        else:
            epochs = gaps * (self._batch_size / self._history.num_samples)
            features = log_features(values.float(), epochs)
        return features, counts, classes_of(self._labels, indices)

    def _output(self, indices: Tensor, step: int) -> Tensor:
        output: Tensor = self.network(*self._inputs_of(indices, step))
        return output

    @torch.enable_grad()
    def _descend(self, features: Tensor, counts: Tensor, classes: Tensor, observed: Tensor) -> None:
        output = self.network(features, counts, classes)
        self._optimizer.zero_grad()
        torch.autograd.backward(output, self._loss_gradient(output.detach(), observed))
        self._optimizer.clipped_step(self._max_gradient_norm)

    def _loss_gradient(self, output: Tensor, observed: Tensor) -> Tensor:
        """Return the gradient of the mean loss by the outputs, [B]: fewer calls than autograd makes.

        It is that of the Poisson deviance or of the squared error, divided by 1 but for absurd values, beside which all
        others count for nothing anyway: so it stays finite, and its norm.
        """
        predicted = self._rate(output)
        scale = (torch.maximum(predicted.amax(), observed.amax()) / LARGEST_UNSCALED).clamp(min=1.0)
        if self._objective == "poisson":
            return (predicted - observed) / (scale * len(output))
        return (output - observed) / scale * (2 / (scale * len(output)))

    def _rate(self, output: Tensor) -> Tensor:
        if self._objective == "poisson":
            return output.clamp(-LARGEST_LOG, LARGEST_LOG).exp()
        return output.clamp(min=LEAST_PREDICTION)


def log_features(values: Tensor, epochs: Tensor) -> Tensor:
    """Return log-importances and log-ages, [B, T, 2], of importances [B, T] and the epochs that passed after each."""
    return torch.stack([(values + LOG_OFFSET).log(), epochs.log1p()], dim=2)


def _check_choice(value: str, choices: tuple[str, ...], argument: str) -> None:
    if value not in choices:
        raise ValueError(f"`{argument}` must be one of {', '.join(choices)}; got {value!r}.")
