"""Training one experience: epochs of shuffled batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from clkd.engine.batches import batches
from clkd.engine.carry import carry_state
from clkd.engine.meter import Meter
from clkd.engine.parts import Parts
from clkd.engine.step import Step
from clkd.experience import Experience, Rows
from clkd.optimizers import build_optimizer, build_scheduler
from clkd.ranks import ALONE, Ranks
from clkd.scenario.model import TrainOptions
from clkd.schedules.base import Progress
from clkd.seeding import derive, generator

CHECK_EVERY = 50
"""Steps between looks at the running sums: often enough to stop a diverged run, too rare to cost anything."""


@dataclass(slots=True)
class Loop:
    """Trains the parts on one experience after another.

    `on_epoch` is told each epoch's means; `on_step` each step taken. Random draws come from generators derived from
    (seed, purpose, experience, epoch), so that nothing has to be remembered to go on from an experience's end.
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
    """Rows trained on so far, replayed ones included."""

    def train(self, experience: Experience, replaced: list[tuple[nn.Parameter, nn.Parameter]]) -> None:
        """Train `experience`, for which the parts were made ready; `replaced` is what the head's growth replaced."""
        own = () if self.ranks.first else (self.ranks.rank,)
        torch.manual_seed(derive(self.seed, "train", experience.index, *own))  # dropout and the like
        rows = experience.train.ready(self.parts.device)
        self._enter(experience, len(rows))
        self.optimizer = self._optimizer(replaced)
        schedule = self._schedule()
        replay = self.options.replay_batch_size or self.options.batch_size
        draws = self.options.replay_draws
        step = Step(self.parts, self.optimizer, self.progress, replay, self.options.clip_norm, draws, self.ranks)
        self.parts.student.train()
        for epoch in range(self.progress.epochs):
            self.progress.epoch = epoch
            means = self._epoch(step, rows, experience.index, schedule)
            self.on_epoch(experience, means)
        self.parts.student.eval()
        self.parts.settle(self.ranks)

    def _enter(self, experience: Experience, rows: int) -> None:
        p = self.progress
        p.experience, p.experiences = experience.index, experience.count
        p.old_classes, p.seen_classes = len(experience.old_classes), len(experience.seen)
        steps = self._steps(rows)
        p.epochs = max(self.options.epochs, math.ceil(self.options.min_steps / steps))
        p.epoch_steps = min(steps, self.limit_batches or steps)

    def _steps(self, rows: int) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(rows, self.options.batch_size)
        return whole + (rest > 0 and (whole == 0 or not self.options.drop_last))

    def _optimizer(self, replaced: list[tuple[nn.Parameter, nn.Parameter]]) -> Optimizer:
        fresh = build_optimizer(self.options.optimizer, self.parts.parameters())
        if self.options.keep_optimizer and self.optimizer is not None:
            carry_state(self.optimizer, fresh, replaced)
        return fresh

    def _schedule(self) -> dict[str, LRScheduler]:
        """The learning rate's schedule under the moment it moves at: `epoch` or `step`."""
        if self.options.scheduler is None or self.optimizer is None:
            return {}
        epochs, steps = self.progress.epochs, self.progress.epoch_steps
        schedule = build_scheduler(self.options.scheduler, self.optimizer, epochs, steps)
        return {self.options.scheduler.every: schedule}

    def _epoch(self, step: Step, rows: Rows, experience: int, schedule: dict[str, LRScheduler]) -> dict[str, float]:
        epoch, size, device = self.progress.epoch, self.options.batch_size, self.parts.device
        order = torch.randperm(len(rows), generator=generator(self.seed, "order", experience, epoch))
        draws = generator(self.seed, "replay", experience, epoch)
        noise = generator(self.seed, "augment", experience, epoch)
        meter = Meter(self.ranks)
        lr = self._lr()
        order = order[: self.progress.epoch_steps * size]
        with closing(batches(rows, order, size, device)) as coming:
            for place, new in enumerate(coming):
                self.progress.epoch_step = place
                meter.add(step(new, draws, noise))
                self.progress.step += 1
                self.on_step(self.progress)
                if "step" in schedule:
                    schedule["step"].step()
                if place % CHECK_EVERY == CHECK_EVERY - 1:
                    meter.refuse_nonfinite(self.progress)
        if "epoch" in schedule:
            schedule["epoch"].step()
        self.rows += step.rows
        step.rows = 0
        means = meter.means(self.progress)
        return {f"train/{name if name == 'loss' else f'loss_{name}'}": mean for name, mean in means.items()} | {
            "train/lr": lr
        }

    def _lr(self) -> float:
        assert self.optimizer is not None, "train() makes the optimizer before the first epoch"
        return float(self.optimizer.param_groups[0]["lr"])


def is_check(progress: Progress) -> bool:
    """Whether ranks look up from their work after this step: rarely, and at each epoch's end."""
    place = progress.epoch_step + 1
    return place % CHECK_EVERY == 0 or place == progress.epoch_steps
