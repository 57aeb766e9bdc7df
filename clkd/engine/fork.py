"""A new run that goes on from a finished experience of another one.

What the origin had learned is carried over into whatever the new scenario composes: the same parts take their state
back, new ones start as they are, and what cannot fit is an error before any training.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clkd.engine.carry import padded
from clkd.engine.compose import Composition, rehearse_growth
from clkd.engine.evaluate import evaluate, known_experiences
from clkd.engine.groundwork import augment_options
from clkd.engine.loop import Loop
from clkd.engine.material import Past, differing
from clkd.engine.origin import Fork, State
from clkd.engine.parts import grow
from clkd.engine.run import Run
from clkd.engine.state import restore, spec_of, student_state, term_state
from clkd.engine.term import Term
from clkd.errors import UserError
from clkd.experience import Experience
from clkd.losses.base import Loss
from clkd.memory.table import EXTRA
from clkd.metrics.base import Record
from clkd.models.student import Student
from clkd.optimizers import OPTIMIZERS, build_optimizer
from clkd.options import Options, Part
from clkd.scenario.model import Scenario
from clkd.scenario.names import term_name
from clkd.seeding import generator

log = logging.getLogger("clkd.engine")


def take_over(fork: Fork, before: Scenario, run: Run, composed: Composition, loop: Loop) -> None:
    """Bring a freshly composed training to where the origin stood.

    Raises:
        UserError: what was learned does not fit what was composed.
    """
    fresh = copy.deepcopy(composed.parts.student)
    state = _Carry(fork.state, before, run.scenario, composed, fork.manifest["stream"][0]["augment"]).state()
    restore(state, run, composed.parts, loop)
    _take_optimizer(fork.state["optimizer"], before, composed, loop)
    last = composed.stream[fork.experience]
    for name, teacher in composed.parts.teachers.items():
        if not _same(before.teachers.get(name), run.scenario.teachers[name]):
            # As if it had been there: the previous self is the student now.
            teacher.end(last, composed.parts.students[teacher.of])
    for student in composed.parts.students.values():
        rehearse_growth(student, composed.stream.experiences[fork.experience + 1 :])
    _look_ahead(fork.past, run.record, composed, loop, fresh)


@dataclass(frozen=True, slots=True)
class _Carry:
    """From what the origin saved to what `restore` reads into other parts."""

    saved: State
    before: Scenario
    now: Scenario
    composed: Composition
    standard: Mapping[str, Any]
    """How the data is augmented where the scenario leaves it at that."""

    def state(self) -> State:
        parts = self.composed.parts
        return {
            **self.saved,
            "run": {**self.saved["run"], "record": self._record()},
            "student": _carried("student", parts.student, self.saved["student"]),
            "peers": {name: self._peer(name) for name in parts.peers},
            "terms": {term.name: self._term(term) for term in parts.terms},
            "teachers": {name: self._teacher(name) for name in parts.teachers},
            "memory": self._memory(),
            "transfer": self._transfer(),
            "optimizer": None,  # read by `_take_optimizer`, once all parameters are there
        }

    def _record(self) -> dict[str, Any]:
        old = Record.from_state(self.saved["run"]["record"])
        new = Record.empty(len(self.composed.stream), self.composed.stream.task_labels)
        width = min(old.experiences, new.experiences)
        for i in range(old.trained):
            new.class_incremental[i][:width] = old.class_incremental[i][:width]
            new.task_aware[i][:width] = old.task_aware[i][:width]
        new.baseline[:width] = old.baseline[:width]
        new.confusion, new.trained, new.validation = old.confusion, old.trained, old.validation
        new.anytime = old.anytime
        return new.state_dict()

    def _peer(self, name: str) -> State:
        """One that the origin did not have starts untrained, with room for all classes that came so far."""
        peer, saved = self.composed.parts.peers[name], self.saved.get("peers", {}).get(name)
        if saved is not None:
            return _carried(f"peers.{name}", peer, saved)
        for experience in self.composed.stream[: self.saved["run"]["record"]["trained"]]:
            grow(name, peer, experience, self.now.seed)
        return student_state(peer)

    def _term(self, term: Term) -> State:
        """What a term had learned, if it is still of the same kind and shape."""
        saved = self.saved["terms"].get(term.name)
        fresh = {**term_state(term), "specs": None}
        kinds = [{term_name(part.dump()): part.name for part in each.losses} for each in (self.before, self.now)]
        if saved is None or kinds[0].get(term.name) != kinds[1][term.name]:
            return fresh
        weight = {"weight": fresh["weight"]} if "weight" in fresh else {}
        if weight and _shapes(saved.get("weight", {})) == _shapes(weight["weight"]):
            weight = {"weight": saved["weight"]}
        return {**(saved if self._fits(term, saved) else fresh), **weight}

    def _fits(self, term: Term, saved: State) -> bool:
        trial = copy.deepcopy(term.loss)
        if not _bound_alike(trial, term, saved["specs"]):
            log.info("losses: %s starts afresh, since it compares something else now", term.name)
            return False
        if _shapes(trial.state_dict()) == _shapes(saved["state"]):
            return True
        log.info("losses: %s starts afresh, since its parameters have another shape now", term.name)
        return False

    def _teacher(self, name: str) -> State:
        if _same(self.before.teachers.get(name), self.now.teachers[name]):
            kept: State = self.saved["teachers"][name]
            return kept
        return self.composed.parts.teachers[name].state_dict()

    def _memory(self) -> State:
        old, new = self.before.memory, self.now.memory
        if new.name == "none" or old.name == "none":
            return self.composed.parts.memory.state_dict()
        if old.name != new.name:
            raise UserError(
                f"memory: the origin's is '{old.name}', whose rows cannot be handed to '{new.name}': keep it, or go on "
                f"with memory: none"
            )
        for key in _changed(old.options, new.options):
            if key != "size":
                raise UserError(f"memory.{key}: cannot change, since the rows that are kept came by it")
        saved: State = self.saved["memory"]
        self._refuse_other_views(saved.get("table", {}).get(f"{EXTRA}view"))
        return saved

    def _refuse_other_views(self, stored: Tensor | None) -> None:
        """What was said about a view is compared with that view again: its number must name the same picture."""
        if stored is None:
            return
        views = self.composed.parts.augment.views or 1
        if int(stored.max()) >= views:
            raise UserError(
                f"stream.augment.views: {views} are too few, since the rows that are kept were stored in "
                f"{int(stored.max()) + 1} views: give as many, or go on with memory: none"
            )
        old, new = (augment_options(each, self.standard) for each in (self.before, self.now))
        for key in ("crop", "flip"):
            if getattr(old, key) != getattr(new, key):
                raise UserError(
                    f"stream.augment.{key}: cannot change, since the rows that are kept were stored with what was said "
                    "of them in views that it makes: keep it, or go on with memory: none"
                )

    def _transfer(self) -> State:
        """What strategies of the same names had learned, if it fits: some are made for what they are to read."""
        transfer, saved = self.composed.parts.transfer, self.saved["transfer"]
        if _same(self.before.transfer, self.now.transfer):
            try:
                copy.deepcopy(transfer).load_state_dict(saved)
            except RuntimeError:
                log.info("transfer: starts afresh, since its parameters have another shape now")
            else:
                kept: State = saved
                return kept
        return transfer.state_dict()


def _bound_alike(trial: Loss, term: Term, specs: Any) -> bool:
    """Bind a loss of the fork's to what the origin's was bound to; whether that is what it compares, and could be."""
    if specs is None:
        return True
    a, b = specs
    if [side and side["feature"] for side in specs] != [side and side.feature for side in (term.a, term.b)]:
        return False
    try:
        trial.bind(spec_of(a), spec_of(b) if b else None)
    except (KeyError, UserError):  # a layer that was not read then, or classes that were too few for it
        return False
    return True


def _carried(place: str, student: Student, saved: State) -> State:
    """A head that has columns from the start keeps those that it has beyond the origin's."""
    layout, fresh = saved["layout"], student.layout()
    if min(layout["born"], default=0) < 0 <= min(fresh["born"], default=0):
        raise UserError(
            f"{place}: the origin's head has columns for classes to come, which another head would never take for "
            "theirs: keep the head fixed"
        )
    state = dict(saved["state"])
    more = [i for i, c in enumerate(fresh["class_ids"]) if c not in layout["class_ids"]]
    if more:
        born = [*layout["born"], *[-1] * len(more)]
        layout = {**layout, "class_ids": [*layout["class_ids"], *(fresh["class_ids"][i] for i in more)], "born": born}
        for name in ("head.weight", "head.bias"):
            if name in state:
                state[name] = torch.cat([state[name], student.state_dict()[name][more].cpu()])
    student.lay_out(layout)
    trial = copy.deepcopy(student)
    with suppress(RuntimeError):  # what does not fit is named below, once layers have made room that can
        trial.load_state_dict(state)
    own, theirs = _shapes(trial.state_dict()), _shapes(state)
    for name in [*own, *theirs]:
        if own.get(name) != theirs.get(name):
            raise UserError(
                f"{place}: the origin's is another one ({name} is {_said(theirs.get(name))} there and "
                f"{_said(own.get(name))} here): a new run from it needs the same model and head"
            )
    return {"layout": layout, "state": state}


