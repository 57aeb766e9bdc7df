"""Staying near the student that an experience began with: near its weights, or near what its layers say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from clkd.signals import Batch, Needs, Signals
from clkd.transfer.base import Transfer
from clkd.transfer.domains import full_precision

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student


class StartingPoint(Transfer):
    """A strategy that looks back to the student as it was at the experience's begin, and has no state.

    In the first experience the student was untrained, unless its weights came from elsewhere (`first`).
    """

    source_free = True

    def __init__(self, first: bool = False) -> None:
        super().__init__()
        self.first = first
        self.begun = False

    def begin(self, experience: Experience, student: Student) -> None:
        self.begun = experience.index > 0 or self.first
        if self.begun:
            self.remember(experience, student)

    def remember(self, experience: Experience, student: Student) -> None:
        """Keep of the student what is compared with."""
        raise NotImplementedError


class L2SP(StartingPoint):
    """`½ ‖θ − θ⁰‖² + ½ · fresh · ‖θ_new‖²`, θ⁰ the weights at the experience's begin, θ_new the columns of new classes.

    Li, Grandvalet & Davoine 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", eq. 2;
    `weight` is the paper's α and `weight · fresh` its β. All parameters that are trained count, biases too.
    """

    contract_optouts: ClassVar[dict[str, str]] = {
        "gradient": "it reads the student's parameters, and neither rows nor signals"
    }

    def __init__(self, fresh: float = 1.0, first: bool = False) -> None:
        super().__init__(first)
        self.fresh = fresh

    def remember(self, experience: Experience, student: Student) -> None:
        # In lists, for they are the student's own.
        self.now_and_then: list[tuple[nn.Parameter, Tensor, Tensor | float]] = []
        new = torch.tensor([born == experience.index for born in student.born], device=student.class_ids_tensor.device)
        for name, parameter in student.named_parameters():
            if not parameter.requires_grad:
                continue
            start, weight = parameter.detach().clone(), torch.ones((), device=parameter.device)
            if name in ("head.weight", "head.bias") and len(parameter) == len(new):
                rows = new.reshape(-1, *[1] * (parameter.dim() - 1))
                start, weight = start.masked_fill(rows, 0.0), torch.where(rows, self.fresh, weight)
            self.now_and_then.append((parameter, start, weight))

    def forward(self, batch: Batch, a: Signals) -> Tensor | None:
        if not self.begun:
            return None
        return 0.5 * torch.stack([(w * (p - start).square()).sum() for p, start, w in self.now_and_then]).sum()


class Delta(StartingPoint):
    """`½ Σ_l mean_rows ‖f_l − f_l⁰‖²`, f⁰ what the student of the experience's begin says of the very same rows.

    Li et al. 2019, "DELTA: Deep Learning Transfer Using Feature Map with Attention for Convolutional Networks", eq. 6,
    every channel counting the same: the paper weighs channels by how much a classifier needs them, which takes a pass
    over the data for each channel. Squares are summed over a map, as in the paper. It costs one more forward pass.
    """

    def __init__(self, layers: Sequence[str] = ("penultimate",), first: bool = False) -> None:
        super().__init__(first)
        self.layers = tuple(layers)
        self._before: list[Student] = []  # in a list: it is neither trained nor saved

    def reads(self) -> Needs:
        return Needs(logits=False, features=self.layers)

    def remember(self, experience: Experience, student: Student) -> None:
        self._before = [student.frozen_copy()]

    def forward(self, batch: Batch, a: Signals) -> Tensor | None:
        if not self.begun:
            return None
        with torch.no_grad():
            before = self._before[0].signals(batch.x, self.reads(), batch.domain).features
        return 0.5 * torch.stack([_squared(a.features[name], before[name]) for name in self.layers]).sum()


def _squared(f: Tensor, g: Tensor) -> Tensor:
    """Summed over what a layer says of a row, averaged over rows."""
    return (full_precision(f) - full_precision(g)).square().flatten(1).sum(1).mean()
