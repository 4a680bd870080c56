"""What was drawn, how likely it was, and what it weighs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from approx_is.stretch import Stretch

__all__ = ["Draw", "Ticket", "check_candidates", "check_per_sample", "check_ticket", "uniform_draw"]


@dataclass(eq=False, slots=True)
class Ticket:
    """Ties every copy of a draw to the sampler that made it, and remembers whether it was used.

    Attributes:
        owner: of the draw.
        place: in the uniform epochs, see `UniformEpochs`; None if it was drawn by importance.
        drawn_at: updates that the sampler had seen.
        choose: how many are to be chosen from these, uniform candidates, once they are scored; 0 for a batch to train
            on.
        spent: whether it was used for an update.
    """

    owner: object
    place: int | None = None
    drawn_at: int = 0
    choose: int = 0
    spent: bool = False


class Draw:
    """Samples drawn for one batch, with the truth at the moment of the draw.

    Worker processes load batches ahead of training, so the sampler may have changed its mind since: the weights here
    still belong to the probabilities that the samples were drawn with.

    A draw cannot be changed. It unpacks into its three tensors, and is no dataclass or tuple, so that frameworks which
    cast what is in a batch to lower precision leave it as it is.

    Args:
        indices: positions in the data set, int64 [B]; a sample may appear more than once.
        probabilities: chance of each sample to be drawn, float64 [B].
        weights: weight of each sample's loss, :math:`(N p_i)^{-k}`, float32 [B]; on ranks whose batches are not equally
            large, multiplied so that the mean over ranks is that of all samples.
    """

    __slots__ = (
        "_chance",
        "_device",
        "_indices",
        "_is_plain",
        "_probabilities",
        "_stretch",
        "_ticket",
        "_weights",
        "_whole",
    )

    _indices: Tensor | None
    _probabilities: Tensor | None
    _weights: Tensor | None

    def __init__(
        self,
        indices: Tensor,
        probabilities: Tensor,
        weights: Tensor,
        _ticket: Ticket | None = None,
        *,
        _whole: Draw | None = None,
        _is_plain: bool = True,
    ) -> None:
        self._indices = indices
        self._probabilities = probabilities
        self._weights = weights
        self._ticket = _ticket
        self._whole = _whole  # what ranks drew together, if this is a part of it
        self._is_plain = _is_plain  # False where a part's weights are not those of the whole
        # of a uniform draw, for tensors that nobody has asked for yet: the samples, each one's chance, and where
        self._stretch: Stretch | None = None
        self._chance = 0.0
        self._device = indices.device

    @property
    def indices(self) -> Tensor:
        """Positions in the data set, int64 [B]."""
        if self._indices is None:
            assert self._stretch is not None
            with torch.inference_mode(mode=False):  # whoever asks first, others are to train with it
                self._indices = self._stretch.tensor(self._device)
        return self._indices

    @property
    def probabilities(self) -> Tensor:
        """Chance of each sample to be drawn, float64 [B]."""
        if self._probabilities is None:
            self._probabilities = self._filled(self._chance, torch.float64)
        return self._probabilities

    @property
    def weights(self) -> Tensor:
        """Weight of each sample's loss, float32 [B]."""
        if self._weights is None:
            self._weights = self._filled(1.0, torch.float32)
        return self._weights

    def __iter__(self) -> Iterator[Tensor]:
        """Iterate over `indices`, `probabilities` and `weights`."""
        return iter((self.indices, self.probabilities, self.weights))

    def __repr__(self) -> str:
        """Return the three tensors."""
        return f"Draw(indices={self.indices}, probabilities={self.probabilities}, weights={self.weights})"

    def __len__(self) -> int:
        """Return the batch size B."""
        return self.indices.shape[0] if self._stretch is None else len(self._stretch)  # `len` of a tensor is slow

    @property
    def is_uniform(self) -> bool:
        """Whether it is a batch of a plain epoch, of equal weights: in the first one, and while the gate is closed."""
        return self._ticket is not None and self._ticket.place is not None

    @property
    def is_batch(self) -> bool:
        """Whether it is to be trained on; False for candidates, see `ImportanceSampler.request`."""
        return self._ticket is None or self._ticket.choose == 0

    @property
    def whole(self) -> Draw:
        """What ranks drew together, with places among the samples held for indices; the draw itself without ranks."""
        return self if self._whole is None else self._whole

    @property
    def drawn_at(self) -> int:
        """How many updates the sampler had seen when it made the draw."""
        return 0 if self._ticket is None else self._ticket.drawn_at

    def weighted_mean(self, losses: Tensor) -> Tensor:
        """Return the mean of `weights * losses`: the loss to call `backward()` on.

        The sum is divided by the batch size, never by the sum of the weights, which would bias the gradient.

        Args:
            losses: one loss a sample, float [B], with `reduction="none"`, on any device.

        Returns:
            A scalar on the device of `losses`.

        Raises:
            ValueError: `losses` does not hold one value a sample.

        Example:
            >>> draw = Draw(torch.tensor([3, 1]), torch.tensor([0.2, 0.4]), torch.tensor([1.25, 0.625]))
            >>> draw.weighted_mean(torch.tensor([2.0, 4.0]))
            tensor(2.5000)
        """
        check_per_sample(losses, len(self), "Draw.weighted_mean(losses)")
        if self.is_uniform and self._is_plain:
            weights_dtype = torch.float32 if self._weights is None else self._weights.dtype
            return losses.mean(dtype=torch.promote_types(losses.dtype, weights_dtype))
        return (_moved(self.weights, losses.device) * losses).mean()

    def to(self, device: torch.device | str) -> Draw:
        """Return the same draw with its tensors on `device`; it stays one draw: updating either spends both."""
        indices, probabilities, weights = (_moved(values, device) for values in self)
        return Draw(indices, probabilities, weights, self._ticket, _whole=self._whole, _is_plain=self._is_plain)

    def listed(self) -> list[int]:
        """Return the indices as a list of numbers, the caller's own: loaders ask data sets for that."""
        numbers: list[int] = (self.indices if self._stretch is None else self._stretch).tolist()
        return numbers

    def part(self, indices: Tensor, probabilities: Tensor, weights: Tensor, *, is_plain: bool) -> Draw:
        """Return what a rank gets of this draw, with the same ticket.

        Args:
            indices: int64 [b].
            probabilities: float64 [b].
            weights: float32 [b].
            is_plain: whether the weights are those of the whole.
        """
        return Draw(indices, probabilities, weights, self._ticket, _whole=self, _is_plain=is_plain)

    def _filled(self, value: float, dtype: torch.dtype) -> Tensor:
        with torch.inference_mode(mode=False):
            return torch.full((len(self),), value, dtype=dtype, device=self._device)


