"""Small networks that losses and transfer strategies own: all their weights come from a generator of their own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from clkd.seeding import forked


def perceptron(widths: Sequence[int], draws: torch.Generator) -> nn.Module:
    """Linear layers of these widths with leaky ReLUs between them; all weights come from `draws`.

    >>> len(perceptron((4, 8, 1), torch.Generator()))
    3
    """
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [layer(width_in, width_out, None, draws), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


def layer(width_in: int, width_out: int, size: int | None, draws: torch.Generator) -> nn.Module:
    """A linear layer, or a convolution of `size` × `size` that keeps the map's size; its weights come from `draws`."""
    with forked(torch.device("cpu")):  # a layer's own initialisation draws from the generator that others use
        made = (
            nn.Linear(width_in, width_out) if size is None else nn.Conv2d(width_in, width_out, size, padding=size // 2)
        )
    nn.init.kaiming_uniform_(made.get_parameter("weight"), nonlinearity="linear", generator=draws)
    nn.init.zeros_(made.get_parameter("bias"))
    return made