def _take_optimizer(saved: State | None, before: Scenario, composed: Composition, loop: Loop) -> None:
    """Moments and counts of each parameter that is still there; none where the new optimizer keeps other things."""
    old, new = before.train.optimizer, loop.options.optimizer
    if saved is None or not loop.options.keep_optimizer:
        return
    kept = OPTIMIZERS[new.kind].keywords  # switches for speed are in an optimizer's only if they are given
    if old.kind != new.kind or any(bool(old.keywords[key]) != bool(new.keywords[key]) for key in kept):
        log.info("train.optimizer: starts afresh, since the origin's kept other things")
        return
    optimizer = build_optimizer(new, composed.parts.parameters())
    own, known = optimizer.state_dict(), saved["param_groups"][0]["params"]
    parameters = list(composed.parts.parameters())
    peers = list(before.peers) == list(composed.parts.peers)
    if not peers or len(parameters) != len(known):  # the losses have others now; the students' come first
        students = composed.parts.students.values() if peers else [composed.parts.student]
        parameters = [p for model in students for p in model.parameters() if p.requires_grad]
    own["state"] = {
        place: padded(saved["state"][index], parameter)
        for place, (index, parameter) in enumerate(zip(known, parameters, strict=False))
        if index in saved["state"]
    }
    optimizer.load_state_dict(own)
    loop.optimizer = optimizer


