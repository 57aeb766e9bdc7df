"""What a run consists of, in words for people and in numbers for comparison."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from clkd.data.store import Store
from clkd.engine.compose import Composition
from clkd.engine.expect import expected
from clkd.engine.parts import Parts
from clkd.engine.planned import planned_steps
from clkd.engine.term import STUDENT, Term
from clkd.memory.base import Memory
from clkd.models.cost import multiply_accumulates, parameter_count
from clkd.options import Part
from clkd.scenario.augment import Augment
from clkd.scenario.model import Scenario
from clkd.scenario.phase import PhaseOptions
from clkd.scenario.stream import StreamOptions
from clkd.scenario.train import TrainOptions
from clkd.schedules.base import Schedule
from clkd.streams.base import Stream
from clkd.teachers.base import Teacher
from clkd.transfer.several import Several
from clkd.view import View


def facts(composed: Composition) -> dict[str, float]:
    """Parameters and multiply-accumulates per row, of each student (before it grows) and of each teacher's network."""
    shape = composed.stream.shape
    networks: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        name: (student, shape) for name, student in composed.parts.students.items()
    }
    for name, teacher in composed.parts.teachers.items():
        if (module := teacher.module()) is not None:
            networks[name] = module, shown(teacher, shape)
    counted: dict[str, float] = {}
    for name, (network, seen) in networks.items():
        counted[f"{name}_parameters"] = parameter_count(network)
        counted[f"{name}_macs"] = multiply_accumulates(network, seen)
    if composed.store.skipped:
        counted["data/skipped_pictures"] = composed.store.skipped
    if composed.store.repeated:
        counted["data/test_rows_trained_on"] = composed.store.repeated
    return counted


