"""Heads that are trained through a linear layer and answer by what they have gathered of the features."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clkd.models.heads import Head, Said

if TYPE_CHECKING:
    from clkd.experience import Experience

UNKNOWN = -1e30
"""The logit of a class of which no row was there to gather anything: below all others, and still a number."""


class Answering(Head):
    """Says what its linear layer says while it is trained, or teaches; else it answers, once it has gathered anything.

    So losses compare linear logits on both sides, as iCaRL does, and evaluation sees the answers.
    """

    def __init__(self, in_features: int) -> None:
        super().__init__(in_features)
        self.answers = False

    def forward(self, features: Tensor) -> Tensor:
        if self.training or self.teaches or not self.answers:
            return super().forward(features)
        return self.answer(features)

    def answer(self, features: Tensor) -> Tensor:
        """`[B, D]` to `[B, C]`, from what was gathered."""
        raise NotImplementedError

    def forget(self) -> None:
        self.answers = False

    def layout(self) -> dict[str, Any]:
        return {**super().layout(), "answers": self.answers}

    def lay_out(self, layout: dict[str, Any]) -> None:
        super().lay_out(layout)
        self.answers = bool(layout.get("answers", False))

    def columns_of(self, features: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """In float64, the features of rows whose class has a column, and `[n, C]` 1 at each one's own column."""
        own = y[:, None] == self.class_ids_tensor
        has = own.any(1)
        return features[has].double(), own[has].double()


class NearestMean(Answering):
    """Logits are minus the distance from the normalised feature to each class's mean, on the unit sphere.

    Rebuffi et al. 2017, "iCaRL", alg. 1: the mean of the normalised features of a class's rows, normalised again;
    without `normalize`, features and means are taken as they are, as in the code of Buzzega et al. 2020 (Mammoth). A
    class of the experience's has its training rows (and those of earlier experiences in memory), an old class those in
    memory; with `rows: memory`, all means are those of what memory keeps, as in the paper. All means are made anew at
    each experience's end, with the features of then; a class of which no row is left keeps its last mean.

    Attributes:
        means: `[C, D]`, each of length 1 if they are normalised.
        known: `[C]` bool, the classes that have one.

    >>> head = NearestMean(in_features=2)
    >>> _ = head.grow((0, 1), 0, torch.Generator())
    >>> head.gather([(torch.tensor([[3.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 1]))])
    >>> head.eval()(torch.tensor([[2.0, 0.0]])).tolist()
    [[-0.0, -1.4142135381698608]]
    """

    per_class = ("means", "known")
    means: Tensor
    known: Tensor

    def __init__(self, in_features: int, rows: Literal["all", "memory"] = "all", normalize: bool = True) -> None:
        super().__init__(in_features)
        self.rows, self.normalize = rows, normalize
        self.register_buffer("means", torch.empty(0, in_features))
        self.register_buffer("known", torch.empty(0, dtype=torch.bool))

    def answer(self, features: Tensor) -> Tensor:
        # Exact for close points, where the product form of the distance is not.
        exact = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(self._scaled(features), self.means.to(features), compute_mode=exact)
        return torch.where(self.known, -distances, UNKNOWN)

    def end(self, experience: Experience, said: Said) -> None:
        if self.rows == "memory":
            self.gather(said("kept"))
        else:
            self.gather(chain(said("past"), said("new")))

    def _scaled(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=1) if self.normalize else vectors

    @torch.no_grad()
    def gather(self, said: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Make the means of pairs of features `[n, D]` and labels `[n]`."""
        sums = torch.zeros_like(self.means, dtype=torch.float64)
        counts = sums.new_zeros(len(sums))
        for features, y in said:
            rows, own = self.columns_of(features, y)
            sums += own.T @ self._scaled(rows)
            counts += own.sum(0)
        found = counts > 0
        means = F.normalize(sums, dim=1) if self.normalize else sums / counts[:, None]
        self.means[found] = means[found].to(self.means)
        self.known |= found
        self.answers = bool(self.known.any())
