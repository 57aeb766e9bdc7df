"""Losses with a margin between a row's own class and others."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clkd.errors import UserError
from clkd.losses.base import Loss, among, logits_of, take
from clkd.losses.classification import IGNORE, CrossEntropy
from clkd.signals import Batch, Signals, Spec

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student


class NCA(CrossEntropy):
    """`[log Σ_{i≠y} exp(z_i) − (z_y − η δ)]₊` over the classes that compete, with the head's scale η and a margin δ.

    Douillard et al. 2020, "PODNet", eq. 7, where z is η times a cosine: a row's own class has to be ahead by δ. A head
    without a scale has η = 1. Unlabelled rows do not take part.

    >>> from clkd.signals import Batch
    >>> loss, i = NCA(margin=0.5), torch.zeros(1, dtype=torch.long)
    >>> loss.bind(Spec(class_ids=(7, 3), born=(0, 0)), None)
    >>> batch = Batch(x=i, y=torch.tensor([3]), sample_id=i, domain=i, experience=i, new=1)
    >>> loss(batch, Signals(torch.tensor([[0.25, 0.5]]), torch.tensor([7, 3]))).tolist()
    [0.25]
    """

    reads_mixed: ClassVar[bool] = False
    by_task: ClassVar[bool] = False

    def __init__(self, margin: float = 0.6, over: Literal["auto", "all", "seen", "new"] = "auto") -> None:
        super().__init__(over)
        self.margin = margin
        self._head: tuple[nn.Module, ...] = ()  # a tuple, for a submodule would be saved and moved

    @property
    def needs_boundaries(self) -> bool:
        """`begin` only takes the head."""
        return self.over == "new"

    def bind(self, a: Spec, b: Spec | None) -> None:
        """Raises `UserError` where a single class is left, which nothing competes with."""
        super().bind(a, b)
        if len(self.columns) < 2:
            raise UserError("nca: a single class is left, and nothing that it could be ahead of: use cross_entropy")

    def begin(self, experience: Experience, student: Student) -> None:
        super().begin(experience, student)
        self._head = (student.head,)

    def formula(self, sides: str) -> str:
        return f"NCA({self.chosen}{sides.removeprefix('student')})"

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        logits, target = take(logits_of(a), self.columns, self.prefix), self.target[batch.y]
        at = target.clamp(min=0)[:, None]
        own = logits.gather(1, at).squeeze(1)
        others = logits.scatter(1, at, -torch.inf).logsumexp(1)
        return among(F.relu(others - own + scale_of(self._head) * self.margin), target != IGNORE)


class MarginRanking(Loss):
    """Mean over the `top` new classes nearest to a row of an old class: `[m − cos_y + cos_k]₊`; 0 for other rows.

    Hou et al. 2019 (LUCIR), §3.4, eq. 8: keeps old classes apart from new ones; the cosines are the logits divided by
    the head's scale. Needs replayed rows, and a second experience.

    >>> from clkd.signals import Batch
    >>> loss, i = MarginRanking(top=1), torch.zeros(1, dtype=torch.long)
    >>> loss.bind(Spec(class_ids=(7, 3, 4), born=(0, 1, 1)), None)
    >>> batch = Batch(x=i, y=torch.tensor([7]), sample_id=i, domain=i, experience=i, new=1)
    >>> loss(batch, Signals(torch.tensor([[0.5, 0.25, -1.0]]), torch.tensor([7, 3, 4]))).tolist()
    [0.25]
    """

    sides: ClassVar[int] = 1
    contract_optouts: ClassVar[dict[str, str]] = {
        "two_classes": "where all classes came at once there are no old ones to keep apart, as in the first experience"
    }
    own: Tensor
    """`[ids + 1]` the column of each class that is old; the last entry answers for -1."""
    new: Tensor
    """`[K]` the columns of the newest classes."""

    def __init__(self, margin: float = 0.5, top: int = 2) -> None:
        super().__init__()
        self.margin, self.top = margin, top
        self._head: tuple[nn.Module, ...] = ()

    def bind(self, a: Spec, b: Spec | None) -> None:
        latest = max(a.born)
        old = {c: i for i, (c, born) in enumerate(zip(a.class_ids, a.born, strict=True)) if 0 <= born < latest}
        own = torch.full((max(a.class_ids) + 2,), IGNORE)
        for c, column in old.items():
            own[c] = column
        new = [i for i, born in enumerate(a.born) if born == latest]
        self.register_buffer("own", own, persistent=False)
        self.register_buffer("new", torch.tensor(new, dtype=torch.long), persistent=False)

    def begin(self, experience: Experience, student: Student) -> None:
        """Raises `UserError` for a head that has no scale, whose logits are no cosines."""
        if not hasattr(student.head, "scale"):
            raise UserError("margin_ranking: compares cosines: use the head cosine or split_cosine")
        self._head = (student.head,)

    def takes(self, batch: Batch) -> Tensor:
        return self.own[batch.y] != IGNORE

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        cosines, own = logits_of(a) / scale_of(self._head), self.own[batch.y]
        nearest = cosines.index_select(1, self.new).topk(min(self.top, len(self.new)), 1).values
        ahead = cosines.gather(1, own.clamp(min=0)[:, None])
        return among(F.relu(self.margin - ahead + nearest).mean(1), self.takes(batch))


class LogitMargin(Loss):
    """`[m + max_{k ∈ rivals} z_k − max_{k ∈ own} z_k]₊`; own are the classes that came with the row's class.

    Boschini et al. 2022 (X-DER), the constraints on past and future logits: labels of new classes that compete among
    themselves say nothing of the others. Rivals are the classes to come, which have a column in a `fixed` head, and for
    rows of the newest classes also those of the past. Rows that have no rivals do not take part; the mean is over the
    others. In the authors' code it is over those that violate their constraint, and past ones are compared as
    probabilities, of which the past's has no gradient.

    >>> from clkd.signals import Batch
    >>> loss, i = LogitMargin(margin=0.5), torch.zeros(1, dtype=torch.long)
    >>> loss.bind(Spec(class_ids=(7, 3, 4), born=(0, 1, -1)), None)
    >>> batch = Batch(x=i, y=torch.tensor([7]), sample_id=i, domain=i, experience=i, new=1)
    >>> loss(batch, Signals(torch.tensor([[0.5, 9.0, 0.25]]), torch.tensor([7, 3, 4]))).tolist()
    [0.25]
    """

    sides: ClassVar[int] = 1
    needs_boundaries = True
    """Past, present and future are told apart by them."""
    born: Tensor
    """`[ids + 1]` when each class came; the last entry answers for -1. -1 for a class that has no rivals."""
    column_born: Tensor
    """`[C]` when the class of each column came, -1 for those to come."""

    def __init__(self, margin: float = 0.3) -> None:
        super().__init__()
        self.margin = margin

    def bind(self, a: Spec, b: Spec | None) -> None:
        """Raises `UserError` where all classes came at once."""
        self.latest = max(a.born)
        future, past = min(a.born) < 0, any(0 <= born < self.latest for born in a.born)
        if not future and not past:
            raise UserError("logit_margin: there is no class of the past, and no column for one to come (head fixed)")
        born = torch.full((max(a.class_ids) + 2,), -1)
        for c, came in zip(a.class_ids, a.born, strict=True):
            born[c] = came if future or came == self.latest else -1
        self.register_buffer("born", born, persistent=False)
        self.register_buffer("column_born", torch.tensor(a.born), persistent=False)

    def takes(self, batch: Batch) -> Tensor:
        return self.born[batch.y] >= 0

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        logits, came = logits_of(a), self.born[batch.y][:, None]
        own = self.column_born == came.clamp(min=0)
        rivals = ~own & ((self.column_born < 0) | (came == self.latest))
        apart = _largest(logits, rivals) - _largest(logits, own)
        return among(F.relu(self.margin + apart), self.takes(batch))


def _largest(logits: Tensor, part: Tensor) -> Tensor:
    """`[B]` the largest logit of a part of the columns (`[B, C]` bool)."""
    return logits.masked_fill(~part, torch.finfo(logits.dtype).min).amax(1)


def scale_of(head: tuple[nn.Module, ...]) -> Tensor | float:
    """The learned scale of a head that has one."""
    return getattr(head[0], "scale", 1.0) if head else 1.0
