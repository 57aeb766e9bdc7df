"""An even sample of all experiences that are over."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from clkd.memory.balanced import Balanced

if TYPE_CHECKING:
    from clkd.context import Context
    from clkd.experience import Experience
    from clkd.models.student import Student


class Random(Balanced):
    """Keeps `size` rows at random, each row of the experiences that are over with the same probability.

    A reservoir holds such a sample at any moment; this one is filled when an experience ends, so that none of an
    experience's rows are replayed within it.
    """

    purpose: ClassVar[str] = "random"

    def __init__(
        self,
        size: int | str = 500,
        seed: int = 0,
        device: torch.device | str = "cpu",
        context: Context | None = None,
        store: Collection[str] = (),
        class_names: tuple[str, ...] = (),
        student: Student | None = None,
    ) -> None:
        super().__init__(size, seed, device, context, None, store, class_names, student)

    def groups(self, experience: Experience) -> tuple[int, ...]:
        return (0,)

    def grouped(self, rows: Mapping[str, Tensor]) -> Tensor:
        return torch.zeros_like(rows["y"])
