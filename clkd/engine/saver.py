"""When a run is saved, and under which names: each experience's end, and one place within the experience under way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clkd import checkpoint
from clkd.disk import sync
from clkd.engine.directory import RunDirectory
from clkd.ranks import ALONE, Ranks
from clkd.scenario.model import CheckpointOptions
from clkd.tracking.events import FILE

STEP = "step"
"""The checkpoint within an experience. Each replaces the one before, and the experience's end replaces them all."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint as it was read: one within an experience comes with the one that the experience was entered from."""

    path: Path
    state: dict[str, Any]
    entry: dict[str, Any] | None = None


@dataclass(slots=True)
class Saver:
    """Writes a run's checkpoints. Rank 0 writes; whether it is time to, all ranks find together."""

    directory: RunDirectory
    options: CheckpointOptions
    ranks: Ranks = ALONE
    clock: Callable[[], float] = time.monotonic
    last: Path | None = None
    entry: str | None = None
    """The checkpoint that the experience under way was entered from; None in the first."""
    since: float = field(init=False)
    """When the last one was written."""

    def __post_init__(self) -> None:
        self.since = self.clock()

    def due(self, step: int, looks: bool) -> bool:
        """Whether it is time to save, after the run's `step`-th step. `looks`: whether ranks look at each other now."""
        counted = self.options.every_steps is not None and step % self.options.every_steps == 0
        if self.options.every_minutes is None or not looks:
            return counted
        late = self.clock() - self.since >= 60 * self.options.every_minutes
        return bool(self.ranks.highest(int(late))) or counted

    def end(self, experience: int, state: dict[str, Any]) -> None:
        """Save an experience's end."""
        self.entry = f"exp_{experience:03d}"
        self._save(self.entry, state, self.options.keep)
        if self.ranks.first:
            checkpoint.remove(self.directory.checkpoints / STEP)

    def step(self, state: dict[str, Any]) -> None:
        """Save a place within the experience."""
        self._save(STEP, state, None, needs=(state.get("within") or {}).get("entry"))

    def _save(self, name: str, state: dict[str, Any], keep: int | None, needs: str | None = None) -> None:
        if self.ranks.first:
            if (lines := self.directory.path / FILE).exists():
                sync(lines)  # what the checkpoint counts as told must be there after a power cut, too
            self.last = checkpoint.save(self.directory.checkpoints, name, state, keep=keep, beside=(STEP,), needs=needs)
        self.since = self.clock()


def newest(directory: Path) -> Saved | None:
    """The newest checkpoint that can be gone on from."""
    last = checkpoint.latest(directory)
    if last is None:
        return None
    state = checkpoint.load(last)
    entry = (state.get("within") or {}).get("entry")
    return Saved(last, state, checkpoint.load(directory / entry) if entry else None)