def shown(teacher: Teacher, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a teacher's network gets a row of `shape` in."""
    view: View | None = getattr(teacher, "view", None)
    return shape if view is None else view.shape(shape)


def describe(scenario: Scenario, composed: Composition, numbers: dict[str, float]) -> dict[str, str]:
    """One line for each thing that takes part."""
    parts, stream = composed.parts, composed.stream
    shape = "×".join(map(str, stream.shape))
    lines = {
        "data": f"{composed.store.name}: {len(composed.store.train.y):,} training rows of {shape}, "
        f"{len(stream.class_names)} classes"
        + (f", {composed.store.skipped:,} corrupt pictures left out" if composed.store.skipped else "")
        + _repeated(composed.store)
        + _nameless(stream),
        **_named(stream.class_names),
        "stream": _arrival(scenario.stream, stream),
        "student": f"{scenario.student.model.name} with a {scenario.student.head.name} head, {_size(STUDENT, numbers)}",
    }
    for name, peer in scenario.peers.items():
        lines[f"peer {name}"] = f"{peer.model.name} with a {peer.head.name} head, {_size(name, numbers)}"
    if scenario.stream.extensions:
        lines["extended by"] = ", ".join(each.dataset.name for each in scenario.stream.extensions)
    for name, part in scenario.teachers.items():
        size = f", {_size(name, numbers)}" if f"{name}_parameters" in numbers else ""
        lines[f"teacher {name}"] = f"{part.name}{size}"
    lines["loss"] = " + ".join(_formula(term) for term in parts.terms)
    if scenario.transfer.name != "none":
        lines["transfer"] = _transfer(scenario.transfer, parts)
    if scenario.train.gradient:
        lines["gradient"] = f"{scenario.train.gradient.name}, against replayed rows"
    if scenario.memory.name != "none":
        lines["memory"] = _memory(scenario.memory, parts.memory)
    lines["training"] = _training(scenario.train, stream)
    lines |= {f"phase {phase.name}": _phase(phase) for phase in scenario.phases}
    if told := "; ".join(expected(scenario, composed)):
        lines["expect"] = told
    return lines


NAMED = 12
"""So many classes are named."""


def _named(names: Sequence[str]) -> dict[str, str]:
    """Which number is which class, unless numbers are all there is."""
    if all(name == str(number) for number, name in enumerate(names)):
        return {}
    told = [f"{number} {name}" for number, name in enumerate(names[:NAMED])]
    return {"classes": ", ".join([*told, "…"] if len(names) > NAMED else told)}


def _transfer(part: Part, parts: Parts) -> str:
    if isinstance(parts.transfer, Several):
        return " + ".join(f"{_weight(parts.transfer.weights[name])}·{name}" for name in parts.transfer.names)
    return f"{_weight(parts.transfer_weight)}·{part.name}"


def _memory(part: Part, memory: Memory) -> str:
    given, retrieval = getattr(part.options, "size", "?"), getattr(part.shared, "retrieval", None)
    held = f"{given} rows" if isinstance(given, int) else f"{given}: {getattr(memory, 'size', '?')} rows"
    said = [part.name, "makes its rows up" if memory.invents else held]
    return ", ".join([*said, f"retrieved by {retrieval.name}"] if retrieval else said)


def _arrival(options: StreamOptions, stream: Stream) -> str:
    """How the data comes: what it is split by, and how the boundaries are."""
    split = options.split.options
    kind = {"repeated": "classes come again", "given": "as the data says"}
    percent = [(name, getattr(split, name, 0)) for name in ("blur", "fuzzy")]
    told = [
        kind.get(options.split.name, f"{options.split.name}-incremental"),
        *(f"{name} {value:g} %" for name, value in percent if value),
        *(["imbalanced"] if options.imbalance else []),
        *(["online"] if options.online else []),
        *([options.augment.mix.kind] if isinstance(options.augment, Augment) and options.augment.mix else []),
        *([] if options.boundaries else ["no boundaries"]),
    ]
    names = ", ".join(experience.name for experience in stream[:6]) + (", …" if len(stream) > 6 else "")
    return f"{', '.join(told)}, {len(stream)} experiences: {names}"


def _training(options: TrainOptions, stream: Stream) -> str:
    epochs = "epochs" if options.min_steps else f"{options.epochs} epoch{'s' * (options.epochs > 1)}"
    steps = f"{planned_steps(options, stream):,} steps in all"
    more = ", and those that kept rows add" if options.mix_memory else ""
    afresh = "from scratch in each experience, " if options.reset else ""
    return f"{afresh}{epochs} of batches of {options.batch_size} by {options.optimizer.kind}, {steps}{more}"


def _phase(phase: PhaseOptions) -> str:
    start = f", from experience {phase.from_experience}" if phase.from_experience else ""
    losses = " + ".join(phase.losses) or "cross_entropy"
    afresh = "from scratch, " if phase.reset else ""
    return f"{afresh}{phase.epochs} epochs of {phase.rows} rows, trains {phase.trains} by {losses}{start}"


def _repeated(store: Store) -> str:
    """Whoever was trained on a test row has not to know anything to get it right."""
    return f"; {store.repeated:,} of {len(store.test.y):,} test rows are training rows, too" if store.repeated else ""


def _nameless(stream: Stream) -> str:
    masks = [known for each in stream if (known := each.train.labelled()) is not None]
    return f"; {sum(int((~known).sum()) for known in masks):,} rows of the stream have no label" if masks else ""


def _size(name: str, numbers: dict[str, float]) -> str:
    parameters, macs = numbers[f"{name}_parameters"], numbers[f"{name}_macs"]
    return f"{parameters / 1e3:,.0f}k parameters, {macs / 1e6:,.1f}M multiply-accumulates"


def _formula(term: Term) -> str:
    sides = [str(side) for side in (term.a, term.b) if side]
    return f"{_weight(term.weight)}·{type(term.loss).__name__}({' ‖ '.join(sides)})"


def _weight(weight: float | Schedule) -> str:
    return f"{weight:g}" if isinstance(weight, int | float) else type(weight).__name__
