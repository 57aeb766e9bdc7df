"""The same number of rows of every experience."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clkd.memory.balanced import Balanced

if TYPE_CHECKING:
    from clkd.context import Context
    from clkd.experience import Experience


class ExperienceBalanced(Balanced):
    """Keeps `size` rows, split evenly over the experiences so far, chosen at random at the end of each.

    What is kept of an experience is an even sample of its rows, and making room for new ones drops a random part of it.
    """

    def __init__(
        self,
        size: int | str = 500,
        seed: int = 0,
        device: torch.device | str = "cpu",
        context: Context | None = None,
    ) -> None:
        super().__init__(size, seed, device, "experience_balanced", context)

    def groups(self, experience: Experience) -> tuple[int, ...]:
        return tuple(range(experience.index + 1))

    def grouped(self, y: Tensor, experience: Tensor) -> Tensor:
        return experience
