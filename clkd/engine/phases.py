"""Further trainings at an experience's end: the same loop and step, on other rows and for other parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from clkd.engine.loop import Loop
from clkd.engine.parts import Parts
from clkd.engine.run import Run
from clkd.engine.term import STUDENT, Side, Term
from clkd.errors import ClkdError
from clkd.experience import Experience, Rows
from clkd.losses.classification import CrossEntropy
from clkd.memory.base import Memory
from clkd.models.student import Student
from clkd.scenario.phase import HELD_OUT, PhaseOptions
from clkd.scenario.train import TrainOptions
from clkd.seeding import derive, generator
from clkd.signals import Batch
from clkd.teachers.before_phase import BeforePhase


@dataclass(frozen=True, slots=True)
class Gathered(Rows):
    """Rows of several experiences and domains, which lie in one batch on the device."""

    batch: Batch | None = None

    @classmethod
    def of(cls, batch: Batch) -> Gathered:
        return cls(batch.x, batch.y, torch.arange(len(batch), device=batch.y.device), batch.sample_id, batch=batch)

    def ready(self, device: torch.device | str) -> Gathered:
        return self

    def stored(self, at: Tensor) -> Batch:
        assert self.batch is not None, "made by `of`"
        return self.batch.pick(at)


@dataclass(slots=True)
class PhaseParts(Parts):
    """The parts as a phase sees them."""

    trains: str = "all"

    def train(self) -> None:
        """A backbone that is not trained does not move its statistics either."""
        self.student.train()
        if self.trains != "all":
            self.student.backbone.eval()


@dataclass(slots=True)
class Phases:
    """Trains an experience as a scenario says: as ever, and then phase by phase."""

    phases: tuple[PhaseOptions, ...]
    loop: Loop
    run: Run

    @property
    def parts(self) -> Parts:
        return self.loop.parts

    def train(self, experience: Experience, replaced: list[tuple[nn.Parameter, nn.Parameter]]) -> None:
        """All training of an experience for which the parts were made ready, or what an earlier process left of it."""
        start, run = 0, self.run
        if (arrival := self.loop.arrival) is not None:
            arrival.fill()
            for student in self.parts.students.values():  # as the training that an earlier process did left them
                student.eval()
            start, self.parts.kept = arrival.place, True
        else:
            self.loop.train(experience, replaced)
            run.epoch = self.loop.progress.epochs
        for place, phase in enumerate(self.phases):
            if place >= start and experience.index >= phase.from_experience:
                self.parts.keep(experience)
                self._train(place, phase, experience)

    def _train(self, place: int, phase: PhaseOptions, experience: Experience) -> None:
        main, run, arrival = self.loop, self.run, self.loop.arrival
        teachers = self.parts.teachers.values()
        for teacher in teachers:
            teacher.begin_phase(self.parts.students[teacher.of])
        loop = Loop(
            _parts(phase, self.parts, experience),
            _options(phase, main.options),
            derive(main.seed, "phase", phase.name),
            main.limit_batches,
            on_epoch=lambda experience, means: main.on_epoch(experience, renamed(means, phase.name)),
            on_step=main.on_step,
            ranks=main.ranks,
            progress=replace(main.progress, phase=True),
            rows=main.rows,
            guarded=main.guarded,
            first=run.epoch,
            place=place,
        )
        if arrival is not None:
            loop.first, loop.arrive = arrival.first, main.arrive
            main.arrival = main.arrive = None
        elif phase.reset:
            self.parts.reset(self.run.seed)
        own = replace(experience, train=rows_of(phase, self.parts, experience, loop.seed))
        main.phase, run.phase = loop, phase.name
        with only(phase.trains, self.parts.student, loop.parts.terms):
            loop.train(own, [])
        for teacher in teachers:
            teacher.end_phase()
        main.phase, run.phase = None, None
        main.rows, main.progress.step = loop.rows, loop.progress.step
        run.epoch = loop.first + loop.progress.epochs


def renamed(means: dict[str, float], phase: str) -> dict[str, float]:
    """An epoch's means under the phase's own name.

    >>> renamed({"train/loss": 0.5}, "balanced")
    {'phase/balanced/loss': 0.5}
    """
    return {f"phase/{phase}/{name.removeprefix('train/')}": value for name, value in means.items()}


def _options(phase: PhaseOptions, train: TrainOptions) -> TrainOptions:
    own = {
        "epochs": phase.epochs,
        "batch_size": phase.batch_size or train.batch_size,
        "optimizer": phase.optimizer,
        "scheduler": phase.scheduler,
        "min_steps": 0,
        "replay_draws": 1,
        "mix_memory": False,
        "keep_optimizer": False,
    }
    return train.model_copy(update=own)


def _parts(phase: PhaseOptions, parts: Parts, experience: Experience) -> PhaseParts:
    """The student with the phase's losses; nothing is replayed, since memory's rows are the phase's own."""
    terms = [term for term in parts.terms if term.name in phase.losses]
    made = PhaseParts(
        parts.student, parts.augment, terms, parts.teachers, experience=parts.experience, trains=phase.trains
    )
    if not phase.losses:
        made.terms = [Term("cross_entropy", CrossEntropy(), (Side(STUDENT),))]
        made.ready(made.terms[0], experience)
        return made
    for term in made.active():
        if isinstance(parts.teachers.get(term.teacher or ""), BeforePhase):
            made.ready(term, experience)
    heard = [term.loss for term in made.active() if not term.loss.regularises]
    still = phase.trains != "all" or parts.student.still
    if not heard or (still and not any(loss.reads(0).logits for loss in heard)):
        raise ClkdError(
            f"phases: {phase.name}: none of its losses can teach what it trains in experience {experience.index}: "
            f"start it later (from_experience: {experience.index + 1}), or add a loss that needs no teacher"
        )
    return made


