"""The same number of rows of every class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from clkd.memory.balanced import Balanced

if TYPE_CHECKING:
    from clkd.experience import Experience


class ClassBalanced(Balanced):
    """Keeps `size` rows, split evenly over the classes seen, chosen at random at the end of each experience.

    What is kept of a class is an even sample of all its rows, from whichever experiences, and making room for new
    classes drops a random part of it. Unlabelled rows are not kept.
    """

    purpose: ClassVar[str] = "class_balanced"

    def groups(self, experience: Experience) -> tuple[int, ...]:
        return experience.seen

    def grouped(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows["y"]
