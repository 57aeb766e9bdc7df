"""Everything that takes part in training, composed and ready."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from clkd.data.augment import Augment
from clkd.engine.batches import batches
from clkd.engine.held_out import HeldOut
from clkd.engine.teacher_cache import TeacherCache
from clkd.engine.term import STUDENT, Side, Term
from clkd.errors import ClkdError, UserError
from clkd.experience import Experience, Rows
from clkd.frozen import state_hash
from clkd.gradients.base import GradientPolicy
from clkd.memory.base import Memory
from clkd.memory.retrieval import Retrieval
from clkd.models.heads import Grown
from clkd.models.student import Student
from clkd.models.taps import PENULTIMATE
from clkd.ranks import Ranks
from clkd.schedules.base import Schedule
from clkd.seeding import forked, generator
from clkd.signals import Batch, Needs, Spec
from clkd.teachers.base import Teacher
from clkd.teachers.ensemble import Ensemble
from clkd.teachers.member import Member
from clkd.transfer.base import Transfer

log = logging.getLogger("clkd.engine")

CHUNK = 512
"""Rows that a teacher is asked about at once, ahead of training."""
RECALL_LIMIT = 2**30
"""Bytes of answers that are kept at most for one teacher and experience."""


@dataclass(slots=True)
class Parts:
    """The student and all that it learns with. What is trained beside it, its peers, learns as it does."""

    student: Student
    augment: Augment
    terms: list[Term]
    teachers: dict[str, Teacher] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    transfer: Transfer = field(default_factory=Transfer)
    transfer_weight: float | Schedule = 1.0
    peers: dict[str, Student] = field(default_factory=dict)
    """Further students."""
    own_views: tuple[str, ...] = ()
    """Peers that see each row in a random view of their own."""
    members: dict[str, Member] = field(default_factory=dict)
    """Of those that are trained, the ones that an ensemble hears."""
    gradient: GradientPolicy | None = None
    """What is done to gradients for the sake of replayed rows, if anything."""
    cache: TeacherCache | None = None
    """Where the answers of teachers from outside are kept from one run to the next."""
    boundaries: bool = True
    """Whether they are told where experiences end."""
    experience: int = 0
    """The one under way."""
    held_out: HeldOut | None = None
    """The rows that ordinary training does not see, where a phase is to have some."""
    kept: bool = False
    """Whether memory has taken in the experience under way."""
    look: Callable[[], None] = lambda: None
    """Called while teachers answer ahead of training: may stop the run."""
    retrieval: Retrieval = field(default_factory=Retrieval)
    untrained: Student | None = None
    """The student before anything was trained, where it is to begin anew."""
    resets: bool = False
    """Whether it begins anew in each experience."""
    mixes: bool = False
    """Whether memory is mixed into the experience's rows."""
    stream: Sequence[Experience] = ()
    """All experiences, for those who look at validation rows of the past."""

    def __post_init__(self) -> None:
        self.memory.plain, self.memory.fixed = self.augment.plain, self.augment.fixed

    def begin(self, experience: Experience, seed: int) -> Grown:
        """Make everybody ready for an experience; returns which head parameters growth replaced, old and new."""
        self.experience, self.kept = experience.index, False
        replaced = [pair for name, model in self.students.items() for pair in grow(name, model, experience, seed)]
        if self.resets:
            self.reset(seed)
        for model in self.students.values():
            model.head.begin(experience, partial(penultimate, self, model, experience))
        self.transfer.begin(experience, self.student)  # before those who copy the student: it may have grown by this
        self.transfer.to(self.device)
        for teacher in self.teachers.values():
            teacher.begin(experience, self.students[teacher.of])
        for term in self.active():
            self.ready(term, experience)
        self._foretell(experience)
        return replaced

    def reset(self, seed: int) -> None:
        """Give the student the weights that an untrained one would have, had it grown as this one did."""
        student, fresh = self.student, copy.deepcopy(self.untrained)
        assert fresh is not None, "kept where anything resets"
        for index in sorted({born for born in student.born if born >= 0}):
            classes = [c for c, born in zip(student.class_ids, student.born, strict=True) if born == index]
            fresh.grow(classes, index, generator(seed, "head", index))
        student.load_state_dict(fresh.state_dict())
        student.head.forget()

    def ready(self, term: Term, experience: Experience) -> None:
        """Bind a term to what both its sides are now, and let it begin. Raises `UserError` where it cannot."""
        term.bind(self.spec)
        if term.loss.wants_classifier:
            term.loss.borrow(self._classifier(term))
        term.to(self.device)
        term.loss.begin(experience, self.students[term.a.model])

    def _classifier(self, term: Term) -> nn.Module:
        """The last layer of a term's teacher, for a loss that wants it. That of a student would move all the time."""
        teacher = self.teachers.get(term.teacher or "")
        classifier = teacher.classifier() if teacher else None
        if classifier is None:
            raise UserError(
                f"losses: {term.name} works with the last layer of its teacher, and '{term.teacher}' has none to lend: "
                f"use a teacher that is one of clkd's own networks (fit, born_again with speak: last, run, checkpoint, "
                "previous, before_phase, ema)"
            )
        return classifier

    def _foretell(self, experience: Experience) -> None:
        """Tell frozen teachers what they will be asked, if that is known and each row comes in fixed views."""
        if self.memory.invents:
            return
        for name, teacher in self.teachers.items():
            needs = self._asked_of(name)
            wanted = needs.logits or bool(needs.features)
            views = self.augment.fixed_for(teacher.sees)
            if not (views and wanted and teacher.ready and teacher.frozen and teacher.recall):
                continue
            if self.cache:
                found = self.cache.recall(name, teacher, needs, experience, self.memory, views, self.look)
                if teacher.ranks.highest(not found) == 0:  # all ranks recall in the same way
                    continue
            size = (len(experience.train) + len(self.memory)) * views * _bytes_per_row(teacher, needs)
            if size <= RECALL_LIMIT:
                teacher.foresee(self._coming(experience), needs)
            else:
                log.info("teachers.%s: answers would take %.1f GB, so it is asked in every step", name, size / 1e9)

    def _asked_of(self, name: str) -> Needs:
        """What is read of a teacher, also by way of the ensembles that it is a member of."""
        own, needs = self.teachers[name], self.needs(name)
        ensembles = [
            other for other, each in self.teachers.items() if isinstance(each, Ensemble) and own in each.members
        ]
        return needs | Needs() if any(self._asked_of(other).logits for other in ensembles) else needs

    def _coming(self, experience: Experience) -> Iterator[Batch]:
        """Every new row, and every row in memory, in each of its views."""
        rows = experience.train.ready(self.device)
        kept = self.memory.sample(len(self.memory), generator(0))
        for view in range(self.augment.views or 0):
            with closing(batches(rows, torch.arange(len(rows)), CHUNK, self.device)) as new:
                for chunk in chain(new, _pieces(kept)):
                    self.look()
                    yield self.augment.fixed(chunk, torch.full_like(chunk.y, view))

    def labels(self, rows: Rows) -> set[int] | None:
        """Every label of `rows` and of what memory keeps, -1 for none; None where memory does not tell."""
        held = self.memory.histogram()
        told = sum(held.values()) == len(self.memory) and not (self.memory.unlabelled or self.memory.invents)
        counts = torch.bincount(rows.y.flatten() + 1)  # which sorts nothing, where `unique` would
        return {*(counts.nonzero().flatten() - 1).tolist(), *held} if told else None

    def train(self) -> None:
        """Put all that is trained into train mode."""
        for model in self.students.values():
            model.train()

    def cut(self, experience: Experience) -> Experience:
        """The experience with the rows that ordinary training sees."""
        return self.held_out.cut(experience) if self.held_out else experience

    def keep(self, experience: Experience) -> None:
        """Let memory take in the experience's rows, once: at its end, or before its phases."""
        if not self.kept:
            self.memory.end(experience, self.student)
            if self.held_out:
                self.held_out.end(experience, self.student)
            self.kept = True

    def end(self, experience: Experience, trained: bool = True) -> None:
        """Let everybody conclude. Where nothing was `trained`, a head has nothing to gather."""
        self.end_student(experience, trained)
        self.end_teachers(experience)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Nobody looks up meanwhile, to stop: what was trained could not be saved yet."""
        look, self.look = self.look, lambda: None
        try:
            yield
        finally:
            self.look = look

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The student in eval mode and without gradients; what is drawn within is not missed afterwards."""
        self.student.eval()
        with torch.no_grad(), forked(self.device):
            yield

    def end_student(self, experience: Experience, trained: bool = True) -> None:
        """Those who may still change the student: transfer first, then losses about rows, then heads. After them it is
        final, and those that hold its parameters, and memory, take in what it is.

        Losses and heads see the experience's rows once more if it was `trained`, which may take a while.
        """
        if trained:
            self.transfer.review(partial(self._seen, experience), experience, self.student)
        self.transfer.end(experience, self.student)
        holding = [term for term in self.active() if term.loss.regularises]
        self._conclude([term for term in self.active() if term not in holding], experience, trained)
        if trained:
            for model in self.students.values():
                model.head.end(experience, partial(self._said, model, experience))
        self._conclude(holding, experience, trained)
        self.keep(experience)

    def _conclude(self, terms: list[Term], experience: Experience, trained: bool) -> None:
        for term in terms:
            if trained:
                with closing(self._plain(experience.train)) as rows:
                    term.loss.review(rows, experience, self.students[term.a.model])
            term.loss.end(experience, self.students[term.a.model])

    def end_teachers(self, experience: Experience) -> None:
        """Those who may copy it."""
        for teacher in self.teachers.values():
            teacher.end(experience, self.students[teacher.of])

    def _said(
        self, model: Student, experience: Experience, which: Literal["new", "past", "kept"]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As `clkd.models.heads.Said` describes them: who asks for what is kept finds the experience's rows there."""
        if which != "new":
            self.keep(experience)
        return penultimate(self, model, experience, which)

    def _seen(self, experience: Experience, which: Literal["new", "validation", "kept"]) -> Iterator[Batch]:
        """As `clkd.transfer.base.Seen` describes them."""
        if which == "kept":
            for piece in _pieces(self.memory.sample(len(self.memory), generator(0))):
                yield piece.seen_as(self.augment.plain(piece.x))
            return
        if which == "new":  # not in the order of the data, which may be class by class
            order = torch.randperm(len(experience.train), generator=generator(0, "seen", experience.index))
            with closing(self._plain(experience.train, order)) as coming:
                yield from coming
            return
        for each in self.stream[: experience.index + 1]:
            with closing(self._plain(each.validation)) as coming:
                yield from coming

    def _plain(self, rows: Rows, order: Tensor | None = None) -> Generator[Batch]:
        """The rows, normalised, in the order of the data unless another is given (`[n]` positions)."""
        rows = rows.ready(self.device)
        order = torch.arange(len(rows)) if order is None else order
        with closing(batches(rows, order, CHUNK, self.device)) as stored:
            for chunk in stored:
                self.look()
                yield chunk.seen_as(self.augment.plain(chunk.x))

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
        return [term for term in self.terms if self._ready(term) and self.experience not in term.undefined]

    def _ready(self, term: Term) -> bool:
        """Who is trained has always something to say."""
        return term.teacher is None or term.teacher in self.students or self.teachers[term.teacher].ready

    def needs(self, model: str) -> Needs:
        """What all active terms together read of a model."""
        wish = Needs(logits=model in self.students)
        for term in self.active():
            wish = wish | term.needs(model)
        if model == STUDENT:
            wish = wish | self.transfer.reads()
            wish = wish | self.memory.needs if self.memory.needs else wish
        return wish

    def compared(self, teacher: str) -> list[Side]:
        """The sides of active terms that are about a teacher: it is asked about no other rows."""
        return [term.b for term in self.active() if term.b and term.teacher == teacher]

    def views(self, model: str) -> int:
        """In how many views active terms want each row to be seen by one who is trained."""
        return max((term.loss.views for term in self.active() if term.a.model == model), default=1)

    def spec(self, side: Side) -> Spec:
        """What a side looks like now."""
        return (self.students.get(side.model) or self.teachers[side.model]).spec(side.feature)

    @property
    def students(self) -> dict[str, Student]:
        """All that is trained, by name: the student, then its peers."""
        return {STUDENT: self.student, **self.peers}

    def modules(self) -> nn.ModuleDict:
        """All that is optimised, moved and saved: the student, its peers, the losses' and the transfer's parameters."""
        return nn.ModuleDict(
            {"student": self.student}
            | {f"peer_{name}": peer for name, peer in self.peers.items()}
            | {"transfer": self.transfer}
            | {f"loss_{place}": term for place, term in enumerate(self.terms)}
        )

    def parameters(self) -> Iterator[nn.Parameter]:
        return _trained(self.modules())

    def parameters_of_each(self) -> list[list[nn.Parameter]]:
        """For each student its parameters, and those of the losses that teach it."""
        own: dict[str, list[nn.Module]] = {name: [model] for name, model in self.students.items()}
        own[STUDENT].append(self.transfer)
        for term in self.terms:
            own[term.a.model].append(term)
        return [list(_trained(nn.ModuleList(modules))) for modules in own.values()]

    @property
    def device(self) -> torch.device:
        return next(self.student.parameters()).device


def grow(name: str, model: Student, experience: Experience, seed: int) -> Grown:
    """Make room in a student for an experience's classes, whose columns are drawn from the name's own generator."""
    own = () if name == STUDENT else (name,)
    return model.grow(experience.classes, experience.index, generator(seed, "head", *own, experience.index))


def _trained(module: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for parameter in module.parameters() if parameter.requires_grad)


@torch.no_grad()
def penultimate(
    parts: Parts, model: Student, experience: Experience, which: Literal["new", "past", "kept"]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and labels as `clkd.models.heads.Said` describes them."""
    model.eval()
    needs = Needs(logits=False, features=(PENULTIMATE,))
    for batch in _labelled(parts, experience, which):
        features = model.signals(parts.augment.plain(batch.x), needs, batch.domain).features[PENULTIMATE]
        yield features.to(model.head.weight.dtype), batch.y


def _labelled(parts: Parts, experience: Experience, which: Literal["new", "past", "kept"]) -> Iterator[Batch]:
    if which == "new":
        rows = experience.train.ready(parts.device)
        at = (rows.y >= 0).nonzero().squeeze(1)
        with closing(batches(rows, at, CHUNK, parts.device)) as coming:
            yield from coming
        return
    for piece in _pieces(parts.memory.sample(len(parts.memory), generator(0))):
        stays = piece.y >= 0 if which == "kept" else (piece.y >= 0) & (piece.experience < experience.index)
        at = stays.nonzero().squeeze(1)
        if len(at):
            yield piece.pick(at[:0], at)


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
