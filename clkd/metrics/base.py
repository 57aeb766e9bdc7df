"""The base of every metric, and the record that all of them are computed from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

SQUARES = ("class_incremental", "task_aware")


@dataclass(slots=True)
class Record:
    """Everything that evaluation found so far. Fractions of 1, NaN where nothing was evaluated.

    Attributes:
        experiences: T, how many the stream has.
        class_incremental: T rows of T: accuracy on experience j (columns) after training on i (rows), all seen
            classes competing. Includes `R[i-1, i]`, the next experience before it is trained.
        task_aware: the same with only the classes of the row's own experience competing.
        baseline: T: accuracy on each experience before any training.
        confusion: `[C][C]` counts (true class by predicted class) of the latest evaluation over all seen experiences,
            those classes competing that do in `matrix`.
        task_labels: whether the stream tells the task at test time, so that `task_aware` is the matrix that counts.
    """

    experiences: int
    class_incremental: list[list[float]] = field(default_factory=list)
    task_aware: list[list[float]] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)
    task_labels: bool = False
    trained: int = 0
    """How many experiences have been trained and evaluated: rows `0 … trained-1` are filled."""
    validation: list[list[float]] = field(default_factory=list)
    """One row after each experience: accuracy on the validation rows of each so far, as the matrix that counts."""
    anytime: list[list[float]] = field(default_factory=list)
    """Evaluations during training: experience, steps of the run so far, and the average accuracy on all up to it."""

    @classmethod
    def empty(cls, experiences: int, task_labels: bool = False) -> Record:
        """A record with nothing evaluated yet."""

        def square() -> list[list[float]]:
            return [[math.nan] * experiences for _ in range(experiences)]

        return cls(experiences, square(), square(), [math.nan] * experiences, [], task_labels)

    @property
    def matrix(self) -> list[list[float]]:
        """The matrix that counts in this stream."""
        return self.task_aware if self.task_labels else self.class_incremental

    @property
    def validated_forgetting(self) -> float:
        """How far validation accuracy on earlier experiences is below its best; 0 where there is nothing to tell by.

        >>> Record(3, validation=[[0.9], [0.5, 0.75], [0.7, 0.25, 1.0]]).validated_forgetting
        0.35
        """
        if not self.validation:
            return 0.0
        *earlier, last = self.validation
        best = [max((row[j] for row in earlier if j < len(row)), default=math.nan) for j in range(len(last) - 1)]
        drops = [
            max(before - now, 0.0) for before, now in zip(best, last, strict=False) if before - now == before - now
        ]
        return sum(drops) / len(drops) if drops else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Only the rows that are filled: a checkpoint of a long stream would be large, and nearly all of it NaN."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return plain | {name: _filled(plain[name][: self.trained]) for name in SQUARES}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Record:
        """The record that `state_dict` gave."""
        count = state["experiences"]
        rows = {name: [[*row, *[math.nan] * (count - len(row))] for row in state[name]] for name in SQUARES}
        rows = {
            name: filled + [[math.nan] * count for _ in range(count - len(filled))] for name, filled in rows.items()
        }
        return cls(**state | rows)


def _filled(rows: list[list[float]]) -> list[list[float]]:
    """Each row up to its last number."""
    return [row[: max((j + 1 for j, value in enumerate(row) if value == value), default=0)] for row in rows]


class Metric:
    """One number from the record. Its docstring states the definition and the source."""

    def __call__(self, record: Record) -> float:
        raise NotImplementedError
