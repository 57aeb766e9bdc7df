"""All state of a training in one tree of tensors and plain values, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from clkd.engine.loop import Loop
from clkd.engine.parts import Parts
from clkd.engine.run import Run
from clkd.metrics.base import Record
from clkd.optimizers import build_optimizer
from clkd.signals import Spec


def gather(run: Run, parts: Parts, loop: Loop) -> dict[str, Any]:
    """Everything a later process needs to go on as if this one had not stopped.

    Random state is not among it: generators are derived from (seed, purpose, experience, epoch) wherever they are used;
    those that live on (a memory's) are in the state of their owner.
    """
    return {
        "run": {
            "id": run.id,
            "rows": run.rows,
            "step": run.step,
            "seconds": dict(run.seconds),
            "record": run.record.state_dict(),
        },
        "student": {"layout": parts.student.layout(), "state": parts.student.state_dict()},
        "terms": {term.name: _term(term.specs, term.loss.state_dict()) for term in parts.terms},
        "teachers": {name: teacher.state_dict() for name, teacher in parts.teachers.items()},
        "memory": parts.memory.state_dict(),
        "transfer": parts.transfer.state_dict(),
        "optimizer": loop.optimizer.state_dict() if loop.options.keep_optimizer and loop.optimizer else None,
    }


def restore(state: dict[str, Any], run: Run, parts: Parts, loop: Loop) -> None:
    """Bring a freshly composed training to where `gather` saw it."""
    saved = state["run"]
    run.rows, run.step, run.seconds = saved["rows"], saved["step"], saved["seconds"]
    run.record = Record.from_state(saved["record"])
    loop.rows, loop.progress.step = run.rows, run.step

    device = parts.device
    parts.student.lay_out(state["student"]["layout"])
    parts.student.load_state_dict(state["student"]["state"])
    for name, teacher in parts.teachers.items():
        teacher.load_state_dict(state["teachers"][name])
    for term in parts.terms:
        specs = state["terms"][term.name]["specs"]
        if specs is not None:  # bound before: its parameters have shapes that only binding again can make
            term.specs = spec_of(specs[0]), spec_of(specs[1]) if specs[1] else None
            term.loss.bind(*term.specs)
        term.loss.load_state_dict(state["terms"][term.name]["state"])
    parts.memory.load_state_dict(state["memory"])
    parts.memory.to(device)
    parts.transfer.load_state_dict(state["transfer"])
    parts.modules().to(device)
    if state["optimizer"] is not None:
        loop.optimizer = build_optimizer(loop.options.optimizer, parts.parameters())
        loop.optimizer.load_state_dict(state["optimizer"])


def _term(specs: tuple[Spec, Spec | None] | None, state: dict[str, Any]) -> dict[str, Any]:
    plain = None if specs is None else [None if spec is None else asdict(spec) for spec in specs]
    return {"specs": plain, "state": dict(state)}


def spec_of(plain: dict[str, Any]) -> Spec:
    """What `asdict` made of a spec, as a spec."""
    tuples: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in plain.items()}
    return Spec(**tuples)
