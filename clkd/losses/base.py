"""The base of every loss, and the alignment of classes that two-sided losses share."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from clkd.signals import Batch, Needs, Signals, Spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Set

    from clkd.experience import Experience
    from clkd.models.student import Student
    from clkd.schedules.base import Progress, Schedule


class Loss(nn.Module):
    """A term between two models' signals, or of one model alone.

    Override `forward`; override `bind` when shapes or classes matter, and `needs` when logits are not enough.
    Parameters and buffers that a loss owns are moved, optimised and saved with the student.
    """

    needs: ClassVar[Needs] = Needs()
    """What this loss reads of each side. A tap named in `between` is added to it."""
    maps_only: ClassVar[bool] = False
    """Whether it compares maps `[B, D, H, W]` and makes no sense of vectors."""
    wants_classifier: ClassVar[bool] = False
    """Whether `borrow` is called with the teacher's own last layer."""
    sides: ClassVar[int] = 2
    """How many models it compares: 1 (the student alone) or 2."""
    views: int = 1
    """In how many views it wants each row to be seen by the first side, which is trained. The one that all see is
    `a`, the others are `a.views` (perhaps more of them). Where rows are not augmented, all of them are the same."""
    reads_known: ClassVar[bool] = False
    """Whether it leaves out, row by row, the columns that `b.known` says the other side did not know. One that reads
    logits and does not is refused where a teacher has rows like that (`Teacher.partial`)."""
    regularises: ClassVar[bool] = False
    """Whether it is about the student's parameters and no row: then its gradient is added after that of all others."""
    writes_head: ClassVar[bool] = False
    """Whether it writes the student's head at an experience's `end` and trains none before. Until then, answers mean
    nothing for new classes: what chooses by them is refused, and a run that tests within experiences says so."""
    contract_optouts: ClassVar[dict[str, str]] = {}
    """Laws of `clkd.testing.contract` that do not hold for this loss, each with the reason."""
    progress: Progress | None = None
    """Where training stands; set before each `forward`, for options that follow a schedule."""

    reads_mixed: ClassVar[bool] = False
    """Whether it knows the two labels of a mixed row (`Batch.mixed`). One that `reads_labels` and does not is refused
    where rows are mixed."""

    @property
    def reads_labels(self) -> bool:
        """Whether labels decide what it says: so it is taken to be if it is about the student alone, or `takes` rows by
        their labels, unless a class says otherwise."""
        return (self.sides == 1 and not self.regularises) or type(self).takes is not Loss.takes

    @property
    def needs_boundaries(self) -> bool:
        """Whether it has to be told where experiences begin and end, so that a stream without boundaries refuses it.

        A class that overrides `begin`, `review` or `end` does, unless it says here that it does not: then `begin` and
        `end` are called as ever, and mean no more than that new classes may have come. A class attribute will do.
        """
        return False

    def reads(self, side: int) -> Needs:
        """What it reads of the first side (0) or the second (1): `needs`, unless options decide."""
        return self.needs

    def bind(self, a: Spec, b: Spec | None) -> None:
        """Called before the first batch of each experience, when both sides' classes and shapes are known.

        Tensors made here may lie on the CPU if they are registered: the loss is moved to the device afterwards.
        """

    def borrow(self, classifier: nn.Module) -> None:
        """Called after `bind` if the class `wants_classifier`: the teacher's frozen last layer.

        It turns penultimate features `[B, D]` into logits, in the order of the teacher's columns. It stays the
        teacher's: keep it out of your submodules, or it would be saved and moved with them.
        """

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        """The loss as `[B]`, one value a row, where it has one; else a scalar. Lower is better, unweighted."""
        raise NotImplementedError

    def takes(self, batch: Batch) -> Tensor | None:
        """`[B]` bool: the rows that its mean is over, where labels decide that; None for all.

        Processes that share a batch weigh their means by it. Nothing else is asked of a loss about its rows.
        """
        return None

    def now(self, option: float | Schedule, a: Signals) -> float | Tensor:
        """What an option that may follow a schedule says at this step."""
        if not callable(option):
            return option
        assert self.progress is not None, "whoever gives a loss a schedule also sets loss.progress before each step"
        return option(self.progress, a)

    def formula(self, sides: str) -> str:
        """How `clkd explain` writes it, once bound; `sides` is what it compares: `student ‖ previous, classes 0–3`."""
        return f"{type(self).__name__}({sides})"

    def begin(self, experience: Experience, student: Student) -> None:
        """Before an experience, after `bind`."""

    def foresee(self, labels: Set[int]) -> None:
        """Told, before an experience is trained, of every label that rows will have (-1: none), if that is known.

        Those are the labels of its own rows and of all that memory keeps.
        """

    def after_backward(self, student: Student) -> None:
        """For one that `regularises`, before each optimiser step: parameters have the gradient of all terms about rows.

        The step may still be left out (`train.on_nan`): what changes for good belongs into `after_step`.
        """

    def after_step(self, student: Student) -> None:
        """After each optimiser step. Parameters still have the gradient that the optimizer was given."""

    def review(self, rows: Iterator[Batch], experience: Experience, student: Student) -> None:
        """After an experience, before `end`: its training rows once more, in the order of the data.

        They are normalised and not augmented, some hundreds at a time, and are read only as far as they are asked for.
        """

    def end(self, experience: Experience, student: Student) -> None:
        """After an experience."""


