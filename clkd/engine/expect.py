"""What a run's numbers will show that is no defect: told at its start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clkd.engine.compose import Composition
from clkd.engine.late import late
from clkd.engine.term import STUDENT
from clkd.experience import Experience
from clkd.models.prototypes import Answering
from clkd.scenario.model import Scenario
from clkd.scenario.parts import parts
from clkd.schedules import PerExperienceOptions
from clkd.teachers.network import Snapshot
from clkd.teachers.snapshots import Snapshots


def expected(scenario: Scenario, composed: Composition) -> Iterator[str]:
    """One clause for each thing that somebody may take for another."""
    head, named, stream = composed.parts.student.head, scenario.student.head.name, composed.stream
    if _forgets(scenario, composed):
        yield (
            "much will be forgotten, whatever the loss: all classes compete, and no row of earlier ones comes again; a "
            "memory is what helps"
        )
    if head.task_aware and not stream.task_labels:
        yield (
            f"{named} learns each experience's classes among themselves, and tests let all compete: split by task tells"
            " them which"
        )
    if isinstance(head, Answering) and scenario.train.evaluate_every and not scenario.train.reset:
        yield (
            f"until an experience ends, {named} answers by what it gathered before, so that anytime accuracy counts its"
            " new classes as wrong"
        )
    if scenario.train.evaluate_every and (writer := _writes_head(composed)):
        yield f"until an experience ends, {writer} trains no head: anytime accuracy counts new classes by chance"
    yield from _unused(scenario, len(stream))
    yield from late(scenario, stream)


def _forgets(scenario: Scenario, composed: Composition) -> bool:
    """Whether the known collapse is to be expected, so that nobody takes it for a defect (LwF on Split MNIST: 22 %)."""
    teachers, stream = composed.parts.teachers.values(), composed.stream
    gone = any(each.new_classes and set(each.old_classes) - _classes(stream[each.index :]) for each in stream)
    own = all(isinstance(teacher, Snapshot | Snapshots) for teacher in teachers)
    pushed = scenario.student.head.name in ("linear", "fixed")
    return gone and own and pushed and scenario.memory.name == "none" and not stream.task_labels


def _writes_head(composed: Composition) -> str | None:
    """The term that writes the student's head when an experience ends, if no other one trains it."""
    own = [term for term in composed.parts.terms if term.a.model == STUDENT]
    trained = any(term.loss.reads(0).logits for term in own)
    return None if trained else next((term.name for term in own if term.loss.writes_head), None)


def _classes(experiences: Sequence[Experience]) -> set[int]:
    return {c for each in experiences for c in each.classes}


def _unused(scenario: Scenario, experiences: int) -> Iterator[str]:
    """What waits for experiences that the stream does not have. It may be extended, so it is no mistake."""
    for phase in scenario.phases:
        if phase.from_experience >= experiences:
            yield f"phase {phase.name} never comes: the last experience is {experiences - 1}"
    for place, part in parts(scenario):
        if isinstance(part.options, PerExperienceOptions) and len(part.options.values) > experiences:
            where, count = ".".join(map(str, place)), len(part.options.values)
            yield f"{where} has {count} values for {experiences} experiences: the last ones are never said"
