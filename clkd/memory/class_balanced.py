"""The same number of rows of every class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clkd.memory.balanced import Balanced

if TYPE_CHECKING:
    from clkd.context import Context
    from clkd.experience import Experience


class ClassBalanced(Balanced):
    """Keeps `size` rows, split evenly over the classes seen, chosen at random at the end of each experience.

    What is kept of a class is an even sample of all its rows, from whichever experiences, and making room for new
    classes drops a random part of it. Unlabelled rows are not kept.
    """

    def __init__(
        self,
        size: int | str = 500,
        seed: int = 0,
        device: torch.device | str = "cpu",
        context: Context | None = None,
    ) -> None:
        super().__init__(size, seed, device, "class_balanced", context)

    def groups(self, experience: Experience) -> tuple[int, ...]:
        return experience.seen

    def grouped(self, y: Tensor, experience: Tensor) -> Tensor:
        return y