def common_columns(a: Spec, b: Spec, unseen: bool = False) -> tuple[Tensor, Tensor]:
    """Where the classes that both sides know lie in each: two `[K]` index tensors, in the order of `b`.

    A column that no experience has brought yet (`born` is -1, in a fixed head) is no knowledge of its class, and is
    left out unless `unseen`.

    >>> a = Spec(class_ids=(4, 7, 9), born=(0, 0, 1))
    >>> b = Spec(class_ids=(9, 4), born=(0, 0))
    >>> [t.tolist() for t in common_columns(a, b)]
    [[2, 0], [0, 1]]
    """
    place = {c: i for i, c in enumerate(a.class_ids) if unseen or a.born[i] >= 0}
    pairs = [(place[c], j) for j, c in enumerate(b.class_ids) if c in place and (unseen or b.born[j] >= 0)]
    at_a, at_b = [i for i, _ in pairs], [j for _, j in pairs]
    return torch.tensor(at_a, dtype=torch.long), torch.tensor(at_b, dtype=torch.long)


def is_prefix(columns: Tensor) -> bool:
    """Whether these are the first columns in order, so that a slice does. Asked in `bind`, never in a step."""
    return bool(torch.equal(columns, torch.arange(len(columns))))


def take(logits: Tensor, columns: Tensor, prefix: bool) -> Tensor:
    """`[B, K]`: the columns `columns` of `logits` `[B, C]`, without a copy where they are a prefix."""
    if not prefix:
        return logits.index_select(1, columns)
    count = columns.shape[0]
    return logits if count == logits.shape[1] else logits[:, :count]


def full_precision(x: Tensor) -> Tensor:
    """Losses run in float32, whatever the models ran in; float64 stays, for those who check gradients."""
    return x if x.dtype == torch.float64 else x.float()


def logits_of(signals: Signals) -> Tensor:
    """`[B, C]` in full precision."""
    assert signals.logits is not None, "the loss's `needs` asks for logits"
    return full_precision(signals.logits)


def among(rows: Tensor, part: Tensor) -> Tensor:
    """`[B]` row losses such that their mean is the mean over the rows where `part` is True; 0 where there are none.

    >>> among(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([True, False, True])).mean()
    tensor(3.)
    """
    count = part.sum(dtype=rows.dtype).clamp(min=1)
    # A number divided by a tensor is a product with the reciprocal, and 41 · (1/41) is not 1: divide tensors, so that
    # a batch where every row counts is left alone bit for bit.
    return torch.where(part, rows, 0.0) * (torch.full_like(count, len(rows)) / count)
