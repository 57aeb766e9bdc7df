"""How long features are."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from clkd.signals import Batch, Needs, Signals
from clkd.transfer.base import Transfer
from clkd.transfer.domains import Between, Target, apart, read


class AFN(Transfer):
    """Longer features for either domain by itself: the sum of both sides' values, of those that have rows.

    Xu et al. 2019, "Larger Norm More Transferable: An Adaptive Feature Norm Approach for Unsupervised Domain
    Adaptation". `stepwise` (eq. 5): `mean (‖f‖ − (‖f‖* + step))²`, ‖f‖* the norm taken as given, so that the value is
    always step² and its gradient makes each feature longer. `hard` (eq. 3): `(mean ‖f‖ − radius)²`.
    """

    source_free = True

    def __init__(
        self,
        feature: str = "penultimate",
        variant: Literal["stepwise", "hard"] = "stepwise",
        step: float = 1.0,
        radius: float = 25.0,
        target: Target = "new",
    ) -> None:
        super().__init__()
        self.feature, self.variant, self.step, self.radius, self.target = feature, variant, step, radius, target

    def reads(self) -> Needs:
        return Needs(logits=False, features=(self.feature,))

    def forward(self, batch: Batch, a: Signals) -> Tensor | None:
        sides = [norms(read(said, self.feature)) for said in apart(batch, a, self.target)]
        values = [self._side(side) for side in sides if len(side)]
        return torch.stack(values).sum() if values else None

    def _side(self, norm: Tensor) -> Tensor:
        if self.variant == "hard":
            return (norm.mean() - self.radius).square()
        return (norm - (norm.detach() + self.step)).square().mean()


class FeatureNorm(Between):
    """`(mean ‖f_s‖ − mean ‖f_t‖)²`: features as long in one domain as in the other; clkd's own."""

    def __init__(self, feature: str = "penultimate", target: Target = "new") -> None:
        super().__init__((feature,), target)

    def compare(self, source: list[Tensor], target: list[Tensor]) -> Tensor:
        return (norms(source[0]).mean() - norms(target[0]).mean()).square()


def norms(rows: Tensor) -> Tensor:
    """`[n]` from `[n, D]`, with the gradient 0 for a row of zeros."""
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return lengths
