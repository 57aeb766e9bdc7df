"""Training one experience: epochs of shuffled batches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from clkd.engine.batches import batches, named
from clkd.engine.carry import carry_state
from clkd.engine.course import Course
from clkd.engine.guard import Guard, NonFiniteError, refuse_broken_weights
from clkd.engine.parts import Parts
from clkd.engine.planned import epochs_of
from clkd.engine.shares import metrics_of
from clkd.engine.step import Step
from clkd.experience import Experience, Rows
from clkd.optimizers import build_optimizer, build_scheduler, drop_subnormals
from clkd.ranks import ALONE, Ranks
from clkd.scenario.train import TrainOptions
from clkd.schedules.base import Progress
from clkd.seeding import derive, generator
from clkd.signals import Batch

CHECK_EVERY = 50
"""Steps between looks at the running sums, and at what the optimizer remembers: often enough to stop a diverged run and
to keep subnormal numbers few, too rare to cost anything."""


class Arrival(NamedTuple):
    """How to go on within a phase: which, after how many epochs of the experience it began, and what brings the parts
    to where an earlier process stopped."""

    place: int
    first: int
    fill: Callable[[], None]


@dataclass(slots=True)
class Loop:
    """Trains the parts on one experience after another.

    `on_epoch` is told each epoch's means; `on_step` each step taken, once everything is where the next step finds it:
    there, the state of the `course` may be taken. Random draws come from generators derived from (seed, purpose,
    experience, epoch), so that nothing has to be remembered to go on from an experience's end.
    """

    parts: Parts
    options: TrainOptions
    seed: int
    limit_batches: int | None = None
    on_epoch: Callable[[Experience, dict[str, float]], None] = lambda experience, metrics: None
    on_step: Callable[[Progress], None] = lambda progress: None
    ranks: Ranks = ALONE
    progress: Progress = field(default_factory=Progress)
    optimizer: Optimizer | None = None
    rows: int = 0
    """Rows trained on in the epochs so far, replayed ones included."""
    arrive: Callable[[Course], None] | None = None
    """Brings the experience that is entered next to the step where an earlier process stopped."""
    guarded: bool = False
    """Whether to look at each step before it is taken, and to leave out those that are no numbers."""
    online: bool = False
    """Whether rows come in the order of their arrival, where the stream knows one."""
    course: Course | None = None
    """The experience under way."""
    first: int = 0
    """Epochs of the experience that came before this training."""
    place: int | None = None
    """Which phase it is, if it is one."""
    section: str = "train."
    """Where the scenario has its options, if it is no phase."""
    phase: Loop | None = None
    """The phase under way."""
    arrival: Arrival | None = None
    """Where `arrive` leads to, if that is within a phase."""

    def train(self, experience: Experience, replaced: list[tuple[nn.Parameter, nn.Parameter]]) -> None:
        """Train `experience`, for which the parts were made ready; `replaced` is what the head's growth replaced."""
        own = () if self.ranks.first else (self.ranks.rank,)
        torch.manual_seed(derive(self.seed, "train", experience.index, *own))  # dropout and the like
        rows = experience.train.ready(self.parts.device)
        kept = self._kept(rows)
        self._enter(experience, len(rows) + len(kept or ()))
        self.optimizer = self._fresh_optimizer(replaced)
        ordered = self.online and rows.ordered
        self.course = Course(self._step(self.optimizer), self._schedule(self.optimizer), rows, self.seed, ordered, kept)
        self.parts.train()
        if self.arrive is not None:
            self.arrive(self.course)
            self.arrive = None
        for epoch in range(self.progress.epoch, self.progress.epochs):
            if epoch > self.progress.epoch:
                self.course.enter(epoch)
            means = self._epoch(self.course)
            self.on_epoch(experience, means)
        refuse_broken_weights(self.parts, self.progress)
        self.course = None
        for student in self.parts.students.values():
            student.eval()
        self.parts.settle(self.ranks)

    def _kept(self, rows: Rows) -> Batch | None:
        """What memory keeps beside `rows`, the experience's own, where it is mixed into them."""
        memory = self.parts.memory
        kept = memory.sample(len(memory), generator(0)) if self.options.mix_memory else None
        return kept if kept is None else rows.beside(kept)

    def _enter(self, experience: Experience, rows: int) -> None:
        p = self.progress
        p.experience, p.experiences = experience.index, experience.count
        p.old_classes, p.seen_classes = len(experience.old_classes), len(experience.seen)
        p.epochs, p.epoch_steps = epochs_of(self.options, rows, self.limit_batches)

    def _fresh_optimizer(self, replaced: list[tuple[nn.Parameter, nn.Parameter]]) -> Optimizer:
        fresh = build_optimizer(self.options.optimizer, self.parts.parameters(), self.where)
        if self.options.keep_optimizer and self.optimizer is not None:
            carry_state(self.optimizer, fresh, replaced)
        return fresh

    def _step(self, optimizer: Optimizer) -> Step:
        options = self.options
        replay = options.replay_batch_size or options.batch_size
        guard = None
        if self.guarded or options.on_nan == "skip":
            guard = Guard(self.parts, self.progress, self.ranks, 0 if self.guarded else options.most_skips)
        return Step(
            self.parts,
            optimizer,
            self.progress,
            replay,
            options.clip_norm,
            options.clip_value,
            options.replay_draws,
            self.ranks,
            guard,
            options.gradient_noise,
            options.gradient_shares,
        )

    def _schedule(self, optimizer: Optimizer) -> dict[str, LRScheduler]:
        """The learning rate's schedule under the moment it moves at: `epoch` or `step`."""
        if self.options.scheduler is None:
            return {}
        epochs, steps = self.progress.epochs, self.progress.epoch_steps
        schedule = build_scheduler(self.options.scheduler, optimizer, epochs, steps, self.where)
        # Torch would warn where its first move comes before a step, which an earlier process may have taken.
        setattr(optimizer, "_opt_called", True)  # noqa: B010  # it is torch's own and has no type
        return {self.options.scheduler.every: schedule}

    def _epoch(self, course: Course) -> dict[str, float]:
        """Train what is left of the epoch, and give the means of all of it."""
        p, size = self.progress, self.options.batch_size
        step, epoch, schedule = course.step, course.epoch, course.schedule
        order = epoch.order[epoch.done * size : p.epoch_steps * size]
        order, sizes, mixed = course.apart(order, size)
        with closing(batches(course.rows, order, sizes, self.parts.device)) as coming:
            for new, kept in zip(named(coming, course.labelled, order, sizes), mixed, strict=False):
                p.epoch_step = epoch.done
                epoch.meter.add(step(new, epoch.draws, epoch.noise, kept))
                p.step += 1
                epoch.done += 1
                if "step" in schedule:
                    schedule["step"].step()
                if epoch.done % CHECK_EVERY == 0:
                    epoch.meter.refuse_nonfinite(p)
                if p.step % CHECK_EVERY == 0:  # an epoch may have fewer steps
                    drop_subnormals(step.optimizer)
                self.on_step(p)
        if "epoch" in schedule:
            schedule["epoch"].step()
        self.rows += step.rows
        step.rows = 0
        means = epoch.meter.means(p)
        return {
            **metrics_of(means, step.constant),
            "train/lr": epoch.lr,
            **({"train/skipped_steps": step.guard.skipped} if step.guard else {}),
        }

    @property
    def where(self) -> str:
        """What its options stand below in the scenario."""
        return self.section if self.place is None else f"phases.{self.place}."

    @property
    def now(self) -> Loop:
        """The training under way: this one, or a phase of the experience."""
        return self.phase or self

    @property
    def rows_so_far(self) -> int:
        """Rows trained on, those of the epoch under way included."""
        return self.rows + (self.course.step.rows if self.course else 0)

    def broke(self) -> NonFiniteError | None:
        """What to stop with, if the step just taken was skipped as no number and was one too many."""
        guard = self.course.step.guard if self.course else None
        return guard.gives_up() if guard else None


def is_check(progress: Progress) -> bool:
    """Whether ranks look up from their work after this step: rarely, and at each epoch's end."""
    place = progress.epoch_step + 1
    return place % CHECK_EVERY == 0 or place == progress.epoch_steps
