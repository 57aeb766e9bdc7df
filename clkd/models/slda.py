"""Streaming linear discriminant analysis on a backbone that stands still."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from clkd.models.heads import Said
from clkd.models.prototypes import UNKNOWN, Answering

if TYPE_CHECKING:
    from clkd.experience import Experience


class StreamingLDA(Answering):
    """Class means and one covariance of all classes, brought up row by row; no row is needed a second time.

    Hayes & Kanan 2020, "Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis", §3.2: logits are
    `z·Λμ_c − ½ μ_c·Λμ_c` with `Λ = ((1 − ε) Σ + ε I)⁻¹`. Σ is the pooled within-class covariance, exactly: each row
    adds `n/(n + 1) (z − μ_y)(z − μ_y)ᵀ`, where n rows of its class came before. (The paper has the number of all rows
    for n, and so a class's first row, whose mean is still 0, adds about `z zᵀ`, which is no scatter within the class.)
    So neither order nor batches count.

    The backbone is trained in the first experience, through the linear layer underneath, and stands still from then
    on; with `pretrained`, from the start.

    Attributes:
        means, counts: `[C, D]` float64 and `[C]` int64 of each class's rows.
        scatter: `[D, D]` float64: Σ times the number of all rows.
        directions, offsets: `[C, D]` and `[C]`, the linear classifier that all this comes to.

    >>> head = StreamingLDA(in_features=2)
    >>> _ = head.grow((0, 1), 0, torch.Generator())
    >>> z, y = torch.tensor([[0.0, 1.0], [0.0, 3.0], [4.0, 1.0], [4.0, 3.0]]), torch.tensor([0, 0, 1, 1])
    >>> head.gather([(z, y)])
    >>> head.means.tolist(), (head.scatter / 4).tolist()
    ([[0.0, 2.0], [4.0, 2.0]], [[0.0, 0.0], [0.0, 1.0]])
    """

    per_class = ("means", "counts", "directions", "offsets")
    means: Tensor
    counts: Tensor
    scatter: Tensor
    directions: Tensor
    offsets: Tensor

    def __init__(self, in_features: int, shrinkage: float = 1e-4, pretrained: bool = False) -> None:
        super().__init__(in_features)
        self.shrinkage, self.pretrained = shrinkage, pretrained
        self.register_buffer("means", torch.empty(0, in_features, dtype=torch.float64))
        self.register_buffer("counts", torch.empty(0, dtype=torch.int64))
        self.register_buffer("scatter", torch.zeros(in_features, in_features, dtype=torch.float64))
        self.register_buffer("directions", torch.empty(0, in_features))
        self.register_buffer("offsets", torch.empty(0))

    def settled(self, experience: int) -> bool:
        return self.pretrained or experience > 0

    def answer(self, features: Tensor) -> Tensor:
        logits = F.linear(features, self.directions.to(features), self.offsets.to(features))
        return torch.where(self.counts > 0, logits, UNKNOWN)

    def end(self, experience: Experience, said: Said) -> None:
        self.gather(said("new"))

    @torch.no_grad()
    def gather(self, said: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Take in pairs of features `[n, D]` and labels `[n]`, each row once."""
        for features, y in said:
            self._add(*self.columns_of(features, y))
        total = int(self.counts.sum())
        if total:
            eye = torch.eye(len(self.scatter), dtype=self.scatter.dtype, device=self.scatter.device)
            regular = (1 - self.shrinkage) * self.scatter / total + self.shrinkage * eye
            directions = torch.linalg.solve(regular, self.means.T).T
            self.directions.copy_(directions)
            self.offsets.copy_(-(directions * self.means).sum(1) / 2)
            self.answers = True

    def _add(self, rows: Tensor, own: Tensor) -> None:
        """Several rows at once: their scatter around their own means, and that of those means around the old ones."""
        arriving = own.sum(0)
        means = (own.T @ rows) / arriving.clamp(min=1)[:, None]
        inner = rows - own @ means
        shift = (means - self.means) * (arriving > 0)[:, None]
        both = (self.counts + arriving).clamp(min=1)
        self.scatter += inner.T @ inner + (shift.T * (self.counts * arriving / both)) @ shift
        self.means += shift * (arriving / both)[:, None]
        self.counts += arriving.long()
