"""A linear head whose newest classes are corrected for being seen more often than the old ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clkd.models.heads import Grown, Head


class BiasCorrected(Head):
    """Logits of the newest classes become `α z + β`, those of older classes stay `z`.

    Wu et al. 2019, "Large Scale Incremental Learning" (BiC), §3.4. Each experience that brings classes gets an α of 1
    and a β of 0, which change nothing; ordinary training leaves them alone, and a phase with `trains: bias` learns
    them. Only the newest pair counts: the student was since taught by its previous self, whose logits were corrected,
    so that a second correction would be one too many.

    Attributes:
        alpha, beta: `[E]`, for each experience that brought classes.
        newest: `[C]` bool, the columns that are corrected; none while there are no older ones.

    >>> head = BiasCorrected(in_features=1)
    >>> for c in (0, 1):
    ...     grown = head.grow((c,), c, torch.Generator())
    >>> head.weight.data, head.bias.data = torch.tensor([[1.0], [2.0]]), torch.zeros(2)
    >>> head.alpha.data[-1], head.beta.data[-1] = 0.5, -0.25
    >>> head(torch.ones(1, 1)).tolist()
    [[1.0, 0.75]]
    """

    newest: Tensor
    needs_boundaries = True

    def __init__(self, in_features: int) -> None:
        super().__init__(in_features)
        self.alpha = nn.Parameter(torch.ones(0), requires_grad=False)
        self.beta = nn.Parameter(torch.zeros(0), requires_grad=False)
        self.register_buffer("newest", torch.empty(0, dtype=torch.bool), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        if not len(self.alpha):
            return logits
        return torch.where(self.newest, self.alpha[-1] * logits + self.beta[-1], logits)

    def grow(self, classes: Sequence[int], experience: int, generator: torch.Generator) -> Grown:
        grown, brought = super().grow(classes, experience, generator), len(set(self.born))
        if brought == len(self.alpha):
            return grown
        old = self.alpha, self.beta
        self._resize(brought)
        with torch.no_grad():
            self.alpha[: len(old[0])], self.beta[: len(old[1])] = old
        return [*grown, (old[0], self.alpha), (old[1], self.beta)]

    def corrections(self) -> list[nn.Parameter]:
        return [self.alpha, self.beta]

    def lay_out(self, layout: dict[str, Any]) -> None:
        super().lay_out(layout)
        self._resize(len(set(self.born)))

    def _resize(self, experiences: int) -> None:
        """Pairs that change nothing."""
        self.alpha = nn.Parameter(self.alpha.new_ones(experiences), requires_grad=False)
        self.beta = nn.Parameter(self.beta.new_zeros(experiences), requires_grad=False)

    def _name(self, class_ids: tuple[int, ...], born: tuple[int, ...]) -> None:
        super()._name(class_ids, born)
        latest, first = max(born, default=0), min(born, default=0)
        self.newest = torch.tensor([b == latest > first for b in born], dtype=torch.bool, device=self.weight.device)
