"""The hot step: one batch, from stored pixels to updated weights. Nothing here waits for the device but a guard."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from clkd.engine.guard import Guard
from clkd.engine.objective import Objective
from clkd.engine.parts import Parts
from clkd.engine.shares import constant_weights, gradient_shares, moving
from clkd.ranks import ALONE, Ranks
from clkd.schedules.base import Progress
from clkd.signals import Batch


@dataclass
class Step:
    """What one experience's steps share. Terms of the result are unweighted, `loss` is their weighted sum."""

    parts: Parts
    optimizer: Optimizer
    progress: Progress
    replay: int
    clip_norm: float | None = None
    replay_draws: int = 1
    ranks: Ranks = ALONE
    guard: Guard | None = None
    shares: int | None = None
    """Steps from one look at each term's share of the gradient to the next."""
    rows: int = 0
    """Rows seen so far, replayed ones and those of all ranks included."""

    def __post_init__(self) -> None:
        self.objective = Objective(self.parts, self.progress, self.ranks).spread()
        self.terms = self.parts.active()
        self.trained = list(self.parts.parameters())
        self.constant = constant_weights(self.parts)

    def __call__(self, new: Batch, draws: torch.Generator, noise: torch.Generator) -> dict[str, Tensor]:
        """Learn from `new` rows and as many replayed ones as the memory gives; nothing from a step the guard stops."""
        parts, progress = self.parts, self.progress
        rows = new.joined(*(parts.memory.sample(self.replay, draws) for _ in range(self.replay_draws)))
        batch = parts.augment.look(rows, noise, progress.epoch)
        share = self.ranks.share(batch)

        if self.guard:
            self.guard.remember()
        loss, values, weighted, student = self.objective(share, batch)
        shares = gradient_shares(weighted, parts) if self.shares and progress.step % self.shares == 0 else {}

        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss, retain_graph=self.guard is not None)
        if self.guard and not self.guard.passes(loss, values):
            return {}
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.trained, self.clip_norm)
        self.optimizer.step()

        self.rows += len(batch)
        if progress.epoch == 0:
            said = self.ranks.whole(student.rows(0, share.new), batch.new, parts.memory.needs)
            parts.memory.observe(*parts.memory.eligible(batch.rows(0, batch.new), said))
        for teacher in parts.teachers.values():
            teacher.after_step(parts.student)
        for term in self.terms:
            term.loss.after_step(parts.student)
        raw = {"loss": loss.detach()} | {name: value.detach() for name, value in values.items()}
        return raw | moving(weighted, self.constant) | shares
