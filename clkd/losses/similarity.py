"""Similarity-preserving distillation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.losses.related import Related, pairs_of
from clkd.signals import Batch, Signals


class SP(Related):
    """`‖n(F Fᵀ) − n(G Gᵀ)‖²_F / B²`, where n brings each row of the matrix of inner products to unit length.

    Tung & Mori 2019, "Similarity-Preserving Knowledge Distillation", eq. 3-4, on activations as they are: maps are laid
    out as vectors and not averaged. B² and the B × B matrices are those of a block of rows: the new ones, and the
    replayed ones (unless `mix`). The peers' weight is 3000 for this scale.

    >>> f, g = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> difference(f, g).square().sum()
    tensor(1.1716)
    """

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        """A scalar: a similarity belongs to no single row."""
        blocks = self.activations(batch, a, b)
        return torch.stack([difference(f, g).square().sum() for f, g in blocks]).sum() / pairs_of(blocks)


def difference(f: Tensor, g: Tensor) -> Tensor:
    """`[n, n]`: of two matrices of inner products, row by row of unit length."""
    return F.normalize(f @ f.T, dim=1) - F.normalize(g @ g.T, dim=1)
