"""What every memory that keeps its rows in a table shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from clkd.memory.base import Memory
from clkd.memory.budget import rows_within
from clkd.memory.table import Table
from clkd.seeding import generator
from clkd.signals import Batch

if TYPE_CHECKING:
    from clkd.context import Context


class Tabled(Memory):
    """A memory of at most `size` rows in a table, with a generator of its own; override the rule for what stays.

    Args:
        size: how many rows are kept at most, or how many bytes ("20MB").
        seed: of the run.
        device: where the rows lie.
        context: what is known of the stream, for a size in bytes.
        beside: bytes that are kept beside each row.
    """

    purpose: ClassVar[str]
    """What the generator is for, so that no two kinds of memory draw the same numbers."""

    def __init__(
        self,
        size: int | str,
        seed: int,
        device: torch.device | str,
        context: Context | None = None,
        beside: int = 0,
    ) -> None:
        self.size = rows_within(size, context, beside)
        self.table = Table(self.size, device)
        self.draws = generator(seed, "memory", self.purpose)

    def sample(self, n: int, generator: torch.Generator) -> Batch | None:
        return self.table.sample(n, generator)

    def nbytes(self) -> int:
        return self.table.nbytes()

    def __len__(self) -> int:
        return len(self.table)

    def histogram(self) -> dict[int, int]:
        return self.table.histogram()

    def state_dict(self) -> dict[str, Any]:
        return {"table": self.table.state_dict(), "draws": self.draws.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Also what a larger memory held, as far as there is room."""
        self.draws.set_state(state["draws"].cpu())
        rows = state["table"]
        if rows and len(rows["y"]) > self.size:
            at = self.staying(rows)
            rows = {name: column[at.to(column.device)] for name, column in rows.items()}
        self.table.load_state_dict(rows)

    def staying(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Positions of `size` of a larger memory's rows: an even sample."""
        return torch.randperm(len(rows["y"]), generator=self.draws)[: self.size]

    def to(self, device: torch.device | str) -> None:
        self.table.to(device)
