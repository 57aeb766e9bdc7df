"""Features whose largest singular values do not tower over the others."""

from __future__ import annotations

import torch
from torch import Tensor

from clkd.transfer.domains import Between, Target


class BSP(Between):
    """`Σ_{i ≤ k} σ_i(F_s)² + σ_i(F_t)²`, the `k` largest singular values of each side's features `[n, D]`.

    Chen et al. 2019, "Transferability vs. Discriminability: Batch Spectral Penalization for Adversarial Domain
    Adaptation", eq. 6: beside `dann` or `cdan`, with a small weight (the paper: 10⁻⁴). It grows with the rows.
    """

    def __init__(self, feature: str = "penultimate", k: int = 1, target: Target = "new") -> None:
        super().__init__((feature,), target)
        self.k = k

    def compare(self, source: list[Tensor], target: list[Tensor]) -> Tensor:
        values = [torch.linalg.svdvals(side[0])[: self.k].square().sum() for side in (source, target)]
        return torch.stack(values).sum()
