"""Fusion at an experience's end: one student out of the trained one and its past selves, by their weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import EllipsisType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from clkd.errors import did_you_mean
from clkd.signals import Needs
from clkd.transfer.base import Seen, Transfer
from clkd.transfer.batch_norm import renew
from clkd.transfer.options import Renewal

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student

Weights = dict[str, Tensor]
PENULTIMATE = "penultimate"


class Interpolate(Transfer):
    """`θ ← (1 − λ) · θ + λ · θ_previous`, λ the share `previous`, at the end of every experience but the first.

    θ_previous is the student as the experience began. Columns of new classes stay as they were trained: the previous
    self did not have them. Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT), eq. 1, for a
    stream; between one weight and another there may be a hill of the loss, so look at validation rows.
    """

    source_free: ClassVar[bool] = True

    def __init__(
        self,
        previous: float | Mapping[str, float] | Literal["validation"] = 0.5,
        grid: Sequence[float] = (0.0, 0.25, 0.5, 0.75),
        reestimate: Renewal = True,
        experiences: Sequence[Experience] = (),
        task_labels: bool = False,
    ) -> None:
        super().__init__()
        self.previous, self.grid, self.reestimate = previous, tuple(grid), reestimate
        self.tasks = tuple(experience.classes for experience in experiences) if task_labels else None
        """The classes that compete in each experience, where tests tell which one a row is of."""
        self._before: Weights = {}
        self.chosen: float | None = None
        """What was chosen on validation rows, in the last experience."""

    def begin(self, experience: Experience, student: Student) -> None:
        self._before = weights(student) if experience.index else {}

    def review(self, seen: Seen, experience: Experience, student: Student) -> None:
        if not self._before:
            return
        after = weights(student)
        if self.previous != "validation":
            self._fuse(student, after, self.previous, seen, experience)
            return
        scores = []
        for share in self.grid:
            self._fuse(student, after, share, seen, experience)
            with concluded(student, seen, experience):
                scores.append(accuracy(student, seen, self.tasks))
        self.chosen = self.grid[scores.index(max(scores))]
        self._fuse(student, after, self.chosen, seen, experience)

    def _fuse(
        self,
        student: Student,
        after: Weights,
        share: float | Mapping[str, float],
        seen: Seen,
        experience: Experience,
    ) -> None:
        new = [born == experience.index for born in student.born]
        corrections = {each.data_ptr() for each in student.head.corrections()}
        for name, tensor in fusible(student).items():
            own = share_of(name, share)
            before, fused = self._before.get(name), after[name].clone()
            if before is not None and tensor.is_floating_point() and (rows := common(name, before, tensor)):
                fused[rows] = torch.lerp(after[name][rows], before[rows], own)
            if len(new) and name.startswith("head.") and tensor.dim() and len(tensor) == len(new):
                fused[new] = after[name][new]
            elif any(new) and tensor.data_ptr() in corrections:  # the latest is the new classes' own
                fused[-1] = after[name][-1]
            tensor.copy_(fused)
        renew(student, self.reestimate, seen, experience)


class Average(Transfer):
    """The mean of the weights that training left at the ends of the `last` experiences, this one among them.

    A column of the head is the mean over those selves that had learned its class, and stays where none has (in a fixed
    head). Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization" (SWA), along a
    stream. What training goes on from is the mean.
    """

    source_free: ClassVar[bool] = True

    def __init__(self, last: int = 3, reestimate: Renewal = True) -> None:
        super().__init__()
        self.last, self.reestimate = last, reestimate
        self.selves: list[tuple[list[int], list[int], Weights]] = []
        """Classes of the head's columns, when each came (-1: not yet), and weights of past selves: the oldest first."""

    def review(self, seen: Seen, experience: Experience, student: Student) -> None:
        self.selves = [*self.selves, (list(student.class_ids), list(student.born), weights(student))][-self.last :]
        if len(self.selves) == 1:
            return
        place = {c: row for row, c in enumerate(student.class_ids)}
        for name, tensor in fusible(student).items():
            if not tensor.is_floating_point():
                continue
            total, count = torch.zeros_like(tensor), torch.zeros_like(tensor)
            for classes, born, each in self.selves:
                by_class = name.startswith("head.") and tensor.dim() and len(each[name]) == len(classes)
                rows = common(name, each[name], tensor)
                if not by_class and rows is None:
                    continue
                learned = [row for row, came in enumerate(born) if came >= 0]
                theirs: Any
                ours: Any
                theirs, ours = (learned, [place[classes[row]] for row in learned]) if by_class else (rows, rows)
                total[ours] += each[name].to(tensor)[theirs]
                count[ours] += 1
            tensor.copy_(torch.where(count > 0, total / count.clamp(min=1), tensor))
        renew(student, self.reestimate, seen, experience)

    def get_extra_state(self) -> dict[str, Any]:
        return {"selves": [{"classes": c, "born": born, "weights": each} for c, born, each in self.selves]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.selves = [(list(each["classes"]), list(each["born"]), dict(each["weights"])) for each in state["selves"]]


def weights(student: Student) -> Weights:
    """Copies of all parameters and buffers that are saved."""
    return {name: tensor.detach().clone() for name, tensor in student.state_dict().items()}


def fusible(student: Student) -> Weights:
    """What is fused of a student, and not what its head gathered of rows: class means of before are no second opinion,
    and statistics that go on being gathered would count rows that they have lost."""
    gathered = {f"head.{name}" for name, _ in student.head.named_buffers()}
    return {name: tensor for name, tensor in student.state_dict().items() if name not in gathered}


def common(name: str, before: Tensor, now: Tensor) -> slice | EllipsisType | None:
    """The part of a tensor that an earlier self had: all of it, or the first rows, where domains have been added to a
    layer's statistics since; None if it was another one."""
    if before.shape == now.shape:
        return ...
    grown = now.dim() > 0 and before.dim() == now.dim() and before.shape[1:] == now.shape[1:] and len(before) < len(now)
    return slice(len(before)) if grown and not name.startswith("head.") else None


def share_of(name: str, share: float | Mapping[str, float]) -> float:
    """One layer's share: that of the longest path that its name begins with, else 0.

    >>> [share_of(name, {"backbone": 0.5, "backbone.stem": 0.9}) for name in ("backbone.stem.0.weight", "head.bias")]
    [0.9, 0.0]
    """
    if not isinstance(share, Mapping):
        return share
    fitting = [path for path in share if name == path or name.startswith(f"{path}.")]
    return share[max(fitting, key=len)] if fitting else 0.0


def misnamed(student: Student, share: float | Mapping[str, float] | str) -> str | None:
    """What is wrong with the first path of `share` that nothing of the student begins with; None if all are right."""
    if not isinstance(share, Mapping):
        return None
    parts = [name.split(".") for name, tensor in fusible(student).items() if tensor.is_floating_point()]
    known = {".".join(each[:depth]) for each in parts for depth in range(1, len(each) + 1)}
    for path in (path for path in share if path not in known):
        close = did_you_mean(path, known)
        if not close.startswith("did you mean"):  # a list of every weight would be no help
            close = did_you_mean(path, [each for each in known if each.count(".") < 2])
        return f"no weight of the student begins with '{path}': {close}"
    return None


@contextmanager
def concluded(student: Student, seen: Seen, experience: Experience) -> Iterator[None]:
    """With a head such as the experience's end will make of this student's; afterwards with its own as it was.

    One that answers by class means takes them anew, of rows that are still at hand: memory has not chosen yet which of
    the experience's it keeps.
    """
    student.eval()
    head, student.head = student.head, copy.deepcopy(student.head)
    try:
        student.head.end(experience, partial(_said, student, seen, experience))
        yield
    finally:
        student.head = head


@torch.no_grad()
def _said(
    student: Student, seen: Seen, experience: Experience, which: Literal["new", "past", "kept"]
) -> Iterator[tuple[Tensor, Tensor]]:
    """As `clkd.models.heads.Said` describes them; the experience's rows are all as good as kept."""
    kinds: dict[str, tuple[Literal["new", "kept"], ...]] = {"new": ("new",), "past": ("kept",), "kept": ("kept", "new")}
    for kind in kinds[which]:
        for batch in seen(kind):
            own = (batch.y >= 0) & ((batch.experience < experience.index) | (kind == "new"))
            features = student.signals(batch.x, Needs(logits=False, features=(PENULTIMATE,)), batch.domain).features
            yield features[PENULTIMATE][own].to(student.head.weight.dtype), batch.y[own]


@torch.no_grad()
def accuracy(student: Student, seen: Seen, tasks: Sequence[tuple[int, ...]] | None = None) -> float:
    """The mean over experiences of the share of validation rows that are answered right; of `tasks`, among their own
    classes, which is the accuracy that counts there."""
    student.eval()
    columns = student.class_ids_tensor
    right: dict[int, list[int]] = {}
    for batch in seen("validation"):
        logits = student.signals(batch.x, Needs(), batch.domain).logits
        assert logits is not None, "logits were asked for"
        experience = int(batch.experience[0])
        if tasks is not None:
            logits = logits.masked_fill(~student.columns_of(tasks[experience]), -torch.inf)
        hits = columns[logits.argmax(1)] == batch.y
        told = right.setdefault(experience, [0, 0])
        told[0] += int(hits.sum())
        told[1] += len(batch)
    return sum(hits / rows for hits, rows in right.values()) / max(len(right), 1)
