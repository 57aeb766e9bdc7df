"""The overhaul of feature distillation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clkd.losses.aligner import Aligner, Shape, Taps
from clkd.losses.feature_options import Align
from clkd.losses.layered import Layered


class OFD(Layered):
    """`mean d(r(f), max(g, m))`, where d is 0 if both are negative and r(f) the lower, else the squared difference.

    Heo et al. 2019, "A Comprehensive Overhaul of Feature Distillation", eq. 1-5: the margin m of a channel is the mean
    of the teacher's negative responses (here over the batch, which the paper allows beside batch-norm statistics); the
    partial distance lets the student be as negative as it likes where the teacher is. As a mean over features (the
    authors' code sums over them, and divides by 1000). `layer_weights` are ½^(L−l) by default, as there.

    It is about layers **before** a ReLU: `stage1_pre`, … in clkd's own backbones, or `PATH:in` of a ReLU in others.
    Behind a ReLU nothing is negative, and what is left is the squared difference where one of the two is active.

    >>> loss = OFD()
    >>> loss.bind_pair(0, ("stage1_pre", "stage1_pre"), ((1,), (1,)))
    >>> loss.compare(0, torch.tensor([[-9.0], [0.0], [1.0]]), torch.tensor([[-1.0], [-3.0], [2.0]]))
    tensor([0., 4., 1.])
    """

    def __init__(
        self,
        align: Align = "auto",
        layers: Sequence[str] | None = None,
        against: Sequence[str] | None = None,
        layer_weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        count = len(layers or ())
        halved = [0.5 ** (count - place - 1) for place in range(count)]
        super().__init__(layers, against, layer_weights or halved, seed)
        self.aligners = nn.ModuleList(Aligner(align) for _ in range(self.count))

    def bind_pair(self, place: int, taps: Taps, shapes: tuple[Shape, Shape]) -> None:
        aligner = self.aligners[place]
        assert isinstance(aligner, Aligner)
        aligner.bind(self.called, taps, shapes, self.seed)

    def compare(self, place: int, f: Tensor, g: Tensor) -> Tensor:
        f, g = self.aligners[place](f, g)
        target = torch.maximum(g, margin(g))
        counts = (f > target) | (target > 0)
        return ((f - target).square() * counts).flatten(1).mean(1)


def margin(g: Tensor) -> Tensor:
    """The mean of each channel's negative values, `[D]` shaped to be compared with `[B, D, …]`; 0 where none is.

    >>> margin(torch.tensor([[-1.0], [-3.0], [2.0]]))
    tensor([[-2.]])
    """
    over = [d for d in range(g.dim()) if d != 1]
    negative = g < 0
    return g.clamp(max=0).sum(over, keepdim=True) / negative.sum(over, keepdim=True).clamp(min=1)
