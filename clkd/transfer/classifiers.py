"""Maximum classifier discrepancy: a second classifier, and rows on which both must agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clkd.perceptron import perceptron
from clkd.reversal import reverse
from clkd.seeding import generator
from clkd.signals import Batch, Needs, Signals, confined
from clkd.transfer.base import Transfer
from clkd.transfer.domains import Target, apart, read

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student

FEATURES = "penultimate"


class MCD(Transfer):
    """`CE(F₂(f), y) − mean |p₁(f_t) − p₂(f_t)|`, with f's gradient from the second term reversed, times `reversal`.

    Saito et al. 2018, "Maximum Classifier Discrepancy for Unsupervised Domain Adaptation", eq. 1 and 9. The student's
    head F₁ and a second one F₂, which is the strategy's own, learn the labels and to disagree about the target's rows;
    features learn to leave them no room. The paper takes three steps in turn; here all is one backward pass with
    gradient reversal. The mean is over rows and the classes that compete for them, the
    cross-entropy over all rows that have a label. F₂ starts afresh when classes come. The value may be negative.
    """

    needs_boundaries = False

    def __init__(
        self, hidden: Sequence[int] = (64,), reversal: float = 1.0, target: Target = "new", seed: int = 0
    ) -> None:
        super().__init__()
        self.hidden, self.reversal, self.target, self.seed = tuple(hidden), reversal, target, seed
        self.second: nn.Module | None = None
        self.widths: tuple[int, ...] = ()
        self._first: list[nn.Module] = []  # in a list: it is the student's
        self.class_ids: Tensor = torch.empty(0)

    def reads(self) -> Needs:
        return Needs(logits=False, features=(FEATURES,))

    def begin(self, experience: Experience, student: Student) -> None:
        self.make((student.head.weight.shape[-1], len(student.class_ids)))
        self._first = [student.head]
        highest = max(student.class_ids)
        column = torch.full((highest + 2,), -1)  # the last one for rows without a label
        column[list(student.class_ids)] = torch.arange(len(student.class_ids))
        self.class_ids = column.to(student.class_ids_tensor.device)

    def make(self, widths: tuple[int, ...]) -> None:
        """A fresh classifier of so many features and classes, unless the one there is fits."""
        if widths != self.widths:
            self.widths = widths
            draws = generator(self.seed, "second classifier", *widths)
            self.second = perceptron((widths[0], *self.hidden, widths[1]), draws) if widths else None

    def forward(self, batch: Batch, a: Signals) -> Tensor | None:
        target = apart(batch, a, self.target)[1]
        f = read(target, FEATURES)
        if not len(f):
            return None
        assert self.second is not None, "whoever asks has called begin"
        column = self.class_ids[batch.y]  # -1 is the last place
        said = confined(self.second(read(a, FEATURES)), a.competes)
        rows = F.cross_entropy(said, column, ignore_index=-1, reduction="none")
        labels = rows.sum() / (column >= 0).sum().clamp(min=1)
        f = reverse(f, self.reversal)
        first, second = (confined(each(f), target.competes).softmax(1) for each in (self._first[0], self.second))
        gap = (first - second).abs()
        value: Tensor = labels - (gap.mean() if target.competes is None else gap.sum() / target.competes.sum())
        return value

    def get_extra_state(self) -> dict[str, Any]:
        """What the second classifier was made for, so that a fresh strategy can take its weights."""
        return {"widths": list(self.widths)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.make(tuple(state["widths"]))
