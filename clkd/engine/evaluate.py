"""Evaluation: class-incremental and task-incremental accuracy of many experiences from the same logits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clkd.data.augment import Augment
from clkd.engine.batches import batches
from clkd.experience import Experience, Rows
from clkd.models.precision import casts_kept
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
    shared = Counter(_data(getattr(experience, split)) for experience in experiences)
    hits, sizes = [], []
    with casts_kept():
        for experience in experiences:
            rows: Rows = getattr(experience, split)
            key = (id(rows.index), rows.warp, experience.classes)
            if key not in known and len(rows):
                own, fresh = rows.ready(device), _fresh(rows, counted) if shared[_data(rows)] > 1 else None
                known[key] = _hits(
                    student, own, experience, augment, batch_size, confusion, ranks, look, task_labels, fresh
                )
            hits.append(known.get(key, confusion.new_zeros(2)))
            sizes.append(len(rows) or math.nan)
    shares = (ranks.sum(torch.stack(hits)).double().T / torch.tensor(sizes, dtype=torch.double, device=device)).tolist()
    return Evaluation(shares[0], shares[1], ranks.sum(confusion).view(classes, classes).cpu())


def _data(rows: Rows) -> tuple[object, ...]:
    """What two selections have in common if they share a row. (What is kept of one lies among freed tensors as large as
    its rows, and leaves no room for the next ones: so nothing is kept of those that share none.)"""
    return rows.x.data_ptr(), rows.warp


def _fresh(rows: Rows, counted: dict[tuple[object, ...], Tensor]) -> Tensor | None:
    """`[n]` bool, the rows that are not among those `counted` (`[N]` bool by data and look), to which they are added;
    None where all are."""
    none = torch.zeros(len(rows.x), dtype=torch.bool, device=rows.index.device)
    seen = counted.setdefault(_data(rows), none)
    fresh = ~seen[rows.index]
    seen[rows.index] = True
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
    classes, columns = round(len(confusion) ** 0.5), student.class_ids_tensor
    alone = set(student.class_ids) <= set(experience.classes)
    others = None if alone else ~student.columns_of(experience.classes)
    order = ranks.own(torch.arange(len(rows)))
    answers, aware = [columns[:0]], [columns[:0]]
    with closing(batches(rows, order, batch_size, confusion.device)) as coming:
        for batch in coming:
            look()
            logits = student.signals(augment.plain(batch.x), Needs(), batch.domain).logits
            assert logits is not None, "logits were asked for"
            answers.append(logits.argmax(1))
            aware.append(answers[-1] if others is None else logits.masked_fill(others, -torch.inf).argmax(1))
    answer, told = (columns[torch.cat(each)] for each in (answers, aware))
    y = rows.y[order.to(rows.y.device)].to(columns.device)
    pairs = y * classes + (told if task_labels else answer)
    counts = pairs if fresh is None else pairs[fresh[order.to(fresh.device)].to(pairs.device)]
    # Those of a class that no row was trained on, in data that extended the stream, have no number: nobody's.
    confusion += torch.bincount((counts + 1).clamp(min=0), minlength=len(confusion) + 1)[1:]
    return torch.stack([(answer == y).sum(), (told == y).sum()])


def known_experiences(student: Student, experiences: Sequence[Experience]) -> list[Experience]:
    """Those with a class that the head has a column for: on any other, accuracy is 0 without looking."""
    columns = set(student.class_ids)
    return [experience for experience in experiences if columns & set(experience.classes)]