def uniform_draw(indices: Tensor | Stretch, num_samples: int, ticket: Ticket, device: torch.device) -> Draw:
    """Return a draw in which each of N samples had the same chance; what tensors it lacks are made when asked for.

    Args:
        indices: of the B samples; a tensor is int64, and on the device.
        num_samples: N.
        ticket: of the draw.
        device: where its tensors are to be.
    """
    draw = Draw.__new__(Draw)
    draw._indices, draw._stretch = (None, indices) if isinstance(indices, Stretch) else (indices, None)
    draw._probabilities = draw._weights = draw._whole = None
    draw._ticket, draw._is_plain, draw._chance, draw._device = ticket, True, 1 / num_samples, device
    return draw


def check_ticket(draw: Draw, owner: object) -> Ticket:
    """Return the ticket of a draw, or raise unless `owner` made the draw and has not used it yet."""
    if not isinstance(draw, Draw):
        raise TypeError(f"`update(draw, observed)` must get a Draw first; got {type(draw).__name__}.")
    if draw._ticket is None or draw._ticket.owner is not owner:
        raise ValueError(
            "`update(draw)` must be a draw of this sampler; this one was made elsewhere. "
            "Pass on the draw that came with the batch."
        )
    if draw._ticket.spent:
        raise ValueError(
            "`update(draw)` must be called once a draw; this one was used already. Call it once, after the step."
        )
    if draw._ticket.choose:
        raise ValueError("`update(draw)` must be a batch; these are candidates. Score them, and `choose` from them.")
    return draw._ticket


def check_candidates(draw: Draw, owner: object) -> None:
    """Raise unless `owner` made the draw and it is candidates to choose from."""
    if not isinstance(draw, Draw):
        raise TypeError(f"`choose(candidates, scores)` must get a Draw first; got {type(draw).__name__}.")
    if draw._ticket is None or draw._ticket.owner is not owner or draw.is_batch:
        raise ValueError("`choose(candidates)` must be candidates of this sampler. Pass on what `request` returned.")


def _moved(values: Tensor, device: torch.device | str) -> Tensor:
    # to an accelerator without waiting; what comes from there must have arrived before it is read
    return values.to(device, non_blocking=torch.device(device).type != "cpu")


def check_per_sample(values: Tensor, batch_size: int, argument: str) -> None:
    """Raise unless `values` is a tensor of shape [batch_size]."""
    if not isinstance(values, Tensor):
        raise TypeError(f"`{argument}` must be a tensor of shape [{batch_size}]; got {type(values).__name__}.")
    if values.is_complex():
        raise ValueError(f"`{argument}` must be real; got {values.dtype}.")
    if values.shape == (batch_size,):
        return
    remedy = "Pass losses rather than the model's outputs, reduced to one value a sample."
    if values.ndim == 0:
        remedy = 'Compute the loss with reduction="none".'
    raise ValueError(
        f"`{argument}` must have shape [{batch_size}], one value a sample; got shape {list(values.shape)}. {remedy}"
    )
