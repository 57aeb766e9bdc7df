"""Masked generative distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from clkd.losses.aligner import Aligner, Shape, Taps
from clkd.losses.feature_options import Align
from clkd.losses.layered import Layered
from clkd.perceptron import layer
from clkd.seeding import generator


class MGD(Layered):
    """`mean (G(M · r(f)) − g)²`: a generator G makes the teacher's whole map of what a random mask M leaves.

    Yang et al. 2022, "Masked Generative Distillation", eq. 3-5, as a mean over features (the authors' code sums over
    them and divides by the batch). G is a 3 × 3 convolution, ReLU and another one. A mask is drawn anew in each step,
    for each row, from (seed, step, layer): a resumed run draws the same ones.

    >>> keep((2, 3, 1, 1), 0.5, 0, 7, 0).flatten(1).tolist()
    [[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]]
    """

    maps_only: ClassVar[bool] = True
    contract_optouts: ClassVar[dict[str, str]] = {
        "agreement": "the generator has to guess what is masked, and starts at random",
        "permutation": "masks belong to places in the batch, so that other rows are masked in another order",
    }

    def __init__(
        self,
        mask: Literal["channels", "positions"] = "channels",
        ratio: float = 0.15,
        align: Align = "auto",
        layers: Sequence[str] | None = None,
        against: Sequence[str] | None = None,
        layer_weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(layers, against, layer_weights, seed)
        self.mask, self.ratio = mask, ratio
        self.aligners = nn.ModuleList(Aligner(align) for _ in range(self.count))
        self.generators = nn.ModuleList(nn.Sequential() for _ in range(self.count))
        self._widths = [0] * self.count

    def bind_pair(self, place: int, taps: Taps, shapes: tuple[Shape, Shape]) -> None:
        aligner = self.aligners[place]
        assert isinstance(aligner, Aligner)
        aligner.bind(self.called, taps, shapes, self.seed)
        width = shapes[1][0]
        if width != self._widths[place]:
            draws = generator(self.seed, "generator", *taps)
            self.generators[place] = nn.Sequential(
                layer(width, width, 3, draws), nn.ReLU(), layer(width, width, 3, draws)
            )
            self._widths[place] = width

    def compare(self, place: int, f: Tensor, g: Tensor) -> Tensor:
        f, g = self.aligners[place](f, g)
        rows, channels, height, width = f.shape
        shape = (rows, channels, 1, 1) if self.mask == "channels" else (rows, 1, height, width)
        step = self.progress.step if self.progress else 0
        kept = keep(shape, self.ratio, self.seed, step, place).to(f, non_blocking=True)
        made: Tensor = self.generators[place](f * kept)
        return (made - g).square().flatten(1).mean(1)


def keep(shape: tuple[int, ...], ratio: float, seed: int, step: int, place: int) -> Tensor:
    """1 where something stays and, with probability `ratio`, 0."""
    return (torch.rand(shape, generator=generator(seed, "mask", step, place)) >= ratio).float()
