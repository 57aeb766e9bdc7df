"""From a checked scenario to the objects that train: every named part is built by the registry."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from clkd.context import Context
from clkd.data.store import Store
from clkd.engine.alignment import request_layers
from clkd.engine.boundaries import refuse_boundaries
from clkd.engine.groundwork import Groundwork
from clkd.engine.held_out import HeldOut
from clkd.engine.material import Material
from clkd.engine.parts import Parts
from clkd.engine.rates import refuse_optimizers, refuse_schedules
from clkd.engine.refusals import refuse, refuse_mixing, refuse_phases
from clkd.engine.rehearse import refuse_undefined
from clkd.engine.shift import request_shift
from clkd.engine.speed import set_precision, speed_up
from clkd.engine.teacher_cache import TeacherCache
from clkd.engine.term import STUDENT, Side, Term
from clkd.errors import UserError
from clkd.experience import Experience
from clkd.memory.retrieval import Retrieval
from clkd.metrics.base import Metric
from clkd.models.student import Student
from clkd.options import (
    MemoryOptions,
    Part,
    Scheduled,
    SeveralParts,
    TeacherOptions,
    TermOptions,
    TransferOptions,
)
from clkd.scenario.measures import ReportOptions, ShiftOptions
from clkd.scenario.model import StudentOptions
from clkd.scenario.names import term_name
from clkd.schedules.base import Schedule
from clkd.seeding import derive, generator
from clkd.signals import Needs
from clkd.streams.base import Stream
from clkd.teachers.base import Teacher
from clkd.teachers.member import Member
from clkd.teachers.network import Snapshot
from clkd.transfer.base import Transfer
from clkd.transfer.several import Several
from clkd.view import view_of

log = logging.getLogger("clkd.engine")


@dataclass(slots=True)
class Composition:
    """All that a scenario names, built."""

    material: Material
    parts: Parts
    metrics: dict[str, Metric]

    @property
    def store(self) -> Store:
        return self.material.store

    @property
    def stream(self) -> Stream:
        return self.material.stream


@dataclass(frozen=True, slots=True)
class Composer(Groundwork):
    """Builds what a scenario names."""

    def compose(self, teach: bool = True) -> Composition:
        """Build everything, and try every loss in every experience. With `teach=False` nothing takes minutes: teachers
        that are to be fitted are represented by untrained networks, good for looking at only.

        Raises:
            UserError: parts do not fit together, torch refuses the optimizer's values, or a loss would have nothing to
                teach in an experience.
        """
        scenario, build = self.scenario, self.registry.build
        refuse_optimizers(scenario, self.device)
        ground = self.ground()
        stream, context = ground.material.stream, ground.context
        refuse_schedules(scenario, stream[self.past.trained if self.past else 0 :], self.device)
        student, peers = self._student(scenario.student, context, scenario.seed), self._peers(context)
        members = self._members({STUDENT: student, **peers})
        transfer, transfer_weight = self._transfer(context, stream)
        parts = Parts(
            student=student,
            augment=ground.augment,
            terms=[self._term(part, context, place).to(self.device) for place, part in enumerate(scenario.losses)],
            teachers=self._teachers(replace(context, untrained=True), members),
            memory=build(scenario.memory, context=context, student=student),
            retrieval=self._retrieval(),
            transfer=transfer.to(self.device),
            transfer_weight=transfer_weight,
            peers=peers,
            own_views=tuple(name for name, peer in scenario.peers.items() if peer.own_view),
            members=members,
            gradient=build(scenario.train.gradient) if scenario.train.gradient else None,
            cache=self.teacher_cache(ground) if teach else None,
            held_out=self._held_out(),
            stream=stream,
            boundaries=scenario.stream.boundaries,
        )
        parts.augment.invented = parts.memory.invents
        parts.transfer.prepare(parts.student)
        self._tell_of_norms(parts.students.values())
        if parts.student.hear and scenario.train.gradient_shares and not self.ranks.alone:
            raise UserError(
                "train.gradient_shares: with dsbn, all processes take part in a term's gradient, and one may have no "
                "row for a term: leave it out, or train in one process"
            )
        parts.memory.to(self.device)
        refuse(parts, stream)
        refuse_phases(parts, scenario.phases)
        if scenario.train.mix_memory:
            refuse_mixing(parts)
        if not scenario.stream.boundaries:
            refuse_boundaries(parts)
        self._request_taps(parts)
        for model in parts.students.values():
            rehearse_growth(model, stream)
        refuse_undefined(parts, stream, self.past.trained if self.past else 0)
        if teach and any(teacher.untrained for teacher in parts.teachers.values()):
            parts.teachers = self._teachers(context, members)
            self._request_taps(parts)
        speed_up(parts, scenario.train, self.ranks)
        parts.mixes = scenario.train.mix_memory
        parts.resets, parts.untrained = scenario.train.reset, copy.deepcopy(student) if scenario.resets else None
        return Composition(ground.material, parts, {part.name: self._metric(part, stream) for part in scenario.metrics})

    def _metric(self, part: Part, stream: Stream) -> Metric:
        if part.name == "anytime_accuracy" and self.scenario.train.evaluate_every is None:
            raise UserError("metrics: anytime_accuracy needs evaluations during training: set train.evaluate_every: 50")
        metric: Metric = self.registry.build(
            part,
            base=self.base,
            experiences=tuple(stream),
            class_names=stream.class_names,
            task_labels=stream.task_labels,
        )
        return metric

    def _request_taps(self, parts: Parts) -> None:
        request_taps(parts)
        if isinstance(self.scenario.report, ReportOptions):
            request_layers(parts, self.scenario.report)
        if isinstance(self.scenario.shift, ShiftOptions):
            request_shift(parts, self.scenario.shift)

    def _held_out(self) -> HeldOut | None:
        for phase in self.scenario.phases:
            if phase.share is not None and phase.keep is not None:
                return HeldOut(phase.share, phase.keep, self.scenario.seed, self.device)
        return None

    def _peers(self, context: Context) -> dict[str, Student]:
        """Each starts from weights of its own: two students that start alike and see the same would stay alike."""
        seeds = {name: derive(self.scenario.seed, "peer", name) for name in self.scenario.peers}
        return {name: self._student(peer, context, seeds[name]) for name, peer in self.scenario.peers.items()}

    def _members(self, students: Mapping[str, Student]) -> dict[str, Member]:
        """Those of the students that an ensemble hears."""
        heard = {name for part in self.scenario.teachers.values() for name in _members(part)}
        return {name: Member(model) for name, model in students.items() if name in heard}

    def _student(self, chosen: StudentOptions, context: Context, seed: int) -> Student:
        """Its batch norm looks at the rows of all ranks where that can be had, which is on GPUs."""
        try:
            view = view_of(chosen.view, context.mean, context.std, context.shape)
        except UserError as error:
            place = "student" if chosen is self.scenario.student else "peers"
            raise UserError(f"{place}.{error}") from error
        student = self.networks().fresh(chosen.model, chosen.head, context, seed, view)
        if self.ranks.alone or self.device.type != "cuda":
            return student
        return nn.SyncBatchNorm.convert_sync_batchnorm(student)  # type: ignore[no-any-return, no-untyped-call]  # torch's

    def _tell_of_norms(self, students: Iterable[Student]) -> None:
        """Batch norm that could not be made to look at all ranks' rows."""
        apart = not self.ranks.alone and self.ranks.first and self.device.type != "cuda"
        if apart and any(isinstance(layer, BatchNorm) for student in students for layer in student.modules()):
            log.info("batch norm sees each process's rows by themselves on the CPU, so results depend on their number")

    def one_teacher(self, name: str, features: tuple[str, ...]) -> tuple[Teacher, TeacherCache]:
        """One teacher as a run composes it, and the cache that it answers into: all that checking its answers takes."""
        ground = self.ground()
        teacher = self._teacher(name, self.scenario.teachers[name], ground.context, {})
        teacher.request(features)
        set_precision([teacher.module()], self.scenario.train, self.device)
        cache = self.teacher_cache(ground)
        assert cache is not None, "only streams that were never extended have answers in the cache"
        return teacher, cache

    def _teachers(self, context: Context, members: Mapping[str, Teacher]) -> dict[str, Teacher]:
        """Ensembles come after what they are made of, whatever their place in the file; `members` are students."""
        built: dict[str, Teacher] = dict(members)
        declared = dict(self.scenario.teachers)
        while declared:
            ready = [name for name, part in declared.items() if not set(_members(part)) & set(declared)]
            if not ready:
                raise UserError(
                    f"teachers: {' and '.join(declared)} are members of each other: an ensemble needs others"
                )
            for name in ready:
                built[name] = self._teacher(name, declared.pop(name), context, built)
        return {name: built[name] for name in self.scenario.teachers}

    def _teacher(self, name: str, part: Part, context: Context, built: dict[str, Teacher]) -> Teacher:
        """Says which key of the scenario a user's mistake belongs to."""
        try:
            offers = {"context": context, "teachers": built}
            teacher: Teacher = self.ranks.in_turn(lambda: self.registry.build(part, **offers))
        except UserError as error:
            raise UserError(f"teachers.{name}: {error}") from error
        shared = part.shared
        assert isinstance(shared, TeacherOptions), "the registry gives every teacher its shared keys"
        teacher.recall, teacher.sees, teacher.ranks = shared.recall, shared.sees, self.ranks
        self.ranks.follow(teacher.module())  # fitted on several machines, it would not be the same to the last bit
        return teacher

    def _term(self, part: Part, context: Context, place: int) -> Term:
        shared = part.shared
        assert isinstance(shared, TermOptions), "the registry gives every loss its shared keys"
        sides = tuple(Side.read(side) for side in shared.between or (STUDENT,))
        loss = self.registry.build(part, context=context, seed=derive(self.scenario.seed, "loss", place))
        return Term(term_name(part.dump()), loss, sides, self._scheduled(shared.weight), shared.if_undefined == "skip")

    def _retrieval(self) -> Retrieval:
        shared = self.scenario.memory.shared
        assert isinstance(shared, MemoryOptions), "the registry gives every memory its shared keys"
        built: Retrieval = self.registry.build(shared.retrieval) if shared.retrieval else Retrieval()
        return built

    def _transfer(self, context: Context, stream: Stream) -> tuple[Transfer, float | Schedule]:
        """One strategy and its weight, or several as one, which holds theirs; a weight that learns has to be held."""
        chosen = self.scenario.transfer
        offers = {"context": context, "experiences": tuple(stream), "task_labels": stream.task_labels}
        members = chosen.members if isinstance(chosen, SeveralParts) else (chosen,)
        weights = [self._transfer_weight(member) for member in members]
        if chosen is members[0] and not isinstance(weights[0], nn.Module):
            return self.registry.build(chosen, **offers), weights[0]
        names = [member.name for member in members]
        own = [name if names.index(name) == i else f"{name}_{i}" for i, name in enumerate(names)]
        seeds = [derive(self.scenario.seed, "transfer", i) for i in range(len(own))]
        built = [self.registry.build(each, seed=seed, **offers) for each, seed in zip(members, seeds, strict=True)]
        return Several(dict(zip(own, built, strict=True)), dict(zip(own, weights, strict=True))), 1.0

    def _transfer_weight(self, part: Part) -> float | Schedule:
        shared = part.shared
        assert isinstance(shared, TransferOptions), "the registry gives every transfer its shared keys"
        return self._scheduled(shared.weight)

    def _scheduled(self, value: Scheduled) -> float | Schedule:
        if not isinstance(value, Part):
            return float(value)
        schedule: Schedule = self.registry.build(value)
        return schedule


