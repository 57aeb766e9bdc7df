"""A sliding window: the newest rows of the stream."""

from __future__ import annotations

from typing import Any

import torch

from clkd import Batch, Memory, Signals

COLUMNS = ("x", "y", "sample_id", "domain", "experience")


class Latest(Memory):
    """Keeps the last `size` rows that were offered. It forgets the far past by design: compare it with `reservoir`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.kept: Batch | None = None

    def observe(self, batch: Batch, signals: Signals) -> None:
        stored = {name: getattr(batch, name) for name in COLUMNS} | {"x": batch.stored()}
        if self.kept is not None:
            stored = {name: torch.cat([getattr(self.kept, name), rows]) for name, rows in stored.items()}
        self.kept = Batch(**{name: rows[-self.size :].clone() for name, rows in stored.items()}, new=0)

    def sample(self, n: int, generator: torch.Generator) -> Batch | None:
        if self.kept is None:
            return None
        at = torch.randperm(len(self), generator=generator)[:n].to(self.kept.y.device)
        return Batch(**{name: getattr(self.kept, name)[at] for name in COLUMNS}, new=0)

    def __len__(self) -> int:
        return 0 if self.kept is None else len(self.kept)

    def nbytes(self) -> int:
        return 0 if self.kept is None else sum(getattr(self.kept, name).nbytes for name in COLUMNS)

    def histogram(self) -> dict[int, int]:
        if self.kept is None:
            return {}
        classes, counts = torch.unique(self.kept.y, return_counts=True)
        return dict(zip(classes.tolist(), counts.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {} if self.kept is None else {name: getattr(self.kept, name) for name in COLUMNS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kept = Batch(**state, new=0) if state else None

    def to(self, device: torch.device | str) -> None:
        if self.kept is not None:
            self.kept = Batch(**{name: getattr(self.kept, name).to(device) for name in COLUMNS}, new=0)
