"""The base of regularisers that look at an experience's rows once more when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from clkd.losses.regulariser import Regulariser, Vectors, zeros
from clkd.losses.sensitivity import chunk_of, sensitivity
from clkd.seeding import generator
from clkd.signals import Batch

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student

Over = Literal["auto", "all", "seen", "new"]


class Measured(Regulariser):
    """Ω is a mean over rows of what each row's own gradient says, the student in eval mode; override `directions`.

    Args:
        over: which columns of the head are looked at.
        rows: how many of the experience's rows, drawn at random; None for all.
        seed: for that draw.
    """

    power: float

    def __init__(self, over: Over, rows: int | None, seed: int) -> None:
        super().__init__()
        self.over, self.rows, self.seed = over, rows, seed

    def review(self, rows: Iterator[Batch], experience: Experience, student: Student) -> None:
        columns = competing(student, experience, self.over)
        total, count = zeros(self.parameters_now), 0
        draws = generator(self.seed, "labels", experience.index)
        with student.teaching():
            for batch in _pieces(self._drawn(rows, experience), chunk_of(student, len(columns))):
                seen, pulls, shares = self._directed(batch, student, columns, draws)
                if len(seen):
                    found = sensitivity(student, seen, columns, pulls, shares, self.power)
                    total = {name: total[name] + found[name] for name in total}
                    count += len(seen)
        if count:
            self.settle({name: found / count for name, found in total.items()})

    def directions(self, logits: Tensor, target: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """`pulls` `[B, L, K]` and `shares` `[B, L]` of `sensitivity`, for logits `[B, K]` and labels `[B]` (-1: none).

        Rows whose shares are all 0 do not count.
        """
        raise NotImplementedError

    def settle(self, importance: Vectors) -> None:
        """What comes of an experience's importance."""
        raise NotImplementedError

    def _directed(
        self, batch: Batch, student: Student, columns: Tensor, draws: torch.Generator
    ) -> tuple[Batch, Tensor, Tensor]:
        """The rows that are looked at, as the student sees them, and in which directions."""
        seen = batch if student.view is None else batch.seen_as(student.view(batch.x))
        with torch.no_grad():
            logits = student.plain(seen.x, seen.domain)[:, columns]
        places = student.class_ids_tensor[columns] == batch.y[:, None]
        target = torch.where(places.any(1), places.int().argmax(1), -1)
        pulls, shares = self.directions(logits, target, draws)
        looked_at = shares.any(1).nonzero().squeeze(1)
        return seen.pick(looked_at), pulls[looked_at], shares[looked_at]

    def _drawn(self, rows: Iterator[Batch], experience: Experience) -> Iterator[Batch]:
        count = len(experience.train)
        if self.rows is None or self.rows >= count:
            yield from rows
            return
        order = torch.randperm(count, generator=generator(self.seed, "rows", experience.index))
        chosen, start = torch.zeros(count, dtype=torch.bool).index_fill_(0, order[: self.rows], True), 0
        for batch in rows:
            at = chosen[start : start + len(batch)].nonzero().squeeze(1).to(batch.y.device)
            start += len(batch)
            if len(at):
                yield batch.pick(at)


def _pieces(rows: Iterator[Batch], size: int) -> Iterator[Batch]:
    for batch in rows:
        yield from (batch.rows(start, min(start + size, len(batch))) for start in range(0, len(batch), size))


def competing(student: Student, experience: Experience, over: Over) -> Tensor:
    """`[K]` int64, the columns among which the student decides: as in `cross_entropy`, a task-aware head's own."""
    over = ("new" if student.task_aware else "all") if over == "auto" else over
    known = zip(student.class_ids, student.born, strict=True)
    chosen = [
        place
        for place, (c, born) in enumerate(known)
        if over == "all" or (born >= 0 and (over == "seen" or c in experience.classes))
    ]
    return torch.tensor(chosen, dtype=torch.long, device=student.class_ids_tensor.device)
