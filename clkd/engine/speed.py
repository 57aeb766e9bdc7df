"""The scenario's switches for speed, given to the networks that they concern."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from clkd.engine.parts import Parts
from clkd.models.precision import autocast
from clkd.models.student import Student
from clkd.ranks import ALONE, Ranks
from clkd.scenario.train import TrainOptions


def speed_up(parts: Parts, options: TrainOptions, ranks: Ranks = ALONE) -> None:
    """Set precision and compilation of each student, and of each teacher that is one of clkd's networks.

    Copies of the student take both with them. A teacher is fitted before, so that neither is in its weights.
    """
    modules = [*parts.students.values(), *(teacher.module() for teacher in parts.teachers.values())]
    set_precision(modules, options, parts.device)
    if options.compile:
        from clkd.models.compiled import Compiled  # loads torch's compiler, which takes a second

        mode = "default" if options.compile is True else options.compile
        for network in _students(modules):
            network.runner = Compiled(mode, sizes(parts, options, ranks))


def set_precision(modules: Iterable[nn.Module | None], options: TrainOptions, device: torch.device) -> None:
    """Let those that are clkd's own networks compute in `train.precision`."""
    for network in _students(modules):
        network.autocast = autocast(options.precision, device)


def _students(modules: Iterable[nn.Module | None]) -> list[Student]:
    """clkd's own networks, those that speak together too."""
    inner = [each for module in modules if module is not None for each in module.modules()]
    return [each for each in inner if isinstance(each, Student)]


def sizes(parts: Parts, options: TrainOptions, ranks: Ranks = ALONE) -> frozenset[int]:
    """How many rows the batches have that come often: new rows alone, with replayed ones, and in evaluation; and
    replayed ones alone, of one draw or of all, where a teacher is asked about no others.

    Of all but those of evaluation a rank has its share.
    """
    replay = 0 if options.mix_memory else options.replay_batch_size or options.batch_size
    kept: int = getattr(parts.memory, "size", replay)
    new, drawn = options.batch_size, [min(replay, kept)] * options.replay_draws
    training = [[new], [new, *drawn]]
    if any(term.b and term.b.rows not in (None, "new") and term.teacher in parts.teachers for term in parts.terms):
        training += [drawn[:1], drawn]
    return frozenset({*map(ranks.size_of_share, training), options.eval_batch_size})
