"""LeNet-5."""

from __future__ import annotations

import math

from torch import Tensor, nn

from clkd.errors import UserError
from clkd.models.backbones.base import Backbone


class LeNet(Backbone):
    """LeNet-5 (LeCun et al. 1998) as it is used today: ReLU for tanh, max-pooling for trained subsampling.

    Images below 32 pixels are padded by 2 on each side, so that 28 pixels become the 32 of the paper. `stage1` and
    `stage2` are the pooled maps of 6 and 16 channels, `stage3` the 120 units; the output has 84. All of these are
    `width` times as many. With `batch_norm`, each layer is normalised before its ReLU, unlike in the paper.

    >>> net = LeNet((1, 28, 28))
    >>> sum(p.numel() for p in net.parameters()) + 84 * 10 + 10  # with a head of ten classes
    61706

    Raises:
        UserError: the rows are not images of at least 12 × 12.
    """

    def __init__(self, shape: tuple[int, ...], width: int = 1, batch_norm: bool = False) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < 12:
            raise UserError(f"lenet takes images of at least 12 × 12, not rows of shape {shape}: use another model")
        channels, *pixels = shape
        padding = 2 if min(pixels) < 32 else 0
        cells = math.prod(_pooled(side + 2 * padding) for side in pixels)
        maps1, maps2, full1, full2 = (width * n for n in (6, 16, 120, 84))
        convolved, weighed = (nn.BatchNorm2d, nn.BatchNorm1d) if batch_norm else (None, None)
        self.map1 = nn.Sequential(
            *_relu(nn.Conv2d(channels, maps1, 5, padding=padding), convolved, maps1), nn.MaxPool2d(2)
        )
        self.map2 = nn.Sequential(*_relu(nn.Conv2d(maps1, maps2, 5), convolved, maps2), nn.MaxPool2d(2))
        self.full1 = nn.Sequential(nn.Flatten(), *_relu(nn.Linear(maps2 * cells, full1), weighed, full1))
        self.full2 = nn.Sequential(*_relu(nn.Linear(full1, full2), weighed, full2))
        self.out_features = full2
        self.stages = {"stage1": "map1", "stage2": "map2", "stage3": "full1"}
        before = {"stage1": "map1.0", "stage2": "map2.0", "stage3": "full1.1"}
        if batch_norm:
            before = {"stage1": "map1.1", "stage2": "map2.1", "stage3": "full1.2"}
        self.before_relu = {f"{stage}_pre": path for stage, path in before.items()}

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.full2(self.full1(self.map2(self.map1(x))))
        return features


def _relu(layer: nn.Module, norm: type[nn.Module] | None, wide: int) -> list[nn.Module]:
    return [layer, *([norm(wide)] if norm else []), nn.ReLU()]


def _pooled(pixels: int) -> int:
    """What is left of a side after two 5 × 5 convolutions, each halved by pooling."""
    return ((pixels - 4) // 2 - 4) // 2
