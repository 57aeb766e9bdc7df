"""The hot step: one batch, from stored pixels to updated weights. Nothing here waits for the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from clkd.engine.parts import Parts
from clkd.engine.term import STUDENT
from clkd.errors import UserError
from clkd.schedules.base import Progress, value_of
from clkd.signals import Batch


@dataclass
class Step:
    """What one experience's steps share. `terms` of the result are unweighted, `loss` is the weighted sum."""

    parts: Parts
    optimizer: Optimizer
    progress: Progress
    replay: int
    clip_norm: float | None = None
    replay_draws: int = 1
    rows: int = 0
    """Rows seen so far, replayed ones included."""

    def __post_init__(self) -> None:
        # What cannot change within an experience is looked up once, not per batch.
        parts = self.parts
        self.terms = parts.active()
        self.needs = {name: parts.needs(name) for name in (STUDENT, *parts.teachers)}
        self.speakers = {term.teacher: parts.teachers[term.teacher] for term in self.terms if term.teacher}
        self.trained = list(parts.parameters())

    def __call__(self, new: Batch, draws: torch.Generator, noise: torch.Generator) -> dict[str, Tensor]:
        """Learn from `new` rows and as many replayed ones as the memory gives."""
        parts, progress = self.parts, self.progress
        rows = new.joined(*(parts.memory.sample(self.replay, draws) for _ in range(self.replay_draws)))
        batch = parts.augment.look(rows, noise, progress.epoch)

        student = parts.student.signals(batch.x, self.needs[STUDENT])
        said = {STUDENT: student} | {name: t.signals(batch, self.needs[name]) for name, t in self.speakers.items()}

        values = {term.name: term(batch, said, progress) for term in self.terms}
        weighted = [term.weighted(v, progress, student) for term in self.terms if (v := values[term.name]) is not None]
        if (shift := parts.transfer(batch, student)) is not None:
            values["transfer"] = shift
            weighted.append(value_of(parts.transfer_weight, progress, student) * shift)
        loss = _sum(weighted)

        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.trained, self.clip_norm)
        self.optimizer.step()

        self.rows += len(batch)
        if progress.epoch == 0:
            parts.memory.observe(batch.rows(0, batch.new), student.rows(0, batch.new))
        for teacher in parts.teachers.values():
            teacher.after_step(parts.student)
        for term in self.terms:
            term.loss.after_step(parts.student)
        return {"loss": loss.detach()} | {name: v.detach() for name, v in values.items() if v is not None}


def _sum(terms: list[Tensor]) -> Tensor:
    """In the scenario's order, starting from the first term itself, so that a single term stays what it is."""
    if not terms:
        raise UserError(
            "no loss has anything to say about this batch (all wait for a teacher or for replayed rows): add one "
            "about new rows, such as cross_entropy"
        )
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
