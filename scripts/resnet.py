"""ResNet-18 for images of 32×32: a first convolution without stride, and no pooling after it."""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)


class ResidualBlock(nn.Module):
    """Two convolutions, around which the input goes as it is, or through one of 1×1 where shapes change."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_convolution(channels, filters, 3, stride), nn.ReLU(), *_convolution(filters, filters, 3, 1)
        )
        changes = stride != 1 or channels != filters
        self.shortcut = nn.Sequential(*(_convolution(channels, filters, 1, stride) if changes else ()))
        self.activation = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Map images [B, channels, H, W] to [B, filters, H / stride, W / stride]."""
        outputs: Tensor = self.activation(self.residual(inputs) + self.shortcut(inputs))
        return outputs


def resnet_18(channels: int, num_classes: int) -> nn.Sequential:
    """Build the network.

    Reference:
        He, Zhang, Ren & Sun (2016), table 1, with the first layer of §4.2.

    Args:
        channels: of the images.
        num_classes: number of classes C.
    """
    layers: list[nn.Module] = [*_convolution(channels, WIDTHS[0], 3, 1), nn.ReLU()]
    before = WIDTHS[0]
    for width in WIDTHS:
        layers += [ResidualBlock(before, width, stride=1 if width == before else 2), ResidualBlock(width, width, 1)]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes))


def _convolution(channels: int, filters: int, size: int, stride: int) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(channels, filters, size, stride=stride, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(filters)
