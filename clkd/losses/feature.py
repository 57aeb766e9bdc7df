"""Learning from another model's inner layers, feature by feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from clkd.losses.aligner import Aligner, Shape, Taps
from clkd.losses.feature_options import Align
from clkd.losses.layered import Layered


class Features(Layered):
    """`mean (r(f) − g)²` over a row's features: student f, teacher g, projector r where their widths differ.

    Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", eq. 3 (with the mean over features in place of half the
    sum, so that one weight serves layers of any size). The projector is learned with the student and kept from one
    experience to the next; it has no normalisation of its own.

    >>> import torch
    >>> from clkd.signals import Signals, Spec
    >>> loss, side = Features(), Spec(class_ids=(0,), born=(0,), feature="stage1", shape=(2,))
    >>> loss.bind(side, side)
    >>> f, g = (Signals(None, torch.arange(1), {"stage1": torch.tensor([row])}) for row in ([1.0, 2.0], [1.0, 5.0]))
    >>> loss(None, f, g)
    tensor([4.5000])
    """

    def __init__(
        self,
        align: Align = "auto",
        pool: Literal["auto", "none", "spatial", "interpolate"] = "auto",
        normalize: Literal["none", "l2", "zscore", "channel"] = "none",
        layers: Sequence[str] | None = None,
        against: Sequence[str] | None = None,
        layer_weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(layers, against, layer_weights, seed)
        self.aligners = nn.ModuleList(Aligner(align, pool, normalize) for _ in range(self.count))

    def bind_pair(self, place: int, taps: Taps, shapes: tuple[Shape, Shape]) -> None:
        aligner = self.aligners[place]
        assert isinstance(aligner, Aligner)
        aligner.bind(self.called, taps, shapes, self.seed)

    def formula(self, sides: str) -> str:
        learned = any(True for _ in self.aligners.parameters())
        return f"MSE({sides.replace('student', 'projected student', 1) if learned else sides})"

    def compare(self, place: int, f: Tensor, g: Tensor) -> Tensor:
        f, g = self.aligners[place](f, g)
        return (f - g).square().flatten(1).mean(1)


class FitNet(Features):
    """A hint: `mean (r(f) − g)²` with a regressor r that is always there, a 3 × 3 convolution for maps.

    Romero et al. 2015, eq. 3, in one stage: the paper trains the layers up to the hint first, and the whole network
    after. The regressor keeps the map's size (the paper's shrinks it without padding); sizes that differ meet by
    averaging first.

    >>> FitNet().aligners[0].align
    'hint'
    """

    contract_optouts: ClassVar[dict[str, str]] = {
        "agreement": "the regressor starts at random, so that equal features are not where the loss is least"
    }

    def __init__(
        self,
        align: Align = "hint",
        pool: Literal["auto", "none", "spatial", "interpolate"] = "auto",
        normalize: Literal["none", "l2", "zscore", "channel"] = "none",
        layers: Sequence[str] | None = None,
        against: Sequence[str] | None = None,
        layer_weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(align, pool, normalize, layers, against, layer_weights, seed)
