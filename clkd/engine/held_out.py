"""Rows of each experience that ordinary training does not see, and the few of them that are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import pad

from clkd.experience import Experience, Rows
from clkd.memory.class_balanced import ClassBalanced
from clkd.models.student import Student
from clkd.seeding import derive, generator
from clkd.streams.base import NEW, holdout


class HeldOut:
    """Holds out `share` of each class's new rows, and keeps at most `size` of all that were: as many of every class.

    Which rows are held out depends on the seed and the experiences so far. One that comes again, in whatever guise, is
    held out whenever it comes, or never: nobody trains on it meanwhile.
    """

    def __init__(self, share: float, size: int, seed: int, device: torch.device) -> None:
        self.share, self.seed = share, seed
        self.memory = ClassBalanced(size, derive(seed, HELD), device)
        self.coming: Rows | None = None
        """Those of the experience under way."""
        self.fate = torch.zeros(0, dtype=torch.uint8)
        """What became of each row so far, as `clkd.streams.base` tells it."""

    def cut(self, experience: Experience) -> Experience:
        """The experience without the rows that are held out: of each class, as many as `share` says, but at least one
        where there are two. To cut it again changes nothing."""
        rows = experience.train
        y, ids = rows.y.cpu(), rows.sample_id.cpu()
        self.fate = pad(self.fate, (0, max(int(ids.max()) + 1 - len(self.fate), 0)), value=NEW)
        fate, draw = self.fate[ids], generator(self.seed, HELD, experience.index)
        stays, held = holdout(y, torch.arange(len(y)), self.share, draw, fate, least=1)
        self.fate[ids] = fate
        self.coming = rows.select(held.to(rows.y.device))
        return replace(experience, train=rows.select(stays.to(rows.y.device)))

    def end(self, experience: Experience, student: Student) -> None:
        """Take in the held-out rows of an experience that was cut."""
        assert self.coming is not None, "an experience is cut before it is trained"
        self.memory.end(replace(experience, train=self.coming), student)

    def state_dict(self) -> dict[str, Any]:
        return {**self.memory.state_dict(), "fate": self.fate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.fate = state.get("fate", self.fate)  # earlier versions kept no account of it
        self.memory.load_state_dict({name: value for name, value in state.items() if name != "fate"})


HELD = "held_out"
"""What its random numbers are for."""
