"""One weighted term of the total loss: which models it compares, on which rows, and how much it counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from torch import Tensor, nn

from clkd.losses.base import Loss
from clkd.schedules.base import Progress, Schedule
from clkd.signals import Batch, Needs, Signals, Spec

STUDENT = "student"
ALL: Mapping[str, tuple[int, int]] = MappingProxyType({})
"""Everybody was asked about the whole batch."""


@dataclass(frozen=True, slots=True)
class Side:
    """One end of `between`: `student`, `external.stage3`, `student.penultimate@replay`, `stored@replay2`."""

    model: str
    feature: str | None = None
    rows: str | None = None

    @classmethod
    def read(cls, text: str) -> Side:
        """Take the words of a scenario apart.

        >>> Side.read("student.stage3@new")
        Side(model='student', feature='stage3', rows='new')
        """
        named, _, rows = text.partition("@")
        model, _, feature = named.partition(".")
        return cls(model, feature or None, rows or None)

    def __str__(self) -> str:
        return self.model + (f".{self.feature}" if self.feature else "") + (f"@{self.rows}" if self.rows else "")

    def cut(self, batch: Batch) -> tuple[int, int]:
        """The slice of a batch this side speaks about: new rows come first, replayed ones after them, by draw."""
        if self.rows is None:
            return 0, len(batch)
        if self.rows == "new":
            return 0, batch.new
        if self.rows == "replay":
            return batch.new, len(batch)
        draw = int(self.rows.removeprefix("replay"))
        return batch.new + sum(batch.draws[: draw - 1]), batch.new + sum(batch.draws[:draw])


def span(sides: Iterable[Side], batch: Batch) -> tuple[int, int]:
    """The slice of a batch from the first to the last row that any of the sides speaks about.

    >>> import torch
    >>> i = torch.arange(6)
    >>> batch = Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=2, draws=(2, 2))
    >>> span([Side("stored", rows="replay1"), Side("stored", rows="replay2")], batch)
    (2, 6)
    """
    cuts = [(start, stop) for start, stop in (side.cut(batch) for side in sides) if start < stop]
    return min((start for start, _ in cuts), default=0), max((stop for _, stop in cuts), default=0)


class Term(nn.Module):
    """A loss, its sides and its weight."""

    def __init__(
        self, name: str, loss: Loss, sides: tuple[Side, ...], weight: float | Schedule = 1.0, skips: bool = False
    ) -> None:
        super().__init__()
        self.name, self.loss, self.weight, self.skips = name, loss, weight, skips
        self.undefined: dict[int, str] = {}
        """Experiences that are trained without it, and why."""
        self.a, self.b = _same_rows(sides)
        self.specs: tuple[Spec, Spec | None] | None = None

    @property
    def teacher(self) -> str | None:
        """The model that the first side learns from, if it is another one: a teacher, or another student."""
        return self.b.model if self.b and self.b.model != self.a.model else None

    def needs(self, model: str) -> Needs:
        """What it reads of `model`."""
        wish = Needs(logits=False)
        for place, side in enumerate((self.a, self.b)):
            if side and side.model == model:
                wish = wish | self.loss.reads(place) | Needs(False, (side.feature,) if side.feature else ())
        return wish

    def counts(self, batch: Batch, whole: Batch) -> tuple[int | Tensor, int | Tensor]:
        """How many rows its mean is over, in a rank's share of a batch and in the whole one."""
        return (1, 1) if len(batch) == len(whole) else (self._count(batch), self._count(whole))

    def _count(self, batch: Batch) -> int | Tensor:
        """At least 1; on the device, if labels decide."""
        start, stop = self.a.cut(batch)
        taking = self.loss.takes(batch.rows(start, stop))
        return stop - start if taking is None else taking.sum().clamp(min=1)

    def bind(self, spec: Callable[[Side], Spec]) -> None:
        """Tell the loss what both sides look like now. The specs are kept: resume binds to them again."""

        def whole(side: Side) -> Spec:
            shapes = {name: spec(replace(side, feature=name)).shape or () for name in self.needs(side.model).features}
            return replace(spec(side), shapes=shapes)

        self.specs = whole(self.a), whole(self.b) if self.b else None
        self.loss.bind(*self.specs)

    def forward(
        self, batch: Batch, said: Mapping[str, Signals], progress: Progress, spans: Mapping[str, tuple[int, int]] = ALL
    ) -> Tensor | None:
        """The unweighted value, a scalar; None when this batch has no rows for it.

        `spans` has the slice of the batch that a model was asked about, if it was not asked about all of it.
        """
        start, stop = self.a.cut(batch)
        if start == stop:
            return None
        self.loss.progress = progress
        a, rows = said[self.a.model], batch
        if (start, stop) != (0, len(batch)):
            a, rows = a.rows(start, stop), batch.rows(start, stop)
        value: Tensor = self.loss(rows, a, self._other(batch, said, spans))
        return value.mean() if value.dim() else value

    def weighted(self, value: Tensor, progress: Progress, a: Signals) -> Tensor:
        """`weight · value`; a weight of one leaves the value, bit for bit."""
        if isinstance(self.weight, Schedule):
            return self.weight.weigh(value, progress, a)
        return value if self.weight == 1.0 else self.weight * value

    def _other(self, batch: Batch, said: Mapping[str, Signals], spans: Mapping[str, tuple[int, int]]) -> Signals | None:
        if self.b is None:
            return None
        start, stop = self.b.cut(batch)
        first, last = spans.get(self.b.model, (0, len(batch)))
        b = said[self.b.model]
        if self.teacher:  # which may be trained in the same step, but not by those who learn from it
            b = b.detached()
        return b if (start, stop) == (first, last) else b.rows(start - first, stop - first)


def _same_rows(sides: tuple[Side, ...]) -> tuple[Side, Side | None]:
    """Rows named on one side hold for both: the pair is compared row by row."""
    if len(sides) == 1:
        return sides[0], None
    a, b = sides
    return replace(a, rows=a.rows or b.rows), replace(b, rows=b.rows or a.rows)
