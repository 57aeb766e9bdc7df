"""Going through a stream before anything is trained: what losses are bound to, and whether they can teach."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clkd.engine.parts import Parts, grow
from clkd.engine.probe import Probe
from clkd.engine.term import STUDENT, Term
from clkd.errors import UserError
from clkd.experience import Experience
from clkd.memory.base import Memory
from clkd.seeding import forked
from clkd.teachers.network import Snapshot

log = logging.getLogger("clkd.engine")


@dataclass(frozen=True, slots=True)
class Scene:
    """One experience as it will be entered: `parts` are copies, made ready for it, and good until the next scene.

    Attributes:
        waiting: terms whose teacher has nothing to say yet, by name: the teacher.
        undefined: terms that have nothing to teach here, by name: why.
    """

    experience: Experience
    parts: Parts
    waiting: dict[str, str]
    undefined: dict[str, str]


def rehearse(parts: Parts, stream: Sequence[Experience], start: int = 0) -> Iterator[Scene]:
    """Enter every experience with copies of the parts, in the order of calls of a run, but train nothing.

    From experience `start` on, each term that can speak is tried on a few rows with made-up signals. Neither the parts
    nor any random state is touched.
    """
    replays = type(parts.memory) is not Memory
    parts = _copied(parts)
    for experience in stream:
        with forked(parts.device):
            probe = Probe(parts, stream[: experience.index + 1], replays) if experience.index >= start else None
            scene = _enter(parts, experience, probe)
        yield scene
        parts.end(experience, trained=False)


def refuse_undefined(parts: Parts, stream: Sequence[Experience], start: int = 0) -> None:
    """Find the experiences from `start` on in which a loss has nothing to teach; terms that skip them are told so.

    Raises:
        UserError: there are some, and the scenario does not allow to go on without the loss.
    """
    found: dict[str, dict[int, str]] = {}
    for scene in rehearse(parts, stream, start):
        if scene.experience.index < start:  # trained already, by what was there then
            continue
        for name, reason in scene.undefined.items():
            found.setdefault(name, {})[scene.experience.index] = reason
        _refuse_silence(scene)
        if parts.gradient is not None:
            _refuse_untrained(scene)
    refused = []
    for place, term in enumerate(parts.terms):
        term.undefined = found.get(term.name, {})
        if term.undefined and term.skips:
            log.info("%s", _told(place, term, "is left out of"))
        elif term.undefined:
            refused.append(
                f"{_told(place, term, 'has nothing to teach in')} (if_undefined: skip trains without it there)"
            )
    if refused:
        raise UserError("; ".join(refused))


def _told(place: int, term: Term, what: str) -> str:
    first, *more = term.undefined
    others = f" and {len(more)} more" if more else ""
    return f"losses.{place}: {term.name} {what} experience {first}{others}: {term.undefined[first]}"


def _refuse_silence(scene: Scene) -> None:
    """The first batch would find no term to sum."""
    speaks = [term for term in scene.parts.active() if term.name not in scene.undefined]
    first = scene.experience.index == 0
    heard = [term for term in speaks if not term.loss.regularises and (not first or term.a.rows in (None, "new"))]
    taught = {term.a.model for term in heard}
    if scene.parts.transfer.speaks:
        taught.add(STUDENT)
    for name in [name for name in scene.parts.students if name not in taught]:
        silent = "; ".join(f"{name}: {reason}" for name, reason in scene.undefined.items())
        waits = "; ".join(f"{name} waits for {teacher}" for name, teacher in scene.waiting.items())
        raise UserError(
            f"losses: none has anything to say {'' if name == STUDENT else f'to {name} '}in experience "
            f"{scene.experience.index} ({'; '.join(filter(None, (silent, waits))) or 'all are about replayed rows'}): "
            "add one about new rows, such as cross_entropy"
        )
    if not (any(_moves(scene.parts, term) for term in heard) or _transfer_moves(scene.parts)):
        raise UserError(
            f"losses: in experience {scene.experience.index} they could train nothing: the backbone stands still, and "
            "none reads logits: add one that does, such as cross_entropy"
        )


def _refuse_untrained(scene: Scene) -> None:
    """With a gradient policy, replayed rows say where the student must not go, and train nothing."""
    for term in scene.parts.active():
        if (term.a.rows or "").startswith("replay") and any(p.requires_grad for p in term.parameters()):
            raise UserError(
                f"losses: {term.name} learns something of its own from replayed rows, and with train.gradient these "
                "train nothing: let it be about all rows (without @replay), or leave out train.gradient"
            )


def _moves(parts: Parts, term: Term) -> bool:
    """Whether a gradient of the term reaches anything."""
    backbone = not parts.students[term.a.model].still
    return backbone or term.loss.reads(0).logits or any(p.requires_grad for p in term.parameters())


def _transfer_moves(parts: Parts) -> bool:
    transfer = parts.transfer
    learns = not parts.student.still or transfer.reads().logits or any(p.requires_grad for p in transfer.parameters())
    return transfer.speaks and learns


def _copied(parts: Parts) -> Parts:
    """Copies of all that changes from one experience to the next; frozen networks from outside are shared."""
    memo: dict[int, object] = {}
    for teacher in parts.teachers.values():
        memo[id(teacher.ranks)] = teacher.ranks
        network = teacher.module()
        if network is not None and teacher.frozen and not isinstance(teacher, Snapshot):
            memo[id(network)] = network
    student, peers, terms, teachers, transfer = copy.deepcopy(
        (parts.student, parts.peers, parts.terms, parts.teachers, parts.transfer), memo
    )
    for term in terms:
        term.undefined = {}
    return Parts(student, parts.augment, terms, teachers, Memory(), transfer, parts.transfer_weight, peers)


def _enter(parts: Parts, experience: Experience, probe: Probe | None) -> Scene:
    """As `Parts.begin`, but what goes wrong with a term is noted."""
    parts.experience = experience.index
    for name, student in parts.students.items():
        grow(name, student, experience, 0)
    parts.transfer.begin(experience, parts.student)
    for teacher in parts.teachers.values():
        teacher.begin(experience, parts.students[teacher.of])
    active = parts.active()
    waiting = {term.name: term.teacher or "" for term in parts.terms if term not in active}
    undefined: dict[str, str] = {}
    for teacher in parts.teachers.values():  # who speaks in phases alone is tried, too
        teacher.begin_phase(parts.students[teacher.of])
    for term in parts.active():
        if reason := _bound(parts, term, experience) or (probe and probe(term)):
            undefined[term.name] = term.undefined[experience.index] = reason
    for teacher in parts.teachers.values():
        teacher.end_phase()
    return Scene(experience, parts, waiting, undefined)


def _bound(parts: Parts, term: Term, experience: Experience) -> str | None:
    """Bind the term; why it cannot be, where it cannot."""
    try:
        parts.ready(term, experience)
    except UserError as error:
        return str(error)
    return None
