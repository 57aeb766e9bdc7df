"""Residual networks for small images (He et al. 2016, "Deep Residual Learning for Image Recognition")."""

from __future__ import annotations

from torch import Tensor, nn

from clkd.errors import UserError
from clkd.models.backbones.base import Backbone


class ResNet(Backbone):
    """A 3 × 3 stem without pooling, stages of basic blocks, and the mean over all pixels. `stageK` is stage K's output.

    Where a block changes resolution or width its shortcut is a 1 × 1 convolution with batch norm (the paper's option
    B), as in the networks that distillation papers compare; the paper's own CIFAR networks pad with zeros (option A),
    which has 1 % fewer parameters. Convolutions start from He's normal initialisation.

    Args:
        shape: `(C, H, W)` of a row.
        blocks: how many basic blocks each stage has; every stage but the first halves the resolution.
        width: channels of the stem and the first stage; every further stage doubles them.

    Raises:
        UserError: the rows are not images.
    """

    def __init__(self, shape: tuple[int, ...], blocks: tuple[int, ...], width: int) -> None:
        super().__init__()
        if len(shape) != 3:
            raise UserError(f"a ResNet takes images (C, H, W), not rows of shape {shape}: use the model 'mlp'")
        self.stem = nn.Sequential(_conv(shape[0], width, 3), nn.BatchNorm2d(width), nn.ReLU())
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width << stage
            layer = [Block(inputs if i == 0 else outputs, outputs, 2 if i == 0 and stage else 1) for i in range(count)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
            inputs = outputs
        self.out_features = inputs
        self.stages = {f"stage{k + 1}": f"layer{k + 1}" for k in range(len(blocks))}
        self.before_relu = {f"stage{k + 1}_pre": f"layer{k + 1}.{n - 1}.relu2:in" for k, n in enumerate(blocks)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for path in self.stages.values():
            x = getattr(self, path)(x)
        return x.mean((2, 3))


class Block(nn.Module):
    """Two 3 × 3 convolutions and a shortcut around them. Nothing is written in place, so every module can be tapped."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2, self.bn2 = _conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu1(self.bn1(self.conv1(x)))
        outer: Tensor = self.relu2(self.bn2(self.conv2(inner)) + self.shortcut(x))
        return outer


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def resnet8(shape: tuple[int, ...], width: int = 16) -> ResNet:
    """6·1 + 2 layers."""
    return ResNet(shape, (1, 1, 1), width)


def resnet20(shape: tuple[int, ...], width: int = 16) -> ResNet:
    """6·3 + 2 layers: 0.27 M parameters, 40.8 M multiply-accumulates on 3 × 32 × 32."""
    return ResNet(shape, (3, 3, 3), width)


def resnet32(shape: tuple[int, ...], width: int = 16) -> ResNet:
    """6·5 + 2 layers."""
    return ResNet(shape, (5, 5, 5), width)


def resnet56(shape: tuple[int, ...], width: int = 16) -> ResNet:
    """6·9 + 2 layers: 0.86 M parameters, 125.8 M multiply-accumulates on 3 × 32 × 32."""
    return ResNet(shape, (9, 9, 9), width)


def resnet18(shape: tuple[int, ...], width: int = 64) -> ResNet:
    """The ImageNet network's four stages behind a CIFAR stem, as in Mammoth: 11.17 M parameters with ten classes."""
    return ResNet(shape, (2, 2, 2, 2), width)
