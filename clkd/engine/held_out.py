"""Rows of each experience that ordinary training does not see, and the few of them that are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from clkd.experience import Experience, Rows
from clkd.memory.class_balanced import ClassBalanced
from clkd.models.student import Student
from clkd.seeding import derive, generator


class HeldOut:
    """Holds out `share` of each class's new rows, and keeps at most `size` of all that were: as many of every class.

    Which rows are held out depends on the seed and the experience alone.
    """

    def __init__(self, share: float, size: int, seed: int, device: torch.device) -> None:
        self.share, self.seed = share, seed
        self.memory = ClassBalanced(size, derive(seed, HELD), device)
        self.coming: Rows | None = None
        """Those of the experience under way."""

    def cut(self, experience: Experience) -> Experience:
        """The experience without the rows that are held out: of each class, as many as `share` says, but at least one
        where there are two."""
        y = experience.train.y.cpu()
        order = torch.randperm(len(y), generator=generator(self.seed, HELD, experience.index))
        held = torch.zeros(len(y), dtype=torch.bool)
        for c in torch.unique(y[y >= 0]).tolist():
            rows = order[y[order] == c]
            held[rows[: max(int(self.share * len(rows)), min(1, len(rows) - 1))]] = True
        held = held.to(experience.train.y.device)
        self.coming = experience.train.select(held)
        return replace(experience, train=experience.train.select(~held))

    def end(self, experience: Experience, student: Student) -> None:
        """Take in the held-out rows of an experience that was cut."""
        assert self.coming is not None, "an experience is cut before it is trained"
        self.memory.end(replace(experience, train=self.coming), student)

    def state_dict(self) -> dict[str, Any]:
        return self.memory.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory.load_state_dict(state)


HELD = "held_out"
"""What its random numbers are for."""
