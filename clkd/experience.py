"""The words for data over time: rows of a data set, and one experience of a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clkd.signals import Batch

Warp = Callable[[Tensor], Tensor]
"""Turns stored rows of one domain into the rows that the model gets: `[N, …]` uint8 in, the same shape and type out.
Each row is turned by itself, whatever rows stand beside it: streamed rows are warped batch by batch."""

ABSENT = -2
"""The label of a row that is not there; one without a label has -1."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A selection of a stored data set. Nothing is copied until a batch is gathered.

    Attributes:
        x: `[N, C, H, W]` uint8 (or `[N, D]` float32): the whole stored set, shared by all selections.
        y: `[n]` int64 global class ids of the selected rows, -1 for those without a label.
        index: `[n]` int64 where each selected row lies in `x`.
        sample_id: `[n]` int64 the row's stable number, which is its place in the original set.
        domain, experience: the ids that every row of this selection carries.
        warp: what makes these rows another domain, or None.
        ordered: whether they stand in the order in which they arrive, which an online stream keeps.
        resident: whether they may be brought onto the device whole; else they stay in the store, and only batches move.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    sample_id: Tensor
    domain: int = 0
    experience: int = 0
    warp: Warp | None = None
    resident: bool = True
    ordered: bool = False

    def __len__(self) -> int:
        return len(self.index)

    def labelled(self) -> Tensor | None:
        """`[n]` bool on the CPU, which rows have a label; None where all have. Waits for the device."""
        known = (self.y >= 0).cpu()
        return None if known.all() else known

    def ready(self, device: torch.device | str) -> Rows:
        """The same rows on `device`; a warp is applied once, here, to all of them. Streamed rows stay as they are."""
        if not self.resident:
            return self
        moved = replace(self, y=self.y.to(device), index=self.index.to(device), sample_id=self.sample_id.to(device))
        if self.warp is None:
            return replace(moved, x=self.x.to(device))
        warped = self.warp(self.x[self.index].to(device))
        return replace(moved, x=warped, index=torch.arange(len(self), device=warped.device), warp=None)

    def beside(self, kept: Batch) -> Batch | None:
        """Those of the `kept` rows that are not among these: another row, domain or label. None where all are. Waits
        for the device.

        >>> i = torch.arange(3)
        >>> rows = Rows(x=i, y=i, index=i, sample_id=i)
        >>> kept = Batch(x=i, y=i, sample_id=i + 1, domain=i * 0, experience=i, new=0)
        >>> kept.y[0] = 1  # as the row here that has its number
        >>> rows.beside(kept).sample_id
        tensor([2, 3])
        """
        ids, coming = kept.sample_id, self.sample_id.to(kept.y.device)
        label = torch.full((int(torch.cat([ids, coming]).max()) + 1,), ABSENT, device=ids.device)
        label[coming] = self.y.to(ids.device)
        others = ((label[ids] != kept.y) | (kept.domain != self.domain)).nonzero()[:, 0]
        if len(others) == len(kept):
            return kept
        return kept.pick(others[:0], others) if len(others) else None

    def gather(self, at: Tensor, device: torch.device | str | None = None) -> Batch:
        """The rows at positions `at` (`[B]` int64 within this selection) as an un-augmented batch of new rows.

        With a `device`, they are brought there, and warped there.
        """
        batch = self.stored(at)
        return self.warped(batch if device is None else batch.to(device))

    def warped(self, batch: Batch) -> Batch:
        """What `stored` gave, in its domain."""
        return batch if self.warp is None else replace(batch, x=self.warp(batch.x))

    def stored(self, at: Tensor) -> Batch:
        """As `gather`, before the warp."""
        return Batch(  # index_select copies whole rows, where indexing copies pixel by pixel
            x=self.x.index_select(0, self.index[at]),  # whose error names the place
            y=self.y.index_select(0, at),
            sample_id=self.sample_id.index_select(0, at),
            domain=torch.full_like(at, self.domain),
            experience=torch.full_like(at, self.experience),
            new=len(at),
        )

    def select(self, keep: Tensor) -> Rows:
        """Only the rows that `keep` (bool mask or positions) names."""
        return replace(self, y=self.y[keep], index=self.index[keep], sample_id=self.sample_id[keep])


@dataclass(frozen=True, slots=True)
class Experience:
    """One chunk of the stream: new classes, a new domain, or more of the same.

    Attributes:
        index: its place in the stream, from 0.
        classes: global ids of the classes in its training rows, in the stream's class order.
        seen: every class of this and earlier experiences, in order of first appearance.
        train, validation, test: its rows; `validation` is cut from training data and may be empty. Those of `train`
            alone may lack labels.
        name: how people call it, for example `[4, 5]` or `rotated 36°`.
        count: how many experiences the stream has.
        known: how many classes earlier experiences had: `seen[:known]` are the old ones.
        called: the data's own ids of its `classes`, where these are places instead (`labels: place`).
    """

    index: int
    classes: tuple[int, ...]
    seen: tuple[int, ...]
    train: Rows
    validation: Rows
    test: Rows
    name: str
    count: int
    known: int = 0
    called: tuple[int, ...] = ()

    @property
    def new_classes(self) -> tuple[int, ...]:
        """Classes that no earlier experience had."""
        return self.seen[len(self.old_classes) :]

    @property
    def old_classes(self) -> tuple[int, ...]:
        """Classes that an earlier experience had."""
        return self.seen[: self.known]

    def placed(self) -> bytes:
        """What decides its labels beside `classes`: part of what it is known by."""
        return repr(self.called).encode() if self.called else b""
