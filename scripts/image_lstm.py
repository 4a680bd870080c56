"""Images as sequences: an LSTM that reads them part by part, and names the class after the last one."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ImageLSTM"]


class ImageLSTM(nn.Module):
    """Reads an image from the top, row by row or pixel by pixel, and classifies it by the state after the last one.

    Pixels come in the order of the image. The paper's experiment permutes them, all images alike; its LSTM has as many
    units.

    Reference:
        Katharopoulos & Fleuret (2018), §4.4; Le, Jaitly & Hinton (2015), §4.2.

    Args:
        input_size: values read at a time: those of a row, width times channels, or those of a pixel, the channels.
        num_classes: number of classes C.
        hidden_size: of the LSTM.
    """

    def __init__(self, input_size: int, num_classes: int, *, hidden_size: int = 128) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True)
        self.linear = nn.Linear(hidden_size, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images, [B, channels, height, width], to logits [B, C]."""
        by_pixel = images.permute(0, 2, 3, 1)
        _, (hidden, _) = self.lstm(by_pixel.reshape(len(images), -1, self.lstm.input_size))
        logits: Tensor = self.linear(hidden[-1])
        return logits
