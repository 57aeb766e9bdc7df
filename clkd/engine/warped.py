"""Rows for evaluation in their domain's guise, kept from one evaluation to the next while there is room."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from clkd.experience import Experience, Rows

ROOM = 2**28
"""Bytes of warped rows that are kept at most."""


@dataclass(slots=True)
class Warped:
    """Rows that were warped once, which takes longer than evaluating them. Whoever came first stays."""

    room: int = ROOM
    kept: dict[tuple[object, ...], tuple[Rows, Rows]] = field(default_factory=dict)
    """As stored and as warped, by what they are: a domain that comes back finds its rows, and is known by them."""
    nbytes: int = 0

    def __call__(self, experience: Experience, split: str, device: torch.device) -> Experience:
        """The experience with the rows of `split` warped; as it is where they need no warp, stream, or find no room."""
        rows: Rows = getattr(experience, split)
        if rows.warp is None or not rows.resident:
            return experience
        key = id(rows.x), id(rows.index), rows.warp
        if key not in self.kept:
            size = len(rows) * rows.x[:1].nbytes
            if self.nbytes + size > self.room:
                return experience
            self.nbytes += size
            self.kept[key] = rows, rows.ready(device)
        _, ready = self.kept[key]
        own = replace(ready, y=rows.y.to(device), domain=rows.domain, experience=rows.experience)
        changed: dict[str, Any] = {split: own}
        return replace(experience, **changed)
