"""Everything that takes part in training, composed and ready."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor, nn

from clkd.data.augment import Augment
from clkd.engine.batches import batches
from clkd.engine.teacher_cache import TeacherCache
from clkd.engine.term import STUDENT, Side, Term
from clkd.errors import ClkdError, UserError
from clkd.experience import Experience
from clkd.frozen import state_hash
from clkd.memory.base import Memory
from clkd.models.student import Student
from clkd.ranks import Ranks
from clkd.schedules.base import Schedule
from clkd.seeding import generator
from clkd.signals import Batch, Needs, Spec
from clkd.teachers.base import Teacher
from clkd.transfer.base import Transfer

log = logging.getLogger("clkd.engine")

CHUNK = 512
"""Rows that a teacher is asked about at once, ahead of training."""
RECALL_LIMIT = 2**30
"""Bytes of answers that are kept at most for one teacher and experience."""


@dataclass(slots=True)
class Parts:
    """The student and all that it learns with."""

    student: Student
    augment: Augment
    terms: list[Term]
    teachers: dict[str, Teacher] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    transfer: Transfer = field(default_factory=Transfer)
    transfer_weight: float | Schedule = 1.0
    cache: TeacherCache | None = None
    """Where the answers of teachers from outside are kept from one run to the next."""
    experience: int = 0
    """The one under way."""
    look: Callable[[], None] = lambda: None
    """Called while teachers answer ahead of training: may stop the run."""

    def begin(self, experience: Experience, seed: int) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Make everybody ready for an experience; returns which head parameters growth replaced, old and new."""
        self.experience = experience.index
        replaced = self.student.grow(experience.classes, experience.index, generator(seed, "head", experience.index))
        for teacher in self.teachers.values():
            teacher.begin(experience, self.student)
        for term in self.active():
            self.ready(term, experience)
        self.transfer.begin(experience, self.student)
        self._foretell(experience)
        return replaced

    def ready(self, term: Term, experience: Experience) -> None:
        """Bind a term to what both its sides are now, and let it begin. Raises `UserError` where it cannot."""
        term.bind(self.spec)
        if term.loss.wants_classifier:
            term.loss.borrow(self._classifier(term))
        term.to(self.device)
        term.loss.begin(experience, self.student)

    def _classifier(self, term: Term) -> nn.Module:
        """The last layer of a term's teacher, for a loss that wants it."""
        classifier = self.teachers[term.teacher].classifier() if term.teacher else None
        if classifier is None:
            raise UserError(
                f"losses: {term.name} works with the last layer of its teacher, and '{term.teacher}' has none to lend: "
                f"use a teacher that is one of clkd's own networks (fit, checkpoint, previous, ema)"
            )
        return classifier

    def _foretell(self, experience: Experience) -> None:
        """Tell frozen teachers what they will be asked, if each row comes in fixed views."""
        for name, teacher in self.teachers.items():
            needs = self.needs(name)
            wanted = needs.logits or bool(needs.features)
            views = self.augment.fixed_for(teacher.sees)
            if not (views and wanted and teacher.ready and teacher.frozen and teacher.recall):
                continue
            if self.cache:
                found = self.cache.recall(name, teacher, needs, experience, self.memory, views)
                if teacher.ranks.highest(not found) == 0:  # all ranks recall in the same way
                    continue
            size = (len(experience.train) + len(self.memory)) * views * _bytes_per_row(teacher, needs)
            if size <= RECALL_LIMIT:
                teacher.foresee(self._coming(experience), needs)
            else:
                log.info("teachers.%s: answers would take %.1f GB, so it is asked in every step", name, size / 1e9)

    def _coming(self, experience: Experience) -> Iterator[Batch]:
        """Every new row, and every row in memory, in each of its views."""
        rows = experience.train.ready(self.device)
        kept = self.memory.sample(len(self.memory), generator(0))
        for view in range(self.augment.views or 0):
            with closing(batches(rows, torch.arange(len(rows)), CHUNK, self.device)) as new:
                for chunk in chain(new, _pieces(kept)):
                    self.look()
                    yield self.augment.fixed(chunk, torch.full_like(chunk.y, view))

    def end(self, experience: Experience) -> None:
        """Let everybody conclude."""
        self.end_student(experience)
        self.end_teachers(experience)

    def end_student(self, experience: Experience) -> None:
        """Those who may still change the student, transfer first; after this it is final."""
        self.transfer.end(experience, self.student)
        for term in self.active():
            term.loss.end(experience, self.student)
        self.memory.end(experience, self.student)

    def end_teachers(self, experience: Experience) -> None:
        """Those who may copy it."""
        for teacher in self.teachers.values():
            teacher.end(experience, self.student)

    def own_buffers(self) -> list[Tensor]:
        """What may differ from rank to rank within an experience, and is settled at its end."""
        follow = [teacher.module() for teacher in self.teachers.values() if not teacher.frozen]
        return [buffer for module in (self.modules(), *follow) if module is not None for buffer in module.buffers()]

    def settle(self, ranks: Ranks) -> None:
        """After training: buffers that followed each rank's own rows become the same on all."""
        ranks.settle(self.modules())
        for teacher in self.teachers.values():
            if not teacher.frozen:
                ranks.settle(teacher.module())

    def compare(self, ranks: Ranks) -> None:
        """Raises `ClkdError` if ranks do not hold the same: from then on they would train different students."""
        if ranks.alone:
            return
        ranks.agree("what was trained", state_hash(self.modules()))
        kept = self.memory.sample(len(self.memory), generator(0))
        ranks.agree("the memory", "" if kept is None else str(kept.sample_id.tolist()))

    def active(self) -> list[Term]:
        """The terms whose teacher has something to say, and that the experience's classes leave something to teach."""
        return [
            term
            for term in self.terms
            if (term.teacher is None or self.teachers[term.teacher].ready) and self.experience not in term.undefined
        ]

    def needs(self, model: str) -> Needs:
        """What all active terms together read of a model."""
        wish = Needs(logits=model == STUDENT)
        for term in self.active():
            wish = wish | term.needs(model)
        if model == STUDENT:
            wish = wish | self.transfer.reads()
            wish = wish | self.memory.needs if self.memory.needs else wish
        return wish

    def spec(self, side: Side) -> Spec:
        """What a side looks like now."""
        source = self.student if side.model == STUDENT else self.teachers[side.model]
        return source.spec(side.feature)

    def modules(self) -> nn.ModuleDict:
        """All that is optimised, moved and saved: the student, the losses' and the transfer's own parameters."""
        return nn.ModuleDict(
            {"student": self.student, "transfer": self.transfer}
            | {f"loss_{place}": term for place, term in enumerate(self.terms)}
        )

    def parameters(self) -> Iterator[nn.Parameter]:
        return (parameter for parameter in self.modules().parameters() if parameter.requires_grad)

    @property
    def device(self) -> torch.device:
        return next(self.student.parameters()).device


def _pieces(kept: Batch | None) -> Iterator[Batch]:
    """A memory's rows, so many at a time: as floats, all together would take several times the memory's budget."""
    if kept is not None:
        yield from (kept.rows(start, start + CHUNK) for start in range(0, len(kept), CHUNK))


def _bytes_per_row(teacher: Teacher, needs: Needs) -> int:
    """What recalling takes: logits as float32, features as float16."""
    shapes = [teacher.spec(feature).shape or () for feature in needs.features]
    return 4 * len(teacher.spec().class_ids) + sum(2 * math.prod(shape) for shape in shapes)


class Hygiene:
    """Proof that no teacher moved while it taught: the hash of every frozen teacher, before and after."""

    def __init__(self, teachers: dict[str, Teacher]) -> None:
        self.teachers = teachers
        self.before = {name: teacher.fingerprint() for name, teacher in teachers.items()}

    def check(self) -> None:
        """Raises `ClkdError` naming the teacher whose parameters or buffers moved."""
        for name, teacher in self.teachers.items():
            if teacher.fingerprint() != self.before[name]:
                raise ClkdError(
                    f"teachers.{name}: its parameters or buffers moved while it taught, so its signals are not to be "
                    f"trusted; a teacher must stay frozen and in eval mode"
                )
