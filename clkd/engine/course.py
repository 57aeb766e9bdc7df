"""One experience under way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from clkd.engine.batches import cut
from clkd.engine.epoch import Epoch
from clkd.engine.guard import refuse_broken_weights
from clkd.engine.meter import Meter
from clkd.engine.step import Step
from clkd.experience import Rows
from clkd.signals import Batch


@dataclass(slots=True)
class Course:
    """What lives from an experience's first step to its last, beside the parts.

    Attributes:
        step: with the optimizer, the progress and the guard.
        schedule: the learning rate's, under the moment it moves at: `epoch` or `step`.
        rows: the experience's own, ready.
        labelled: which of them have a label, on the CPU; None where all have.
        ordered: whether rows come in their own order, not shuffled.
        kept: what memory keeps, where that is mixed into the rows; positions count it behind them.
        epoch: the one under way.
    """

    step: Step
    schedule: dict[str, LRScheduler]
    rows: Rows
    seed: int
    ordered: bool = False
    kept: Batch | None = None
    epoch: Epoch = field(init=False)
    labelled: Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        self.labelled = self.rows.labelled()
        if (labels := self.step.parts.labels(self.rows)) is not None:
            for term in self.step.terms:
                term.loss.foresee(labels)
        self.enter(0)

    def enter(self, epoch: int) -> None:
        """Begin an epoch."""
        progress = self.step.progress
        progress.epoch = epoch
        lr = float(self.step.optimizer.param_groups[0]["lr"])
        place = progress.experience, epoch
        rows = len(self.rows) + len(self.kept or ())
        self.epoch = Epoch.drawn(rows, self.seed, place, Meter(self.step.ranks), lr, self.ordered)

    def apart(self, order: Tensor, size: int) -> tuple[Tensor, int | list[int], Iterator[Batch | None]]:
        """Of the batches of `size` in `order`: the experience's own rows, how many of them are in each, and the rows
        of memory that come behind them; None where none are mixed in."""
        if self.kept is None:
            return order, size, repeat(None)
        kept, new = self.kept, len(self.rows)
        own = [at[at < new] for at in cut(order, size)]
        mixed = [at[at >= new] - new for at in cut(order, size)]
        # All at once: a copy makes a GPU's steps wait.
        places = torch.split(torch.cat([order[:0], *mixed]).to(kept.y.device), [len(at) for at in mixed])
        return torch.cat([order[:0], *own]), [len(at) for at in own], (kept.pick(at[:0], at) for at in places)

    def state_dict(self) -> dict[str, Any]:
        """All that changes from step to step and is in no part. All ranks have to ask together, between two steps.

        Raises:
            NonFiniteError: a loss or a weight is no number any more, so that this is nothing to go on from.
        """
        step = self.step
        self.epoch.meter.refuse_nonfinite(step.progress)
        refuse_broken_weights(step.parts, step.progress)
        return {
            "progress": {"epoch": step.progress.epoch, "step": step.progress.step},
            "optimizer": step.optimizer.state_dict(),
            "schedule": {moment: schedule.state_dict() for moment, schedule in self.schedule.items()},
            "skipped": step.guard.skipped if step.guard else 0,
            "epoch": self.epoch.state_dict(),
            "ranks": step.ranks.gather(self._own_state()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state_dict` was taken, in an experience that was entered as it was then."""
        step = self.step
        step.progress.step = state["progress"]["step"]
        step.optimizer.load_state_dict(state["optimizer"])
        for moment, schedule in self.schedule.items():
            schedule.load_state_dict(state["schedule"][moment])
        if step.guard:
            step.guard.skipped = state["skipped"]
        self.enter(state["progress"]["epoch"])
        self.epoch.load_state_dict(state["epoch"])
        self._load_own_state(state["ranks"][step.ranks.rank])

    def _own_state(self) -> dict[str, Any]:
        """What differs from rank to rank: global generators, sums, and buffers that follow a rank's own rows."""
        device, alone = self.step.parts.device, self.step.ranks.alone
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return {
            "random": {"cpu": torch.get_rng_state(), "cuda": cuda},
            "meter": self.epoch.meter.state_dict(),
            "buffers": [] if alone else [buffer.cpu() for buffer in self.step.parts.own_buffers()],
        }

    def _load_own_state(self, own: dict[str, Any]) -> None:
        device = self.step.parts.device
        self.epoch.meter.load_state_dict(own["meter"], device)
        for buffer, saved in zip(self.step.parts.own_buffers(), own["buffers"], strict=False):
            buffer.copy_(saved)
        torch.set_rng_state(own["random"]["cpu"])
        if own["random"]["cuda"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(own["random"]["cuda"], device)
