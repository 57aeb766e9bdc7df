"""The laws of metrics."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import torch

from clkd.metrics.base import SQUARES, Metric, Record

Make = Callable[[], Metric]
MATRIX = ((0.9, 0.1, 0.0), (0.6, 0.8, 0.2), (0.5, 0.7, 0.95))
"""Accuracy on experience j (columns) after training on i (rows)."""


def number(make: Make) -> None:
    """Of every record, from before the first experience to the last, it gives a plain float, or NaN."""
    for record in _records():
        value = make()(record)
        assert type(value) is float, f"a {type(value).__name__} after {record.trained} experiences, not a float"


def finite(make: Make) -> None:
    """Once all experiences are trained and evaluated, it is a finite number."""
    for record in _records():
        if record.trained == record.experiences:
            value = make()(record)
            assert math.isfinite(value), f"{value} of a whole stream"


def untouched(make: Make) -> None:
    """It does not change the record."""
    for record in _records():
        before = copy.deepcopy(record)
        make()(record)
        assert repr(record) == repr(before), "the record has other values afterwards"


def repeatable(make: Make) -> None:
    """The record alone decides it: asked twice, or after other records, it says the same."""
    metric = make()
    first = [metric(record) for record in _records()]
    again = [metric(record) for record in _records()]
    fresh = [make()(record) for record in _records()]
    assert _same(first, again), "asked again, it says something else"
    assert _same(first, fresh), "a fresh one says something else"


def present(make: Make) -> None:
    """It reads nothing of experiences that are not over: what stands in later rows does not count."""
    for record in _records():
        later = copy.deepcopy(record)
        for rows in (getattr(later, name) for name in SQUARES):
            for row in rows[record.trained :]:
                row[:] = [0.123] * len(row)
        later.anytime += [[record.trained, 99, 0.123]]
        assert _same([make()(record)], [make()(later)]), f"rows after experience {record.trained} count"


def restored(make: Make) -> None:
    """From a record that went through a checkpoint, it says the same."""
    for record in _records():
        again = Record.from_state(copy.deepcopy(record.state_dict()))
        assert _same([make()(record)], [make()(again)]), "it says something else after a resume"


def counted(make: Make) -> None:
    """Where the stream tells the task, it looks at the matrix with the task told, and at no other."""
    for record in _records():
        told, other = copy.deepcopy(record), copy.deepcopy(record)
        told.task_labels = other.task_labels = True
        other.class_incremental = [[0.5 * value for value in row] for row in other.class_incremental]
        assert _same([make()(told)], [make()(other)]), "it reads the matrix that does not count"


METRIC_LAWS: dict[str, Callable[[Make], None]] = {
    law.__name__: law for law in (number, finite, untouched, repeatable, present, restored, counted)
}


def _records() -> Iterator[Record]:
    """The known matrix, and a random one, after each experience."""
    draws = torch.rand(3, 3, generator=torch.Generator().manual_seed(3)).tolist()
    for matrix in (MATRIX, draws):
        for trained in range(len(matrix) + 1):
            yield _record(matrix, trained)


def _record(matrix: tuple[tuple[float, ...], ...] | list[list[float]], trained: int) -> Record:
    count = len(matrix)
    record = Record.empty(count)
    record.trained, record.baseline = trained, [0.05, 0.1, 0.15]
    for i in range(trained):
        reached = min(i + 2, count)
        record.class_incremental[i][:reached] = matrix[i][:reached]
        record.task_aware[i][:reached] = [min(1.0, value + 0.04) for value in matrix[i][:reached]]
        record.validation.append([value - 0.02 for value in matrix[i][: i + 1]])
        record.anytime += [[i, 10 * i + 5, matrix[i][0]], [i, 10 * i + 10, matrix[i][i]]]
    classes = 2 * trained
    record.confusion = [[5 if i == j else 1 for j in range(classes)] for i in range(classes)]
    return record


def _same(a: list[float], b: list[float]) -> bool:
    return all(x == y or (math.isnan(x) and math.isnan(y)) for x, y in zip(a, b, strict=True))
