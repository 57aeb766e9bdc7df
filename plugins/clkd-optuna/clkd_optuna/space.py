"""What may be chosen: the ranges of `clkd sweep`, as optuna asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clkd.scenario.settings import as_setting
from clkd.sweep.axes import DIGITS, Axis, Range, read_axes


@dataclass(frozen=True, slots=True)
class Space:
    """The places that are searched, each a range of numbers or a choice of values.

    >>> Space.read(["train.optimizer.lr=log:0.01..0.1", "train.batch_size=8..16", "memory=none,reservoir"]).places
    ('train.optimizer.lr', 'train.batch_size', 'memory')
    """

    axes: tuple[Axis, ...]

    @classmethod
    def read(cls, texts: list[str]) -> Space:
        """Raises `UserError` for one that cannot be read, or a place that is given twice."""
        return cls(tuple(read_axes(texts)))

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(axis.place for axis in self.axes)

    def ask(self, trial: Any) -> tuple[str, ...]:
        """The `--set` of each place that an optuna trial suggests."""
        return tuple(_suggested(trial, axis) for axis in self.axes)


def _suggested(trial: Any, axis: Axis) -> str:
    """Values are told to optuna as the text that sets them, since it stores plain words only."""
    place, values = axis.place, axis.values
    if not isinstance(values, Range):
        said: str = trial.suggest_categorical(place, [as_setting(place, value) for value in values])
        return said
    if values.whole:
        return as_setting(place, trial.suggest_int(place, int(values.low), int(values.high), log=values.log))
    return as_setting(place, rounded(trial.suggest_float(place, values.low, values.high, log=values.log), values))


def rounded(value: float, within: Range) -> float:
    """Short enough to read, and still in the range.

    >>> rounded(0.0123456, Range(0.0123450, 1, True, False)), rounded(0.123456, Range(0.01, 1, True, False))
    (0.012345, 0.123)
    """
    return min(max(float(f"{value:.{DIGITS}g}"), within.low), within.high)
