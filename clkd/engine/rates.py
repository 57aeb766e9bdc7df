"""Optimizers and schedules of the learning rate, tried before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from clkd.engine.planned import epochs_of
from clkd.experience import Experience
from clkd.optimizers import LENGTH, OptimizerOptions, SchedulerOptions, build_optimizer, build_scheduler
from clkd.scenario.model import Scenario
from clkd.scenario.phase import HELD_OUT

SOME = 10_007
"""Steps, where it is not known how many there will be."""


def refuse_optimizers(scenario: Scenario, device: torch.device) -> None:
    """Raises `UserError` where torch refuses the values of one."""
    _built("train.", scenario.train.optimizer, device)
    for place, phase in enumerate(scenario.phases):
        _built(f"phases.{place}.", phase.optimizer, device)


def refuse_schedules(scenario: Scenario, stream: Sequence[Experience], device: torch.device) -> None:
    """Raises `UserError` where a schedule does not go with its optimizer, or not with how long it is trained.

    How many steps a phase takes, and an epoch where rows are mixed in or held out, is not known before. That a run may
    be cut short by `--limit-batches` does not count.
    """
    counted = not (scenario.train.mix_memory or any(phase.rows == HELD_OUT for phase in scenario.phases))
    lengths = {epochs_of(scenario.train, len(each.train)) for each in stream if len(each.train)}
    if scheduler := scenario.train.scheduler:
        for epochs, steps in sorted(lengths):
            taken = steps if counted else _some(scheduler)
            build_scheduler(scheduler, _built("train.", scenario.train.optimizer, device), epochs, taken)
    for place, phase in enumerate(scenario.phases):
        if phase.scheduler:
            where, taken = f"phases.{place}.", _some(phase.scheduler)
            build_scheduler(phase.scheduler, _built(where, phase.optimizer, device), phase.epochs, taken, where)


def _some(scheduler: SchedulerOptions) -> int:
    """A number of steps that nothing is wrong with: a prime, or, where the scenario counts them itself, the least."""
    return SOME if scheduler.keywords.get("total_steps", LENGTH) == LENGTH else 1


def _built(where: str, options: OptimizerOptions, device: torch.device) -> Optimizer:
    return build_optimizer(options, [nn.Parameter(torch.zeros(1, device=device))], where)
