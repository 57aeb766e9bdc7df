"""What a sweep varies: places of the scenario, and what each is set to."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clkd.errors import UserError
from clkd.scenario.settings import Setting, as_setting, said
from clkd.seeding import derive

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"(log:)?({NUMBER})\.\.({NUMBER})")
DIGITS = 3
"""Of a drawn number: enough to search by, and short enough to read."""


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, drawn evenly or, with `log`, evenly by their logarithm; whole if both ends are."""

    low: float
    high: float
    log: bool
    whole: bool

    def draw(self, source: random.Random) -> float:
        if self.whole and not self.log:
            return source.randint(int(self.low), int(self.high))
        if self.log:
            drawn = math.exp(source.uniform(math.log(self.low), math.log(self.high)))
        else:
            drawn = source.uniform(self.low, self.high)
        return round(drawn) if self.whole else self._rounded(drawn)

    def _rounded(self, drawn: float) -> float:
        """Never out of the range, and with so many digits more as its ends have in common."""
        narrow = max(abs(self.low), abs(self.high)) / (self.high - self.low)
        digits = DIGITS + max(0, math.floor(math.log10(narrow)))
        return min(max(float(f"{drawn:.{digits}g}"), self.low), self.high)


@dataclass(frozen=True, slots=True)
class Axis:
    """One `--set` of a sweep: its place, and a choice of values or a range."""

    place: str
    values: tuple[Any, ...] | Range

    @classmethod
    def read(cls, text: str) -> Axis:
        """Take `a.b=x,y,z` or `a.b=[log:]low..high` apart; a comma within brackets belongs to the value.

        >>> Axis.read("train.optimizer={kind: sgd, lr: 0.1},adam").values
        ({'kind': 'sgd', 'lr': 0.1}, 'adam')
        >>> Axis.read("losses.1.weight=log:0.01..1").values
        Range(low=0.01, high=1.0, log=True, whole=False)
        """
        place, equals, value = text.partition("=")
        if not equals or not value.strip():
            raise UserError(f"--set {text}: write a.b=VALUE,VALUE,… or a.b=LOW..HIGH")
        Setting.read(f"{place}=0")  # the place alone: its mistakes are told as everywhere
        if found := RANGE.fullmatch(value.strip()):
            return cls(place.strip(), _range(text, *found.groups()))
        return cls(place.strip(), tuple(said(text, f"[{value}]")))


def _range(text: str, log: str | None, low: str, high: str) -> Range:
    whole = all(re.fullmatch(r"[-+]?\d+", end) for end in (low, high))
    found = Range(float(low), float(high), bool(log), whole)
    if found.low >= found.high or (log and found.low <= 0):
        raise UserError(
            f"--set {text}: a range goes from low to high" + (", and by logarithm from above 0" if log else "")
        )
    return found


def read_axes(texts: Sequence[str]) -> list[Axis]:
    """Every `--set` taken apart.

    Raises:
        UserError: one cannot be read, or two are about one place, of which the later would win.
    """
    found: dict[str, Axis] = {}
    for axis in map(Axis.read, texts):
        if axis.place in found:
            raise UserError(f"--set {axis.place}: is given twice: write all its values behind one, {axis.place}=A,B")
        found[axis.place] = axis
    return list(found.values())


Settings = tuple[str, ...]


def grid(axes: Sequence[Axis]) -> list[Settings]:
    """Every combination, the last axis fastest.

    >>> grid([Axis.read("a=1,2"), Axis.read("b=x")])
    [('a=1', 'b=x'), ('a=2', 'b=x')]

    Raises:
        UserError: an axis is a range, of which there are no all.
    """
    for axis in axes:
        if isinstance(axis.values, Range):
            raise UserError(f"--set {axis.place}: a range is drawn from: say how often by --random N")
    choices = [
        [as_setting(axis.place, value) for value in axis.values] for axis in axes if isinstance(axis.values, tuple)
    ]
    return [*dict.fromkeys(itertools.product(*choices))]


def drawn(axes: Sequence[Axis], count: int) -> list[Settings]:
    """`count` draws, each axis by itself; two that are the same count once.

    Draw i of a place depends on these two alone: 20 draws are the same 10 and 10 more, and a stopped
    sweep goes on with its own.
    """
    return [*dict.fromkeys(tuple(as_setting(axis.place, _draw(axis, i)) for axis in axes) for i in range(count))]


def _draw(axis: Axis, i: int) -> Any:
    source = random.Random(derive(0, "sweep", axis.place, i))
    return axis.values.draw(source) if isinstance(axis.values, Range) else source.choice(axis.values)