@contextmanager
def only(trains: str, student: Student, terms: list[Term]) -> Iterator[None]:
    """Ask for the gradients of what a phase trains, and of nothing else; afterwards everything is as before."""
    wanted = {"head": list(student.head.parameters()), "bias": student.head.corrections()}.get(trains)
    everything = [*student.parameters(), *(own for term in terms for own in term.parameters())]
    before = [parameter.requires_grad for parameter in everything]
    if wanted is not None:
        ids = {id(parameter) for parameter in wanted}
        for parameter in everything:
            parameter.requires_grad_(id(parameter) in ids and (trains == "bias" or parameter.requires_grad))
    try:
        yield
    finally:
        for parameter, asked in zip(everything, before, strict=True):
            parameter.requires_grad_(asked)


def rows_of(phase: PhaseOptions, parts: Parts, experience: Experience, seed: int) -> Gathered:
    """The phase's rows, drawn from its own seed.

    Raises:
        ClkdError: nothing is kept.
    """
    draws = generator(seed, "rows", experience.index)
    memory: Memory = parts.memory
    if phase.rows == HELD_OUT:
        assert parts.held_out is not None, "made with the parts"
        memory = parts.held_out.memory
    kept = memory.sample(len(memory), draws)
    if kept is None:
        raise ClkdError(
            f"phases: {phase.name}: no rows are kept in experience {experience.index}: give the memory more room, or "
            f"begin later (from_experience)"
        )
    if phase.rows == "balanced":
        kept = balanced(kept, experience, parts.device, draws)
    labelled = (kept.y >= 0).nonzero().squeeze(1)
    return Gathered.of(replace(kept, new=len(kept), extra={}, draws=()).pick(labelled))


def balanced(kept: Batch, experience: Experience, device: torch.device, draws: torch.Generator) -> Batch:
    """Kept rows and the experience's own that are not among them: of each class as many as the smallest has."""
    rows = experience.train.ready(device)
    ours = kept.experience == experience.index
    fresh = ~torch.isin(rows.sample_id.cpu(), kept.sample_id[ours].cpu())
    y = torch.cat([kept.y.cpu(), torch.where(fresh, rows.y.cpu(), -1)])
    at = torch.unique(y[y >= 0]).tolist()
    order = torch.randperm(len(y), generator=draws)
    share = min(int((y == c).sum()) for c in at)
    chosen = torch.cat([order[y[order] == c][:share] for c in at]).sort().values
    stays, comes = chosen[chosen < len(kept)], chosen[chosen >= len(kept)] - len(kept)
    old = replace(kept, new=len(kept), extra={}, draws=()).pick(stays.to(kept.y.device))
    return old.joined(rows.gather(comes.to(rows.y.device), device)) if len(comes) else old
