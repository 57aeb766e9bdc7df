"""Where a memory's rows lie: tensors of fixed length, written in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clkd.signals import Batch

EXTRA = "extra."
"""Prefix of the columns that a memory keeps beside a batch's own."""
PIECE = 512
"""Rows that are moved at a time, so that moving them takes little more than they do."""


class Table:
    """At most `capacity` rows, as one tensor per column: x as stored, y, sample_id, domain, experience and extras.

    Memory is taken once, at the first write, which also fixes every column's type and row shape. Rows are written to
    slots and the slots below `count` are filled.

    >>> i = torch.tensor([7, 8, 9])
    >>> table = Table(capacity=2)
    >>> table.write(torch.tensor([0, 1]), Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=3).rows(0, 2))
    >>> len(table), table.read(torch.tensor([1])).y
    (2, tensor([8]))
    """

    def __init__(self, capacity: int, device: torch.device | str = "cpu") -> None:
        self.capacity, self.device = capacity, torch.device(device)
        self.columns: dict[str, Tensor] = {}
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def write(self, at: Tensor, batch: Batch, extra: Mapping[str, Tensor] | None = None) -> None:
        """Put a batch's rows into the slots `at` (`[n]` int64 on the CPU, all different, leaving no gap)."""
        assert len(at) <= self.capacity, f"{len(at)} rows do not fit into a table of {self.capacity}"
        if len(at):
            count = max(self.count, int(at.max()) + 1)
            self.put(at.to(self.device, non_blocking=True), batch, extra or {}, count)

    def put(
        self, slots: Tensor, batch: Batch, extra: Mapping[str, Tensor], count: int, where: Tensor | None = None
    ) -> None:
        """As `write`, for slots that were found on the device: nothing here waits for it.

        Args:
            slots: `[n]` int64 on the table's device, all different.
            batch: n rows.
            extra: what is kept beside them.
            count: how many slots are filled afterwards: those below.
            where: `[n]` bool, which rows are written; the slots of the others stay as they are.
        """
        self.count = count
        for name, rows in _columns(batch, extra).items():
            column, rows = self._column(name, rows), rows.to(self.device)
            if where is not None:
                rows = torch.where(where.view(-1, *[1] * (rows.dim() - 1)), rows, column.index_select(0, slots))
            column.index_copy_(0, slots, rows)

    def keep(self, at: Tensor) -> None:
        """Keep only the rows of the slots `at` (`[n]` int64, ascending), moved to the front in this order.

        A row only ever moves towards the front, so that none is written over before its turn.
        """
        self.count = len(at)
        start = 0
        for slots in torch.split(at.to(self.device), PIECE):
            for column in self.columns.values():
                column[start : start + len(slots)] = column.index_select(0, slots)
            start += len(slots)

    def _column(self, name: str, like: Tensor) -> Tensor:
        if name not in self.columns:
            self.columns[name] = torch.zeros((self.capacity, *like.shape[1:]), dtype=like.dtype, device=self.device)
        return self.columns[name]

    def read(self, at: Tensor) -> Batch:
        """The rows of the slots `at` (`[n]` int64), as copies; all of them count as replayed."""
        slots = at.to(self.device, non_blocking=True)
        rows = {name: column.index_select(0, slots) for name, column in self.columns.items()}
        extra = {name.removeprefix(EXTRA): rows.pop(name) for name in list(rows) if name.startswith(EXTRA)}
        return Batch(**rows, new=0, extra=extra, draws=(), weak=None, mixed=None)

    def draw(self, n: int, generator: torch.Generator) -> Tensor | None:
        """At most `n` different slots (`[n]` int64 on the CPU), each set equally likely; None while there are none."""
        if n <= 0 or not self.count:
            return None
        return torch.randperm(self.count, generator=generator)[:n]

    def sample(self, n: int, generator: torch.Generator) -> Batch | None:
        """The rows of the slots that `draw` gives."""
        at = self.draw(n, generator)
        return None if at is None else self.read(at)

    def nbytes(self) -> int:
        """Bytes taken, filled or not."""
        return sum(column.nbytes for column in self.columns.values())

    def histogram(self) -> dict[int, int]:
        """How many rows there are of each class."""
        if not self.count:
            return {}
        classes, counts = torch.unique(self.columns["y"][: self.count].cpu(), return_counts=True)
        return dict(zip(classes.tolist(), counts.tolist(), strict=True))

    def to(self, device: torch.device | str) -> None:
        """Move all rows, and keep them on `device` from now on."""
        self.device = torch.device(device)
        self.columns = {name: column.to(self.device) for name, column in self.columns.items()}

    def state_dict(self) -> dict[str, Any]:
        """Copies of the filled rows."""
        return {name: column[: self.count].clone() for name, column in self.columns.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the rows back; the table may have been made with another device, but not with another capacity."""
        self.columns = {}
        self.count = len(state["y"]) if state else 0
        for name, rows in state.items():
            self._column(name, rows)[: self.count] = rows.to(self.device)


def _columns(batch: Batch, extra: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = {name: getattr(batch, name) for name in ("y", "sample_id", "domain", "experience")}
    return {"x": batch.stored(), **own} | {f"{EXTRA}{name}": rows for name, rows in extra.items()}
