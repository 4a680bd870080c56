"""Images as sequences: an LSTM that reads them part by part, and names the class after the last one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ImageLSTM", "permutation"]


class ImageLSTM(nn.Module):
    """Reads an image row by row or pixel by pixel, and classifies it by the state after the last one.

    Reference:
        Katharopoulos & Fleuret (2018), §4.4; Le, Jaitly & Hinton (2015), §4.2.

    Args:
        input_size: values read at a time: those of a row, width times channels, or those of a pixel, the channels.
        num_classes: number of classes C.
        order: in which pixels are read, int64 [height · width]; None for that of the image, from the top.
        hidden_size: of the LSTM.
    """

    order: Tensor | None

    def __init__(
        self, input_size: int, num_classes: int, *, order: Tensor | None = None, hidden_size: int = 128
    ) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True)
        self.linear = nn.Linear(hidden_size, num_classes)
        self.register_buffer("order", order, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images, [B, channels, height, width], to logits [B, C]."""
        pixels = images.flatten(2)
        if self.order is not None:
            pixels = pixels[:, :, self.order]
        _, (hidden, _) = self.lstm(pixels.mT.reshape(len(images), -1, self.lstm.input_size))
        logits: Tensor = self.linear(hidden[-1])
        return logits


def permutation(num_pixels: int) -> Tensor:
    """Return a random order of so many pixels, int64 [`num_pixels`], the same one every time."""
    return torch.randperm(num_pixels, generator=torch.Generator().manual_seed(0))
