"""Evaluation: class-incremental and task-incremental accuracy of many experiences from the same logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clkd.data.augment import Augment
from clkd.engine.batches import batches, cut
from clkd.experience import Experience, Rows
from clkd.models.student import Student
from clkd.ranks import ALONE, Ranks
from clkd.signals import Needs


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one pass over the test rows of some experiences found.

    Attributes:
        accuracy: per experience, all columns of the head competing; NaN where there are no rows to tell by.
        task_aware: per experience, only the classes of that experience competing.
        confusion: `[C, C]` int64 counts over all rows, each once: true class by predicted class, all columns competing
            or, with task labels, the classes of the row's experience.
    """

    accuracy: list[float]
    task_aware: list[float]
    confusion: Tensor


@torch.no_grad()
def evaluate(
    student: Student,
    experiences: Sequence[Experience],
    augment: Augment,
    batch_size: int,
    classes: int,
    split: Literal["test", "validation"] = "test",
    ranks: Ranks = ALONE,
    look: Callable[[], None] = lambda: None,
    task_labels: bool = False,
) -> Evaluation:
    """Evaluate the student on the test (or validation) rows of `experiences`, each row once, without any augmentation.

    `look` is called before each batch and may stop the run. Each rank passes its share of the rows, and all get the
    counts of all.

    Rows that several experiences share (data-incremental streams test on the same rows throughout) are passed once;
    where experiences share a part of them (classes that come again), `confusion` counts each row once.
    """
    student.eval()
    device = next(student.parameters()).device
    classes = max(classes, *(c + 1 for c in student.class_ids))  # a head may have columns for classes to come
    confusion = torch.zeros(classes * classes, dtype=torch.long, device=device)
    known: dict[tuple[object, ...], Tensor] = {}
    counted: dict[tuple[object, ...], Tensor] = {}
    hits, sizes = [], []
    for experience in experiences:
        rows: Rows = getattr(experience, split)
        key = (id(rows.index), rows.warp, experience.classes)
        if key not in known and len(rows):
            fresh = _fresh(rows, counted)
            known[key] = _hits(
                student, rows.ready(device), experience, augment, batch_size, confusion, ranks, look, task_labels, fresh
            )
        hits.append(known.get(key, confusion.new_zeros(2)))
        sizes.append(len(rows) or math.nan)
    shares = (ranks.sum(torch.stack(hits)).double().T / torch.tensor(sizes, dtype=torch.double, device=device)).tolist()
    return Evaluation(shares[0], shares[1], ranks.sum(confusion).view(classes, classes).cpu())


def _fresh(rows: Rows, counted: dict[tuple[object, ...], Tensor]) -> Tensor | None:
    """`[n]` bool, the rows that are not among those `counted`, to which they are added; None where all are."""
    key = (rows.x.data_ptr(), rows.warp)
    before = counted.get(key)
    counted[key] = rows.index if before is None else torch.cat([before, rows.index])
    if before is None:
        return None
    fresh = ~torch.isin(rows.index, before)
    return None if bool(fresh.all()) else fresh


def _hits(
    student: Student,
    rows: Rows,
    experience: Experience,
    augment: Augment,
    batch_size: int,
    confusion: Tensor,
    ranks: Ranks,
    look: Callable[[], None],
    task_labels: bool,
    fresh: Tensor | None = None,
) -> Tensor:
    """`[2]` counts of right answers, class-incremental and task-aware; adds to the flat `confusion` in place, the rows
    that are `fresh` where that is said (`[n]` bool)."""
    classes = round(len(confusion) ** 0.5)
    columns = student.class_ids_tensor
    own = None if set(student.class_ids) <= set(experience.classes) else student.columns_of(experience.classes)
    right = torch.zeros(2, dtype=torch.long, device=confusion.device)
    order = ranks.own(torch.arange(len(rows)))
    with closing(batches(rows, order, batch_size, confusion.device)) as coming:
        for batch, at in zip(coming, cut(order, batch_size), strict=True):
            look()
            logits = student.signals(augment.plain(batch.x), Needs(), batch.domain).logits
            assert logits is not None, "logits were asked for"
            answer = columns[logits.argmax(1)]
            aware = answer if own is None else columns[logits.masked_fill(~own, -torch.inf).argmax(1)]
            right += torch.stack([(answer == batch.y).sum(), (aware == batch.y).sum()])
            pairs = batch.y * classes + (aware if task_labels else answer)
            counts = pairs if fresh is None else pairs[fresh[at.to(fresh.device)].to(pairs.device)]
            # Those of a class that no row was trained on, in data that extended the stream, have no number: nobody's.
            confusion += torch.bincount((counts + 1).clamp(min=0), minlength=len(confusion) + 1)[1:]
    return right


def known_experiences(student: Student, experiences: Sequence[Experience]) -> list[Experience]:
    """Those with a class that the head has a column for: on any other, accuracy is 0 without looking."""
    columns = set(student.class_ids)
    return [experience for experience in experiences if columns & set(experience.classes)]
