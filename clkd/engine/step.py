"""The hot step: one batch, from stored pixels to updated weights. Nothing here waits for the device but a guard."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from torch.optim import Optimizer

from clkd.engine.guard import Guard
from clkd.engine.objective import Objective, further
from clkd.engine.parts import Parts
from clkd.engine.penalties import Penalties
from clkd.engine.projection import Projection
from clkd.engine.shares import constant_weights, gradient_shares, moving
from clkd.losses.classification import CrossEntropy
from clkd.memory.retrieval import Moment
from clkd.ranks import ALONE, Ranks
from clkd.scenario.train import GradientNoise
from clkd.schedules.base import Progress
from clkd.seeding import generator
from clkd.signals import Batch, Signals


@dataclass
class Step:
    """What one experience's steps share. Terms of the result are unweighted, `loss` is their weighted sum."""

    parts: Parts
    optimizer: Optimizer
    progress: Progress
    replay: int
    clip_norm: float | None = None
    clip_value: float | None = None
    replay_draws: int = 1
    ranks: Ranks = ALONE
    guard: Guard | None = None
    disturbance: GradientNoise | None = None
    shares: int | None = None
    """Steps from one look at each term's share of the gradient to the next."""
    rows: int = 0
    """Rows seen so far, replayed ones and those of all ranks included."""

    def __post_init__(self) -> None:
        self.objective = Objective(self.parts, self.progress, self.ranks).spread()
        self.penalties = Penalties.of(self.parts, self.progress, self.ranks)
        self.projection = Projection.of(self.parts, self.objective, self.optimizer, self.progress, self.ranks)
        self.students, self.terms = self.parts.students, self.parts.active()
        self.trained = self.parts.parameters_of_each()
        self.moved = [p for group in self.optimizer.param_groups for p in group["params"]]
        teachers, students = self.parts.teachers.values(), self.students
        # A phase trains the student alone: teachers that are made of its peers stand still.
        self.followers = [(teacher, students[teacher.of]) for teacher in teachers if teacher.of in students]
        self.views = max(self.parts.views(name) for name in self.students)
        self.graphs = any(getattr(model.runner, "graphs", False) for model in self.students.values())
        self.constant = constant_weights(self.parts)
        self.losses = CrossEntropy()
        self.losses.bind(self.parts.student.spec(), None)
        self.losses.to(self.parts.device)

    def __call__(
        self, new: Batch, draws: torch.Generator, noise: torch.Generator, kept: Batch | None = None
    ) -> dict[str, Tensor]:
        """Learn from `new` rows, and from those that memory `kept` and are among them, or as many as are drawn from it.

        Nothing is learned from a step the guard stops.
        """
        parts, progress = self.parts, self.progress
        if self.graphs:  # however many students and views there are: a second mark gives away what the first pass keeps
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # torch gives it no types
        rows = new.joined(*self._replayed(new, draws) if kept is None else [kept])
        batch = parts.augment.look(rows, noise, progress.epoch)
        if self.guard:
            self.guard.remember()
        if self.projection:
            batch = self.projection.refer(batch)

        share, views = self.ranks.share(batch), self._own_views(rows, noise) | self._further_views(rows, noise)
        loss, values, weighted, student = self.objective(share, batch, views)
        if self.penalties:
            self.penalties.weigh(share, student, values, weighted)
        shares = gradient_shares(weighted, parts) if self.shares and progress.step % self.shares == 0 else {}

        for parameter in self.moved:  # as zero_grad does, which takes ten times as long to get there
            parameter.grad = None
        torch.autograd.backward(loss, retain_graph=self.guard is not None)
        if self.penalties:
            loss = self.penalties.backward(loss, retain_graph=self.guard is not None)
        told = self.projection.project() if self.projection else {}
        if self.guard and not self.guard.passes(loss, values):
            return {}
        self._clip()
        if self.disturbance:
            self._disturb(self.disturbance, noise)
        self.optimizer.step()
        for model in self.students.values():
            model.head.after_step()

        self.rows += len(rows)
        if progress.epoch == 0 or parts.memory.every_epoch:
            self._offer(batch, share, student)
        told |= parts.memory.learn(rows)
        for teacher, model in self.followers:
            teacher.after_step(model)
        for term in self.terms:
            term.loss.after_step(self.students[term.a.model])
        raw = {"loss": loss.detach()} | {name: value.detach() for name, value in values.items()}
        return raw | moving(weighted, self.constant) | shares | told

    def _replayed(self, new: Batch, draws: torch.Generator) -> list[Batch | None]:
        parts = self.parts
        return parts.retrieval(parts.memory, self.replay, self.replay_draws, draws, self._moment(new))

    def _clip(self) -> None:
        """Cut gradients off, number by number or as a whole."""
        for parameters in self.trained:
            if self.clip_value is not None:
                torch.nn.utils.clip_grad_value_(parameters, self.clip_value)
            if self.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)

    def _disturb(self, options: GradientNoise, noise: torch.Generator) -> None:
        """Add noise to the gradient; no one else's draws move, and those of a resumed run are the same."""
        progress, device = self.progress, self.parts.device
        t = progress.epoch * progress.epoch_steps + progress.epoch_step
        sigma = (options.eta / (1 + t) ** options.gamma) ** 0.5
        draws = generator(noise.initial_seed(), "gradient", progress.epoch_step, device=device)
        for parameter in chain(*self.trained):
            if parameter.grad is not None:
                parameter.grad.add_(torch.randn(parameter.shape, generator=draws, device=device), alpha=sigma)

    def _moment(self, new: Batch) -> Moment:
        """What a retrieval may look at."""
        student, plain, lr = self.parts.student, self.parts.augment.plain, self.optimizer.param_groups[0]["lr"]
        return Moment(new, student, plain, self.losses, lr, self.ranks)

    def _offer(self, batch: Batch, share: Batch, student: Signals) -> None:
        """The new rows to the memory, and the replayed ones with them where it compares."""
        memory = self.parts.memory
        kinds, own = ((batch.new, *batch.draws), len(share)) if memory.compares else ((batch.new,), share.new)
        said = self.ranks.whole(student.rows(0, own), kinds, memory.needs)
        memory.observe(*memory.eligible(batch.rows(0, sum(kinds)).by_itself(), said))

    def _own_views(self, rows: Batch, noise: torch.Generator) -> dict[str, Tensor]:
        """This rank's share of the rows as each peer sees them that has a view of its own; no one else's draws move."""
        place = self.progress.epoch_step
        looks = {name: generator(noise.initial_seed(), name, place) for name in self.parts.own_views}
        views = {name: self.parts.augment.look(rows, draws, self.progress.epoch) for name, draws in looks.items()}
        return {name: self.ranks.share(view).x for name, view in views.items()}

    def _further_views(self, rows: Batch, noise: torch.Generator) -> dict[str, Tensor]:
        """The same in as many further views as losses ask for, where there are any: also with draws of their own."""
        augment, place = self.parts.augment, self.progress.epoch_step
        names = [further(k) for k in range(1, self.views)] if augment.varies else []
        looks = {name: generator(noise.initial_seed(), name, place) for name in names}
        return {name: self.ranks.share(augment.further(rows, draws)).x for name, draws in looks.items()}
