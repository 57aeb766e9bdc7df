"""The same number of rows of every experience."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from clkd.memory.balanced import Balanced

if TYPE_CHECKING:
    from clkd.experience import Experience


class ExperienceBalanced(Balanced):
    """Keeps `size` rows, split evenly over the experiences so far, chosen at random at the end of each.

    What is kept of an experience is an even sample of its rows, and making room for new ones drops a random part of it.
    """

    purpose: ClassVar[str] = "experience_balanced"

    def groups(self, experience: Experience) -> tuple[int, ...]:
        return tuple(range(experience.index + 1))

    def grouped(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows["experience"]
