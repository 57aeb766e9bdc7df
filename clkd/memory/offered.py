"""What every memory shares that decides about rows as they come, and may keep what the student said beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from clkd.memory.beside import LOGITS, Beside
from clkd.memory.rewriting import rewritten
from clkd.memory.table import EXTRA, PIECE
from clkd.memory.tabled import Tabled
from clkd.signals import Batch, Needs, Signals, by_class

if TYPE_CHECKING:
    from clkd.context import Context
    from clkd.experience import Experience
    from clkd.models.student import Student


class Offered(Tabled):
    """A memory that is offered each row while it is new; override `observe`.

    With `store`, each row comes back with what the student said about it when it was new, as `clkd.memory.beside` has
    it: its logits, or the features at a tap.

    With `rewrite`, stored logits do not stay as they were: Boschini et al. 2022, "Class-Incremental Continual Learning
    into the eXtended DER-verse". When an experience ends, the student says in eval mode what it now thinks of each row,
    in the row's stored view; `clkd.memory.rewriting` tells what of it is kept.

    Args:
        store: `logits`, names of taps.
        class_names: of the data set, for logits.
        student: knows the shapes of its features, for a size in bytes.
        rewrite: γ, how far below its own class a row's new columns are held; None keeps what was said.
        epochs: in which epochs of its experience a row is offered: once, or each time as another row.
    """

    own_bytes: ClassVar[int] = 0
    """What it keeps beside each row of its own accord."""
    reads: ClassVar[Needs | None] = None
    """What it reads of the student without keeping it."""

    def __init__(
        self,
        size: int | str = 500,
        seed: int = 0,
        device: torch.device | str = "cpu",
        store: Collection[str] = (),
        class_names: tuple[str, ...] = (),
        context: Context | None = None,
        student: Student | None = None,
        rewrite: float | None = None,
        epochs: Literal["first", "all"] = "first",
    ) -> None:
        self.rewrite = rewrite
        self.every_epoch = epochs == "all"
        self.beside = Beside(store, class_names, student)
        self.classes = len(class_names)
        kept = self.beside.needs()
        self.needs = kept | self.reads if kept and self.reads else kept or self.reads
        beside = self.own_bytes + (self.beside.nbytes() if isinstance(size, str) else 0)
        super().__init__(size, seed, device, context, beside)
        self.seen = 0
        """New rows so far, where the rule counts them."""

    @property
    def stores(self) -> tuple[str, ...]:
        return self.beside.store

    @property
    def needs_boundaries(self) -> bool:
        return self.rewrite is not None

    def pieces(self, batch: Batch) -> Iterator[Tensor]:
        """Positions of the new rows, never more at once than there are slots (`[n]` int64 on the CPU)."""
        return iter(torch.split(torch.arange(batch.new), self.size) if batch.new else ())

    def _beside(self, batch: Batch, signals: Signals, at: Tensor) -> dict[str, Tensor]:
        """What is kept beside the rows at positions `at`, as `store` says."""
        return self.beside.of(batch, signals, at)

    @torch.no_grad()
    def end(self, experience: Experience, student: Student) -> None:
        """Rewrite stored logits, if any are to be."""
        if self.rewrite is None or not len(self):
            return
        past, coming = (mask.to(self.table.device) for mask in self._apart(experience, student))
        with student.teaching():
            for slots in torch.split(torch.arange(len(self), device=self.table.device), PIECE):
                rows = self.table.read(slots)
                said, arrived = self._said(rows, student), rows.experience == experience.index
                logits = rewritten(rows.extra[LOGITS], said, rows.y, arrived, past, coming, self.rewrite)
                self.table.columns[EXTRA + LOGITS].index_copy_(0, slots, logits)

    def _apart(self, experience: Experience, student: Student) -> tuple[Tensor, Tensor]:
        """`[classes]` bool each: classes of the past alone; those that the experience brought or that will come."""
        past, coming = (torch.zeros(self.classes, dtype=torch.bool) for _ in range(2))
        for c, born in zip(student.class_ids, student.born, strict=True):
            if c < self.classes:  # a fixed head may have columns for classes that the data does not have
                coming[c] = not 0 <= born < experience.index
                past[c] = not coming[c] and c not in experience.classes
        return past, coming

    def _said(self, rows: Batch, student: Student) -> Tensor:
        """`[n, classes]` what the student says now about rows, in the view that they were stored with."""
        seen = self.fixed(rows, rows.extra.get("view", torch.zeros_like(rows.y)))
        said = student.signals(seen.x, Needs(), seen.domain)
        assert said.logits is not None, "they were asked for"
        return by_class(said.logits.float(), said.class_ids, self.classes)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Also what a memory held that knew fewer classes, or was smaller or larger.

        A larger one than before is filled by rows to come; of the past it has no more than what was kept.
        """
        super().load_state_dict({**state, "table": self.beside.fitting(state["table"])})
        self.seen = int(state["seen"])


def only(batch: Batch, at: Tensor) -> Batch:
    """The stored rows at positions `at`."""
    own = {name: getattr(batch, name).index_select(0, at) for name in ("y", "sample_id", "domain", "experience")}
    return Batch(batch.stored().index_select(0, at), **own, new=len(at))
