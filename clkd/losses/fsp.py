"""The flow of a solution procedure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from clkd.losses.aligner import Aligner, Shape, Taps, met
from clkd.losses.feature_options import Align
from clkd.losses.layered import Layered


class FSP(Layered):
    """`mean (G(f_l, f_l+1) − G(g_l, g_l+1))²` with the flow `G = F_l F_l+1ᵀ / (H·W)`, `[D_l, D_l+1]`.

    Yim et al. 2017, "A Gift from Knowledge Distillation", eq. 1-2, as a mean over the matrix (there: the sum), in one
    stage (there: two), and summed over neighbours in `layers`. The larger map of two neighbours is averaged down to the
    smaller one (there: max-pooled). Both models need the same widths: where they differ, a layer is projected.

    >>> f, g = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 1.0]]]])
    >>> flow(f, g)
    tensor([[[2.5000]]])
    """

    maps_only: ClassVar[bool] = True

    def __init__(
        self,
        layers: Sequence[str] = ("stage1", "stage2"),
        against: Sequence[str] | None = None,
        align: Align = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(layers, against, None, seed)
        self.aligners = nn.ModuleList(Aligner(align) for _ in range(self.count))

    def bind_pair(self, place: int, taps: Taps, shapes: tuple[Shape, Shape]) -> None:
        aligner = self.aligners[place]
        assert isinstance(aligner, Aligner)
        aligner.bind(self.called, taps, shapes, self.seed)

    def total(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        aligned = [aligner(f, g) for aligner, f, g in zip(self.aligners, student, teacher, strict=True)]
        values = [
            (flow(f, deeper_f) - flow(g, deeper_g)).square().flatten(1).mean(1)
            for (f, g), (deeper_f, deeper_g) in pairwise(aligned)
        ]
        return torch.stack(values).sum(0)


def flow(shallow: Tensor, deep: Tensor) -> Tensor:
    """`[B, D, E]`: how channels of two layers are active together, averaged over positions."""
    shallow, deep = (maps.flatten(2) for maps in met(shallow, deep))
    return shallow @ deep.transpose(1, 2) / shallow.shape[2]