def _look_ahead(past: Past, record: Record, composed: Composition, loop: Loop, fresh: Student) -> None:
    """What the origin could not know: how the student, and an untrained one, do on experiences that it did not have."""
    new = [i for i in differing(past.facts, composed.material.facts) if i >= past.trained]
    if not new:
        return
    experiences = [composed.stream[i] for i in new]
    fresh.grow(composed.stream[0].classes, 0, generator(loop.seed, "head", 0))
    for experience, (share, aware) in _shares(fresh, experiences, composed, loop):
        record.baseline[experience.index] = aware if record.task_labels else share
    for row in (record.class_incremental[past.trained - 1], record.task_aware[past.trained - 1]):
        for i in new:
            row[i] = math.nan
    coming = [each for each in experiences if each.index == past.trained]
    for experience, (share, aware) in _shares(composed.parts.student, coming, composed, loop):
        record.class_incremental[past.trained - 1][experience.index] = share
        record.task_aware[past.trained - 1][experience.index] = aware


def _shares(
    student: Student, experiences: Sequence[Experience], composed: Composition, loop: Loop
) -> list[tuple[Experience, tuple[float, float]]]:
    """Accuracy, class-incremental and task-aware, on those experiences that the student has columns for."""
    known = known_experiences(student, experiences)
    if not known:
        return []
    size, classes = loop.options.eval_batch_size, len(composed.stream.class_names)
    found = evaluate(student, known, composed.parts.augment, size, classes, ranks=loop.ranks)
    return list(zip(known, zip(found.accuracy, found.task_aware, strict=True), strict=True))


def _same(a: Part | None, b: Part) -> bool:
    """Whether a part is still of the kind it was, and a teacher still made from whom it was."""
    return a is not None and a.name == b.name and getattr(a.options, "of", None) == getattr(b.options, "of", None)


def _changed(a: Options, b: Options) -> list[str]:
    return [key for key in type(b).model_fields if getattr(a, key) != getattr(b, key)]


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}


def _said(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else str(list(shape))
