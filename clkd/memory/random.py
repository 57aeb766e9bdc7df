"""An even sample of all experiences that are over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from clkd.memory.balanced import Balanced

if TYPE_CHECKING:
    from clkd.experience import Experience


class Random(Balanced):
    """Keeps `size` rows at random, each row of the experiences that are over with the same probability.

    A reservoir holds such a sample at any moment; this one is filled when an experience ends, so that none of an
    experience's rows are replayed within it.
    """

    purpose: ClassVar[str] = "random"

    def groups(self, experience: Experience) -> tuple[int, ...]:
        return (0,)

    def grouped(self, rows: Mapping[str, Tensor]) -> Tensor:
        return torch.zeros_like(rows["y"])
