"""The base of every metric, and the record that all of them are computed from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Record:
    """Everything that evaluation found so far. Fractions of 1, NaN where nothing was evaluated.

    Attributes:
        experiences: T, how many the stream has.
        class_incremental: T rows of T: accuracy on experience j (columns) after training on i (rows), all seen
            classes competing. Includes `R[i-1, i]`, the next experience before it is trained.
        task_aware: the same with only the classes of the row's own experience competing.
        baseline: T: accuracy on each experience before any training.
        confusion: `[C][C]` counts (true class by predicted class) of the latest evaluation over all seen experiences.
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

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Record:
        """The record that `state_dict` gave."""
        return cls(**state)


class Metric:
    """One number from the record. Its docstring states the definition and the source."""

    def __call__(self, record: Record) -> float:
        raise NotImplementedError
