"""What SVRG, Katyusha and SCSG have in common: stages that begin with a snapshot and an anchor, and their gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from baselines.checks import check
from baselines.protocol import Batch, Samples

__all__ = ["VarianceReduced"]


class VarianceReduced(Optimizer):
    r"""Steps along the gradient of a batch, corrected by that of the same batch at a snapshot.

    .. math:: v = \nabla f_b(w) - \nabla f_b(\tilde w) + \mu, \qquad \mu = \nabla f_A(\tilde w)

    The expectation over uniform batches is the full gradient when the anchor A is all samples, and the full gradient
    plus the error of :math:`\mu` otherwise. Both terms see the same dropout. In training mode neither the anchor nor
    the snapshot's term touches buffers such as running statistics. Dropout is noise in the anchor, and batch
    normalisation makes it one of chunks: there the expectation is off by the anchor's error.

    An optimizer like any other but for `step`, which takes the batch, runs the network itself, and neither reads nor
    writes `.grad`. `gradient_evaluations` counts what a step costs: one of SGD costs B.

    Subclasses say how a stage begins (`_begin_stage`) and what a step does (`_approach`, `_move`). Counters are in the
    parameter group, so that `state_dict` has them.

    Args:
        model: the network; parameters that need no gradient stay as they are.
        loss: returns the mean loss of a batch, of outputs and targets.
        samples: all samples, for the anchor.
        lr: step size.
        weight_decay: σ of a ridge σ/2 ‖w‖² beside the loss, whose gradient needs no estimate.
        chunk: samples of the anchor that are run at once.
        progress: counters of the subclass.

    Raises:
        ValueError: an argument is out of its bounds.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Tensor], Tensor],
        samples: Samples,
        *,
        lr: float,
        weight_decay: float = 0.0,
        chunk: int = 1024,
        **progress: Any,
    ) -> None:
        name = type(self).__name__
        check(lr > 0, f"{name}(lr=...)", "above 0", lr, "Start from a tenth of 1 / L, for gradients L-Lipschitz.")
        check(weight_decay >= 0, f"{name}(weight_decay=...)", "at least 0", weight_decay, "Use 0 for none.")
        check(chunk >= 1, f"{name}(chunk=...)", "at least 1", chunk, "1024 is usual.")
        check(len(samples) >= 1, f"{name}(samples=...)", "at least one", len(samples), "Pass the training samples.")
        self._model, self._loss, self._samples, self._chunk = model, loss, samples, chunk
        self._weight_decay = weight_decay
        named = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._names, self._parameters = list(named), list(named.values())
        super().__init__(self._parameters, {"lr": lr, "left": 0, "stage": 0, "gradient_evaluations": 0, **progress})

    @property
    def gradient_evaluations(self) -> int:
        """Gradients of single samples that were computed, all told."""
        return int(self._progress["gradient_evaluations"])

    @property
    def _progress(self) -> dict[str, Any]:
        return self.param_groups[0]

    def step(self, batch: Batch) -> float:  # type: ignore[override]  # takes a batch, no closure
        """Train on a batch; return its mean loss where the gradient was computed. Begin a stage if one is due."""
        while self._progress["left"] == 0:
            self._progress["stage"] += 1
            self._progress["left"] = self._begin_stage(len(batch[1]))
        with torch.no_grad():
            self._approach()
        loss, estimate = self.estimate(batch)
        with torch.no_grad():
            self._move(estimate)
        self._progress["left"] -= 1
        return loss

    def estimate(self, batch: Batch) -> tuple[float, list[Tensor]]:
        """Return the mean loss of a batch and the corrected gradient, one tensor a parameter."""
        device = self._parameters[0].device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            _, then = self._gradient(batch, at_snapshot=True)
        loss, now = self._gradient(batch)
        anchor = self._of_state("anchor")
        return loss, [g - h + mu for g, h, mu in zip(now, then, anchor, strict=True)]

    def _begin_stage(self, batch_size: int) -> int:
        """Begin a stage; return how many steps it has, for batches of this size. It may be none."""
        raise NotImplementedError

    def _approach(self) -> None:
        """Go to where the gradient is to be computed, without gradients. It is where the network is."""

    def _move(self, estimate: list[Tensor]) -> None:
        """Step along an estimate of the gradient, without gradients."""
        self._descend(estimate, self._progress["lr"])

    def _descend(self, estimate: list[Tensor], rate: float) -> None:
        for value, gradient in zip(self._parameters, estimate, strict=True):
            value.mul_(1 - rate * self._weight_decay).sub_(gradient, alpha=rate)

    def _take_snapshot(self, indices: Tensor, points: list[Tensor] | None = None) -> None:
        """Make these points, by default where the network is, the snapshot, and these samples the anchor."""
        self._set_state("snapshot", [point.detach().clone() for point in points or self._parameters])
        anchor = [torch.zeros_like(value) for value in self._parameters]
        for chunk in indices.split(self._chunk):
            _, gradient = self._gradient(self._samples.__getitems__(chunk), at_snapshot=True)
            for total, part in zip(anchor, gradient, strict=True):
                total.add_(part, alpha=len(chunk) / len(indices))
        self._set_state("anchor", anchor)

    def _gradient(self, batch: Batch, *, at_snapshot: bool = False) -> tuple[float, list[Tensor]]:
        inputs, targets = (part.to(self._parameters[0].device) for part in batch)
        self._progress["gradient_evaluations"] += len(targets)
        if not at_snapshot:
            return self._differentiate(self._model(inputs), targets, self._parameters)
        points = [point.requires_grad_() for point in self._of_state("snapshot")]
        buffers = {name: value.clone() for name, value in self._model.named_buffers()}
        outputs = functional_call(self._model, {**dict(zip(self._names, points, strict=True)), **buffers}, (inputs,))
        return self._differentiate(outputs, targets, points)

    def _differentiate(self, outputs: Any, targets: Tensor, points: list[Tensor]) -> tuple[float, list[Tensor]]:
        loss = self._loss(outputs, targets)
        return loss.item(), list(torch.autograd.grad(loss, points, materialize_grads=True))

    def _of_state(self, name: str) -> list[Tensor]:
        return [self.state[value][name].detach() for value in self._parameters]

    def _set_state(self, name: str, tensors: list[Tensor]) -> None:
        for value, tensor in zip(self._parameters, tensors, strict=True):
            self.state[value][name] = tensor
