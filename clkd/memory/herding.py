"""Rows whose mean is the mean of their class."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from clkd.memory.class_balanced import ClassBalanced
from clkd.memory.table import PIECE
from clkd.signals import Needs

if TYPE_CHECKING:
    from clkd.context import Context
    from clkd.experience import Experience, Rows
    from clkd.models.student import Student

PENULTIMATE = "penultimate"


class Herding(ClassBalanced):
    """Keeps `size` rows, split evenly over the classes seen: the first of each class in the order of herding.

    Rebuffi et al. 2017, "iCaRL: Incremental Classifier and Representation Learning", algorithms 4 and 5. At the end of
    an experience, the student tells the penultimate features of its rows, un-augmented, each scaled to length 1 unless
    told not to `normalize` them; rows are picked one by one, such that the mean of those picked comes closest to the
    mean of the class. The order is kept, so that making room keeps the best prefix. The class mean is not scaled to
    length 1 again, as in the authors' code.

    Of a class that comes in several experiences, each part is ordered by itself, in the features of its time, and the
    prefixes share the class's rows. Unlabelled rows are not kept.
    """

    def __init__(
        self,
        size: int | str = 500,
        seed: int = 0,
        device: torch.device | str = "cpu",
        context: Context | None = None,
        each: int | None = None,
        store: Collection[str] = (),
        class_names: tuple[str, ...] = (),
        student: Student | None = None,
        normalize: bool = True,
    ) -> None:
        super().__init__(size, seed, device, context, each, store, class_names, student)
        self.normalize = normalize

    def keys(self, experience: Experience, student: Student) -> Tensor:
        """Each row's place in the order of its class; infinite for those that there is no room for anyway."""
        rows = experience.train
        y = rows.y.cpu()
        keys = torch.full((len(rows),), torch.inf, dtype=torch.float64)
        for c in experience.classes:
            at = (y == c).nonzero().squeeze(1)
            if len(at):
                features = self._features(rows, at, student)
                order = herded(features, min(len(at), self.size), self.normalize).cpu()
                keys[at[order]] = torch.arange(len(order), dtype=torch.float64)
        return keys

    @torch.no_grad()
    def _features(self, rows: Rows, at: Tensor, student: Student) -> Tensor:
        """`[n, D]` of one class's rows: so many rows at a time, and one class at a time."""
        training = student.training
        student.eval()
        needs, found = Needs(logits=False, features=(PENULTIMATE,)), []
        for some in torch.split(at, PIECE):
            batch = rows.gather(some.to(rows.y.device), self.table.device)
            found.append(student.signals(self.plain(batch.x), needs, batch.domain).features[PENULTIMATE])
        student.train(training)
        return torch.cat(found)


def herded(features: Tensor, n: int, normalize: bool = True) -> Tensor:
    """`[n]` int64: rows of `features` `[N, D]` in the order of herding, scaled to length 1 if they are to be.

    After k - 1 picks with sum s, `‖mean - (s + φ) / k‖` is smallest where `⟨k · mean - s, φ⟩ - ‖φ‖² / 2` is largest.

    >>> herded(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), 3)
    tensor([2, 0, 1])
    """
    rows = F.normalize(features.double(), dim=1) if normalize else features.double()
    mean, half = rows.mean(0), rows.square().sum(1) / 2
    owed, order = mean.clone(), []
    for _ in range(n):
        best = (rows @ owed - half).argmax().view(1)
        half = half.index_fill(0, best, torch.inf)  # never again
        owed = owed + mean - rows.index_select(0, best).squeeze(0)
        order.append(best)
    return torch.cat(order)
