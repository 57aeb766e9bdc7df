"""An even sample of everything seen."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clkd.memory.table import EXTRA
from clkd.memory.tabled import Tabled
from clkd.signals import Batch, Needs, Signals, by_class

if TYPE_CHECKING:
    from clkd.context import Context

LOGITS = f"{EXTRA}logits"
"""The table's column with what the student said."""

VIEW = 8
"""Bytes of a view's number."""


class Reservoir(Tabled):
    """Keeps `size` rows such that each row seen so far is kept with the same probability, `size / seen`.

    Vitter 1985, "Random Sampling with a Reservoir", algorithm R: row t (from 0) takes slot t while there is room, and
    after that a slot drawn evenly from 0 … t, if there is such a slot. Each row draws one number from the memory's own
    generator, so the outcome does not depend on how rows come in batches.

    With `store: [logits]` each row comes back with what the student said about it when it was new, by global class id
    (`extra["logits"]`, `[n, classes]` float32), and with the number of the fixed view that was about (`extra["view"]`).
    Classes that the student had no column for are 0: those are the ones born after the row's own experience.

    Rows without a label are not offered to it, unless `unlabelled`: then they count and are kept like any other.
    """

    def __init__(
        self,
        size: int | str = 500,
        seed: int = 0,
        device: torch.device | str = "cpu",
        store: Collection[str] = (),
        class_names: tuple[str, ...] = (),
        context: Context | None = None,
        unlabelled: bool = False,
    ) -> None:
        self.needs, self.unlabelled = Needs() if "logits" in store else None, unlabelled
        self.classes = len(class_names)
        beside = 4 * self.classes + VIEW if self.needs else 0
        super().__init__(size, seed, device, "reservoir", context, beside)
        self.seen = 0

    def observe(self, batch: Batch, signals: Signals) -> None:
        slots, rows = self._places(len(batch))
        if not len(rows):
            return
        at = rows.to(batch.y.device, non_blocking=True)
        self.table.write(slots, _only(batch, at), self._beside(batch, signals, at) if self.needs else None)

    def _beside(self, batch: Batch, signals: Signals, at: Tensor) -> dict[str, Tensor]:
        """What is kept beside the rows at positions `at`."""
        assert signals.logits is not None, "the memory's `needs` asks for logits"
        said = by_class(signals.logits.detach()[at].float(), signals.class_ids, self.classes)
        return {"logits": said} | ({} if batch.view is None else {"view": batch.view[at]})

    def _places(self, arriving: int) -> tuple[Tensor, Tensor]:
        """Which of the arriving rows stay, and in which slots (each slot once)."""
        t = torch.arange(self.seen, self.seen + arriving)
        self.seen += arriving
        drawn = (torch.rand(arriving, generator=self.draws, dtype=torch.float64) * (t + 1)).long()
        slots = torch.where(t < self.size, t, drawn)
        lands = (slots < self.size).nonzero().squeeze(1)
        if not len(lands):  # the usual case once much has been seen
            return lands, lands
        if len(self.table) < min(self.seen - arriving, self.size):
            slots[lands] = self._next_free(slots[lands])
        # Row by row a later row would overwrite an earlier one in the same slot: keep the last of each slot.
        last = torch.full((self.size,), -1).scatter_reduce(0, slots[lands], lands, "amax")
        taken = (last >= 0).nonzero().squeeze(1)
        return taken, last[taken]

    def _next_free(self, slots: Tensor) -> Tensor:
        """A memory that became larger has empty slots after the filled ones: rows for any of them take the next."""
        count, found = len(self.table), []
        for slot in slots.tolist():
            found.append(min(slot, count))
            count += slot >= count
        return torch.tensor(found)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Also what a memory held that knew fewer classes, or was smaller or larger.

        A larger one than before is filled by rows to come, which it keeps as if it had always been so large; of the
        past it has no more than what was kept.
        """
        rows = dict(state["table"])
        if LOGITS in rows:
            rows[LOGITS] = F.pad(rows[LOGITS], (0, max(self.classes - rows[LOGITS].shape[1], 0)))
        super().load_state_dict({**state, "table": rows})
        self.seen = int(state["seen"])


def _only(batch: Batch, at: Tensor) -> Batch:
    """The stored rows at positions `at`."""
    own = {name: getattr(batch, name)[at] for name in ("y", "sample_id", "domain", "experience")}
    return replace(batch, x=batch.stored()[at], raw=None, new=len(at), extra={}, **own)
