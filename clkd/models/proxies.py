"""Cosine classifiers whose classes have several directions, and whose old classes may be left where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clkd.models.heads import Grown, Head, Said

if TYPE_CHECKING:
    from clkd.experience import Experience


class SplitCosine(Head):
    """Cosines with one shared, learned scale; a class has `proxies` directions, of which the nearest counts most.

    A class's logit is `η Σ_k s_k cos(f, w_k)` with `s = softmax_k cos(f, w_k)`: Douillard et al. 2020, "PODNet", eq. 6,
    where η is the scale of the loss `nca`. One proxy makes it the head of Hou et al. 2019 (LUCIR), old and new classes
    under one scale. With `fixed_old`, an old class stays where it was when a later one came, whatever the optimizer
    (weight decay and momentum too) does: LUCIR trains new classes' embeddings only.

    With `imprint`, the classes of a later experience do not start at random: each has the direction of the mean of its
    rows' normalised features, as the student says them at the experience's begin, and the old classes' mean length. So
    does the code of Hou et al. 2019 (an option of theirs; Qi et al. 2018, "Low-Shot Learning with Imprinted Weights").

    Attributes:
        weight: `[C, K, D]`.
        kept: `[C, K, D]`, where the old classes stay; only with `fixed_old`.
        old: `[C]` bool, the columns that an earlier experience brought than the newest ones.

    >>> head = SplitCosine(in_features=2, proxies=2)
    >>> _ = head.grow((0,), 0, torch.Generator())
    >>> head.weight.data = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    >>> round(head(torch.tensor([[5.0, 0.0]])).item(), 4)  # e / (e + 1): the softmax of (1, 0), times (1, 0)
    0.7311
    """

    old: Tensor
    kept: Tensor

    def __init__(
        self,
        in_features: int,
        proxies: int = 1,
        scale: float = 1.0,
        fixed_old: bool = False,
        imprint: bool = False,
    ) -> None:
        super().__init__(in_features, bias=False)
        self.weight = nn.Parameter(torch.empty(0, proxies, in_features))
        self.scale = nn.Parameter(torch.tensor(scale))
        self.fixed_old, self.imprint = fixed_old, imprint
        self.register_buffer("old", torch.empty(0, dtype=torch.bool), persistent=False)
        if fixed_old:
            self.per_class = ("kept",)
            self.register_buffer("kept", torch.empty(0, proxies, in_features))

    @property
    def needs_boundaries(self) -> bool:
        """What is old and stays fixed is decided where classes come, and where new ones start."""
        return self.fixed_old or self.imprint

    def forward(self, features: Tensor) -> Tensor:
        weight = self._directions()
        directions = F.normalize(weight, dim=2).flatten(0, 1)
        cosines = F.linear(F.normalize(features, dim=1), directions)
        if weight.shape[1] > 1:
            cosines = cosines.reshape(features.shape[0], *weight.shape[:2])
            cosines = (cosines.softmax(2) * cosines).sum(2)
        return self.scale * cosines

    def grow(self, classes: Sequence[int], experience: int, generator: torch.Generator) -> Grown:
        before, old = self.weight, self.old
        grown = super().grow(classes, experience, generator)
        if grown and self.fixed_old:
            kept = torch.where(old[:, None, None], self.kept[: len(before)], before.detach())
            self.kept[: len(before)] = kept
        return grown

    @torch.no_grad()
    def begin(self, experience: Experience, said: Said) -> None:
        """Imprint the experience's new classes."""
        new = torch.tensor([b == experience.index for b in self.born], device=self.weight.device)
        if not (self.imprint and new.any() and self.old.any()):
            return
        sums = torch.zeros_like(self.weight[:, 0], dtype=torch.float64)
        for features, y in said("new"):
            own = (y[:, None] == self.class_ids_tensor).double()
            sums += own.T @ F.normalize(features.double(), dim=1)
        new &= sums.any(1)  # of a class without a labelled row nothing is known
        old = self.kept if self.fixed_old else self.weight  # whose rows of old classes only decay
        length = old[self.old].norm(dim=2).mean()
        self.weight[new] = (length * F.normalize(sums[new], dim=1).to(self.weight))[:, None]

    @torch.no_grad()
    def follow(self, before: Head) -> None:
        """An average's old classes stay where the average was, and not where the student was, nor at 0."""
        if self.fixed_old and isinstance(before, SplitCosine):
            self.kept[: len(before.old)] = before._directions()

    def _directions(self) -> Tensor:
        """`[C, K, D]`, of whatever length."""
        return torch.where(self.old[:, None, None], self.kept, self.weight) if self.fixed_old else self.weight

    def _drawn(self, columns: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        proxies = self.weight.shape[1]
        rows, none = super()._drawn(columns * proxies, generator)
        return rows.reshape(columns, proxies, -1), none

    def _name(self, class_ids: tuple[int, ...], born: tuple[int, ...]) -> None:
        super()._name(class_ids, born)
        latest = max(born, default=0)
        self.old = torch.tensor([b < latest for b in born], dtype=torch.bool, device=self.weight.device)