def request_taps(parts: Parts) -> None:
    """Bind every feature tap that any part will read, once, before anything is compiled.

    Teachers that are copies of the student read through the student's taps.
    """
    wanted = {name: Needs(logits=False) for name in (*parts.students, *parts.teachers)}
    for term in parts.terms:
        for name in wanted:
            wanted[name] = wanted[name] | term.needs(name)
    copies = {name: teacher.of for name, teacher in parts.teachers.items() if isinstance(teacher, Snapshot)}
    for name, origin in ({name: name for name in parts.students} | copies).items():
        parts.students[origin].request(wanted[name].features)
    parts.student.request(parts.transfer.reads().features)
    parts.student.request(parts.memory.needs.features if parts.memory.needs else ())
    parts.student.request(name for name in parts.memory.stores if name != "logits")
    for name, teacher in parts.teachers.items():
        teacher.request(wanted[name].features)


def rehearse_growth(student: Student, stream: Iterable[Experience]) -> None:
    """Grow a copy of the head through all that is coming: classes that it refuses are refused before any training."""
    head = copy.deepcopy(student.head)
    for experience in stream:
        head.grow(experience.classes, experience.index, generator(0))


def _members(part: Part) -> tuple[str, ...]:
    return tuple(getattr(part.options, "members", ()))
