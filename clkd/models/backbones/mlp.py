"""Fully connected backbones."""

from __future__ import annotations

import itertools
import math
from typing import Literal

from torch import Tensor, nn

from clkd.models.backbones.base import Backbone


class MLP(Backbone):
    """Flattens each row; then, for every hidden layer, Linear, ReLU and Dropout. `stageK` is the K-th ReLU's output.

    With 784 inputs, two hidden layers of 400 and a head of 10 classes it is the network of van de Ven & Tolias (2019)
    on split MNIST, which has 478,410 parameters.

    >>> MLP((1, 28, 28)).out_features
    400
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        hidden: tuple[int, ...] = (400, 400),
        dropout: float = 0.0,
        init: Literal["torch", "xavier"] = "torch",
    ) -> None:
        super().__init__()
        widths = (math.prod(shape), *hidden)
        self.layers = nn.Sequential(
            *(_layer(inputs, outputs, dropout) for inputs, outputs in itertools.pairwise(widths))
        )
        if init == "xavier":
            self.layers.apply(_xavier)
        self.out_features = widths[-1]
        self.stages = {f"stage{k + 1}": f"layers.{k}.relu" for k in range(len(hidden))}
        self.before_relu = {f"stage{k + 1}_pre": f"layers.{k}.linear" for k in range(len(hidden))}

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x.flatten(1))
        return features


def _layer(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    layer = nn.Sequential()
    layer.add_module("linear", nn.Linear(inputs, outputs))
    layer.add_module("relu", nn.ReLU())
    if dropout:
        layer.add_module("dropout", nn.Dropout(dropout))
    return layer


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
