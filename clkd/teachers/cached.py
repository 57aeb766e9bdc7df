"""Answers out of the cache, looked up by (view, experience, sample id)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clkd.signals import Batch, Needs, Signals, Spec
from clkd.teachers.recall import refuse_missed

BLOCK = 512
"""Rows that a teacher is asked about at once."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of an answer: how many logits, and each feature's shape."""

    logits: int
    features: dict[str, tuple[int, ...]]

    @property
    def width(self) -> int:
        """Float16s a row."""
        return self.logits + sum(math.prod(shape) for shape in self.features.values())

    def needs(self) -> Needs:
        return Needs(bool(self.logits), tuple(self.features))

    def pack(self, said: Signals) -> Tensor:
        """`[B, width]` float16."""
        logits = [said.logits] if self.logits and said.logits is not None else []
        return torch.cat([part.flatten(1).half() for part in (*logits, *(said.features[n] for n in self.features))], 1)

    def unpack(self, rows: Tensor, class_ids: Tensor, valid: Tensor | None) -> Signals:
        """What `pack` was given, as float32."""
        sizes = [self.logits, *(math.prod(shape) for shape in self.features.values())]
        logits, *features = torch.split(rows.float(), sizes, 1)
        shaped = zip(self.features.items(), features, strict=True)
        named = {name: part.reshape(len(rows), *shape) for (name, shape), part in shaped}
        return Signals(logits if self.logits else None, class_ids, named, valid)


class Blocks:
    """Which rows a teacher is asked about together: those of one class, in order, at most 512.

    It depends on the data alone. A row's answer depends on the batch that it is asked in, if only in its last bits; so
    whoever asks first, in whatever run, the answer is the same.
    """

    def __init__(self, y: Tensor, size: int = BLOCK) -> None:
        order = torch.argsort(y, stable=True)
        counts = torch.unique_consecutive(y[order], return_counts=True)[1].tolist()
        self.lengths: list[int] = [min(size, n - start) for n in counts for start in range(0, n, size)]
        self.rows = torch.split(order, self.lengths)
        lengths = torch.tensor(self.lengths, device=y.device)
        self.starts = lengths.cumsum(0) - lengths
        self.of = torch.empty_like(order)
        self.of[order] = torch.arange(len(lengths), device=y.device).repeat_interleave(lengths)
        self.slot = torch.empty_like(order)
        self.slot[order] = torch.arange(len(order), device=y.device)

    def holding(self, sample_id: Tensor) -> list[int]:
        """The blocks that these rows are in."""
        found: list[int] = torch.unique(self.of[sample_id]).tolist()
        return found


class Cached:
    """A teacher's answers as `Recall` gives them, out of one table for each domain.

    Tables on the host are files mapped into memory, and stay there; one on the device was copied as a whole.

    Args:
        tables: `[rows, width]` float16 each.
        base: `[domains + 1, views, blocks]` int64, where each block begins in the tables laid end to end; -1 if it is
            not there.
        domain: `[experiences]` int64, the domain of each; the last one is for those whose answers are not here.
    """

    def __init__(
        self, tables: list[Tensor], base: Tensor, domain: Tensor, blocks: Blocks, kept: Kept, class_ids: Tensor
    ) -> None:
        self.tables, self.base, self.domain, self.kept, self.class_ids = tables, base, domain, kept, class_ids
        self.block_of, self.within = blocks.of, blocks.slot - blocks.starts[blocks.of]
        self.missed = torch.zeros((), dtype=torch.int64, device=base.device)
        self.looked = 0

    def __call__(self, batch: Batch, valid: Tensor | None) -> Signals:
        """What the teacher said about these rows in these views, rounded to float16."""
        at = self.base[self.domain[batch.experience], batch.view, self.block_of[batch.sample_id]]
        self.missed += (at < 0).sum()
        self.looked += len(batch)
        rows = self._rows(at.clamp(min=0) + self.within[batch.sample_id])
        return self.kept.unpack(rows, self.class_ids, valid)

    def _rows(self, at: Tensor) -> Tensor:
        """`[B, width]`. Only tables that are left on the host make a GPU wait."""
        if len(self.tables) == 1:
            return self.tables[0][at.to(self.tables[0].device)].to(at.device)
        at, device = at.cpu(), at.device
        rows, start = torch.empty(len(at), self.kept.width, dtype=torch.float16), 0
        for table in self.tables:
            own = ((at >= start) & (at < start + len(table))).nonzero().flatten()
            rows[own] = table[at[own] - start]
            start += len(table)
        return rows.to(device)

    def covers(self, needs: Needs) -> bool:
        """Whether everything that is asked for was kept."""
        return (self.kept.logits > 0 or not needs.logits) and set(needs.features) <= set(self.kept.features)

    def check(self) -> None:
        """Raises `ClkdError` if rows were asked for that had no answer."""
        refuse_missed(self.missed)


def kept_of(needs: Needs, spec: Spec, shapes: dict[str, tuple[int, ...]]) -> Kept:
    """Features by name, so that it does not matter which loss asks first."""
    return Kept(len(spec.class_ids) if needs.logits else 0, {name: shapes[name] for name in sorted(needs.features)})
