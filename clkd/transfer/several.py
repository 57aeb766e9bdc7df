"""Several strategies at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from clkd.signals import Batch, Needs, Signals
from clkd.transfer.base import Seen, Transfer

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student
    from clkd.schedules.base import Schedule


class Several(Transfer):
    """The weighted sum of what strategies say; at each moment they act one after another, in the scenario's order.

    >>> several = Several({"one": Transfer(), "other": Transfer()}, {"one": 1.0, "other": 0.5})
    >>> several.speaks, len(several.strategies)
    (False, 2)
    """

    def __init__(self, strategies: Mapping[str, Transfer], weights: Mapping[str, float | Schedule]) -> None:
        super().__init__()
        self.names, self.strategies = tuple(strategies), nn.ModuleList(strategies.values())
        self.weights = dict(weights)
        self.scheduled = nn.ModuleList(weight for weight in weights.values() if isinstance(weight, nn.Module))
        self.told: dict[str, Tensor] = {}

    def each(self) -> list[Transfer]:
        """The strategies, in order."""
        return list(self.strategies)  # type: ignore[arg-type]  # made of nothing else

    @property
    def speaks(self) -> bool:
        return any(strategy.speaks for strategy in self.each())

    def reads(self) -> Needs:
        wish = Needs(logits=False)
        for strategy in self.each():
            wish = wish | strategy.reads()
        return wish

    def prepare(self, student: Student) -> None:
        for strategy in self.each():
            strategy.prepare(student)

    def begin(self, experience: Experience, student: Student) -> None:
        for strategy in self.each():
            strategy.begin(experience, student)

    def forward(self, batch: Batch, a: Signals) -> Tensor | None:
        total: Tensor | None = None
        self.told = {}
        for name, strategy in zip(self.names, self.each(), strict=True):
            strategy.progress = self.progress
            if (value := strategy(batch, a)) is not None:
                self.told[name] = value.detach()
                weighted = strategy.weighed(self.weights[name], value, a)
                total = weighted if total is None else total + weighted
        return total

    def review(self, seen: Seen, experience: Experience, student: Student) -> None:
        for strategy in self.each():
            strategy.review(seen, experience, student)

    def end(self, experience: Experience, student: Student) -> None:
        for strategy in self.each():
            strategy.end(experience, student)
