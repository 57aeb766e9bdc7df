"""All state of a training in one tree of tensors and plain values, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from clkd.engine.course import Course
from clkd.engine.loop import Arrival, Loop
from clkd.engine.parts import Parts
from clkd.engine.provenance import fitting
from clkd.engine.run import Run
from clkd.engine.saver import Saved
from clkd.engine.term import STUDENT, Term
from clkd.errors import UserError
from clkd.metrics.base import Record
from clkd.models.student import Student
from clkd.optimizers import build_optimizer
from clkd.signals import Spec


def gather(run: Run, parts: Parts, loop: Loop) -> dict[str, Any]:
    """Everything a later process needs to go on as if this one had not stopped, at an experience's end.

    Random state is not among it: generators are derived from (seed, purpose, experience, epoch) wherever they are used;
    those that live on (a memory's) are in the state of their owner.
    """
    return {
        "run": {
            "id": run.id,
            "rows": run.rows,
            "step": run.step,
            "seconds": dict(run.seconds),
            "epoch": run.epoch,
            "unevaluated": run.unevaluated,
            "report": run.report,
            "shift": run.shift,
            "record": run.record.state_dict(),
        },
        **_parts(parts),
        **_optimizer(parts, loop),
    }


def restore(state: dict[str, Any], run: Run, parts: Parts, loop: Loop) -> None:
    """Bring a freshly composed training to where `gather` saw it."""
    _restore_run(state["run"], run, loop)
    device = parts.device
    for name, student in parts.students.items():
        student.lay_out(_student_of(state, name)["layout"])
    _fill(parts, state)
    parts.modules().to(device)
    _take_optimizer(state, parts, loop)


def _optimizer(parts: Parts, loop: Loop) -> dict[str, Any]:
    """What is to be kept of it, and for which parameters: phases may have made more since, or ask for fewer now."""
    if loop.optimizer is None or not loop.options.keep_optimizer:
        return {"optimizer": None}
    own = {id(parameter) for group in loop.optimizer.param_groups for parameter in group["params"]}
    trained = [name for name, parameter in parts.modules().named_parameters() if id(parameter) in own]
    return {"optimizer": loop.optimizer.state_dict(), "trained": trained}


def _take_optimizer(state: dict[str, Any], parts: Parts, loop: Loop) -> None:
    if state["optimizer"] is not None:
        named = dict(parts.modules().named_parameters())
        trained = [named[name] for name in state["trained"]] if "trained" in state else parts.parameters()
        loop.optimizer = build_optimizer(loop.options.optimizer, trained)
        loop.optimizer.load_state_dict(state["optimizer"])


def gather_within(run: Run, parts: Parts, loop: Loop, entry: str | None) -> dict[str, Any]:
    """The same within an experience. `entry` names the checkpoint that the experience was entered from.

    What the parts made of that at the experience's begin is not here: it is made again from there (`restore_within`),
    by the same calls in the same order, and then filled. So no part has to know how to be saved half-way. All ranks
    have to ask together.

    Raises:
        ClkdError: a loss is no number any more, so that this is nothing to go on from.
    """
    now = loop.now
    assert now.course is not None, "asked between two steps"
    within = {"entry": entry, "course": now.course.state_dict()}
    run.rows, run.step, run.epoch = now.rows_so_far, now.progress.step, now.first + now.progress.epoch
    state = gather(run, parts, loop)
    if now is loop:  # whose optimizer is in the course
        return {**state, "optimizer": None, "within": within}
    return {**state, "within": {**within, "phase": {"place": now.place, "first": now.first}}}


def restore_within(state: dict[str, Any], entry: dict[str, Any] | None, run: Run, parts: Parts, loop: Loop) -> None:
    """Bring a freshly composed training to the begin of the experience; the loop goes to the step once that is over."""
    if entry is not None:
        restore(entry, run, parts, loop)
    _restore_run(state["run"], run, loop)
    within = state["within"]["course"]
    _refuse_other_ranks(len(within["ranks"]), run, loop)

    def fill() -> None:
        with fitting():
            _fill(parts, state)
            _take_optimizer(state, parts, loop)

    def go(course: Course) -> None:
        with fitting():
            course.load_state_dict(within)

    def arrive(course: Course) -> None:
        fill()
        go(course)

    if phase := state["within"].get("phase"):
        loop.arrive, loop.arrival = go, Arrival(phase["place"], phase["first"], fill)
    else:
        loop.arrive = arrive


def go_back(saved: Saved, run: Run, parts: Parts, loop: Loop) -> str | None:
    """Restore a checkpoint of either kind; returns the name of the one that the next experience is entered from."""
    if within := saved.state.get("within"):
        restore_within(saved.state, saved.entry, run, parts, loop)
        entry: str | None = within["entry"]
        return entry
    restore(saved.state, run, parts, loop)
    return saved.path.name


def _restore_run(saved: dict[str, Any], run: Run, loop: Loop) -> None:
    run.rows, run.step, run.seconds = saved["rows"], saved["step"], dict(saved["seconds"])
    run.epoch, run.unevaluated = saved.get("epoch", 0), saved.get("unevaluated", False)
    run.report, run.shift = saved.get("report"), saved.get("shift")
    run.record = Record.from_state(saved["record"])
    loop.rows, loop.progress.step = run.rows, run.step
    loop.progress.forgetting = run.record.validated_forgetting


def _refuse_other_ranks(then: int, run: Run, loop: Loop) -> None:
    """Within an experience, each process has sums and random draws of its own to go on with."""
    if then != loop.ranks.world:
        raise UserError(
            f"--resume: {then} process(es) stopped within experience {run.record.trained}, and {loop.ranks.world} "
            f"cannot go on there: start {then}, or delete {run.directory}/checkpoints/step to go on from that "
            f"experience's begin"
        )


def _parts(parts: Parts) -> dict[str, Any]:
    return {
        STUDENT: student_state(parts.student),
        "peers": {name: student_state(peer) for name, peer in parts.peers.items()},
        "terms": {term.name: term_state(term) for term in parts.terms},
        "teachers": {name: teacher.state_dict() for name, teacher in parts.teachers.items()},
        "memory": parts.memory.state_dict(),
        "transfer": parts.transfer.state_dict(),
        **({"held_out": parts.held_out.state_dict()} if parts.held_out else {}),
    }


def _fill(parts: Parts, state: dict[str, Any]) -> None:
    """Put into parts of the right shapes what `_parts` took out of them."""
    for name, student in parts.students.items():
        student.load_state_dict(_student_of(state, name)["state"])
    for name, teacher in parts.teachers.items():
        teacher.load_state_dict(state["teachers"][name])
    for term in parts.terms:
        _bind(term, state["terms"][term.name]["specs"], parts.device)
        term.loss.load_state_dict(state["terms"][term.name]["state"])
        if isinstance(term.weight, nn.Module):
            term.weight.load_state_dict(state["terms"][term.name]["weight"])
    parts.memory.load_state_dict(state["memory"])
    parts.memory.to(parts.device)
    parts.transfer.load_state_dict(state["transfer"])
    if parts.held_out and "held_out" in state:  # a fork's origin may have held nothing out
        parts.held_out.load_state_dict(state["held_out"])
        parts.held_out.memory.to(parts.device)


def _bind(term: Term, saved: list[dict[str, Any] | None] | None, device: torch.device) -> None:
    """As it was bound when it was saved, by a phase that is not begun here perhaps: only that makes its parameters."""
    if saved is None:
        return
    a, b = saved
    assert a is not None, "every term has a first side"
    specs = spec_of(a), spec_of(b) if b else None
    if specs != term.specs:
        term.specs = specs
        term.loss.bind(*specs)
        term.to(device)


def student_state(student: Student) -> dict[str, Any]:
    """A student's columns and weights."""
    return {"layout": student.layout(), "state": student.state_dict()}


def _student_of(state: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = state[STUDENT] if name == STUDENT else state["peers"][name]
    return found


def term_state(term: Term) -> dict[str, Any]:
    """What a term was bound to, and what its loss and its weight have learned."""
    plain = None if term.specs is None else [None if spec is None else asdict(spec) for spec in term.specs]
    learned = {"weight": dict(term.weight.state_dict())} if isinstance(term.weight, nn.Module) else {}
    return {"specs": plain, "state": dict(term.loss.state_dict()), **learned}


def spec_of(plain: dict[str, Any]) -> Spec:
    """What `asdict` made of a spec, as a spec."""
    tuples: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in plain.items()}
    return Spec(**tuples)
