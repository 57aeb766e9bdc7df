"""The progress bar of the epoch under way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clkd.schedules.base import Progress
from clkd.tracking.console import progress as draw


@dataclass(slots=True)
class Bar:
    """Told of every step; draws one bar per epoch where a person watches, and nothing elsewhere."""

    quiet: bool
    what: str = "experience"
    drawn: Any = None

    def __call__(self, progress: Progress) -> None:
        if progress.epoch_step == 0 or self.drawn is None:
            place = f"{self.what} {progress.experience} ({progress.experience + 1}/{progress.experiences})"
            self.drawn = draw(progress.epoch_steps, f"{place} epoch {progress.epoch + 1}/{progress.epochs}", self.quiet)
            self.drawn.update(progress.epoch_step)  # of an epoch that goes on
        self.drawn.update()
        if progress.epoch_step == progress.epoch_steps - 1:
            self.drawn.close()
