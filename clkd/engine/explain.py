"""What a scenario will train, experience by experience: the loss as a formula, who says what, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from clkd.cache import cache_directory
from clkd.engine.compose import Composer, Composition
from clkd.engine.describe import shown
from clkd.engine.parts import Parts
from clkd.engine.provenance import plugins_of
from clkd.engine.rehearse import Scene, rehearse
from clkd.engine.term import Term, span
from clkd.experience import Experience
from clkd.losses.base import common_columns
from clkd.losses.logits import LogitLoss
from clkd.memory.base import Memory
from clkd.models.cost import multiply_accumulates, parameter_count
from clkd.plugins import Plugins
from clkd.registry import Registry
from clkd.scenario.load import Loaded
from clkd.scenario.model import Scenario
from clkd.scenario.phase import PhaseOptions
from clkd.schedules.base import Progress, Schedule
from clkd.signals import Batch
from clkd.teachers.base import Teacher
from clkd.teachers.ensemble import Ensemble
from clkd.teachers.network import NetworkTeacher
from clkd.transfer.base import Transfer
from clkd.transfer.several import Several

BACKWARD = 3
"""A step of training costs about three forward passes: one forward, and two for the gradients of input and weights."""


def composed(loaded: Loaded, registry: Registry) -> Composition:
    """All that the scenario names, on the CPU, good for looking at: nothing is fitted, and every loss was tried.

    Raises:
        UserError: as `Composer.compose`.
    """
    composer = Composer(loaded.scenario, registry, torch.device("cpu"), cache_directory(), loaded.base)
    return composer.compose(teach=False)


def explain(loaded: Loaded, plugins: Plugins) -> dict[str, Any]:
    """Plain data: `experiences`, `plugins`, and rows in a step. Arithmetic is in multiply-accumulates per full step."""
    made = composed(loaded, plugins.registry)
    scenario = loaded.scenario
    replays = type(made.parts.memory) is not Memory and not scenario.train.mix_memory
    step = _full_step(scenario, replays)
    told: list[dict[str, Any]] = []
    known: dict[str, int] = {}
    for scene in rehearse(made.parts, made.stream.experiences):
        each = _experience(scene, scenario, step, known, recalls=not made.parts.memory.invents)
        come = made.stream[: scene.experience.index + 1]
        told.append({**each, "phases": [_phase(phase, come, scene, made, scenario) for phase in _due(scene, scenario)]})
    hooks = {plugin.name: sorted(plugin.hooks) for plugin in plugins.guests()}
    return {
        "scenario": scenario.name,
        "rows_per_step": {"new": step.new, "replayed": len(step) - step.new},
        "mix_memory": scenario.train.mix_memory,
        "reset": scenario.train.reset,
        "experiences": told,
        "plugins": {"parts": plugins_of(scenario, plugins.registry), "hooks": hooks},
    }


def _full_step(scenario: Scenario, replays: bool) -> Batch:
    """A batch of as many rows as a step has at most; there is nothing in them."""
    train = scenario.train
    drawn = (train.replay_batch_size or train.batch_size,) * train.replay_draws if replays else ()
    rows = torch.empty(train.batch_size + sum(drawn), 0)
    return Batch(rows, rows, rows, rows, rows, train.batch_size, draws=drawn)


def _experience(scene: Scene, scenario: Scenario, step: Batch, known: dict[str, int], recalls: bool) -> dict[str, Any]:
    parts, experience, rows = scene.parts, scene.experience, len(step)
    students = {
        name: multiply_accumulates(s, s.shape) * rows * BACKWARD * (parts.views(name) if parts.augment.varies else 1)
        for name, s in parts.students.items()
    }
    asked = {term.teacher for term in parts.active()} - {None}
    labelled = experience.train.labelled()
    teachers = {name: _teacher(name, parts, step, recalls) for name in parts.teachers if name in asked}
    return {
        "index": experience.index,
        "name": experience.name,
        "unlabelled": 0 if labelled is None else int((~labelled).sum()),
        "rows": len(experience.train),
        "mixed": parts.augment.mix.kind if parts.augment.mix else None,
        "new_classes": list(experience.new_classes),
        "old_classes": list(experience.old_classes),
        "loss": formula(scene, scenario),
        "waiting": scene.waiting,
        "left_out": scene.undefined,
        "teachers": teachers,
        "at_end": [name for name, strategy in strategies(parts, scenario) if _changes_the_student(strategy)],
        "created": _created(parts, scenario, known),
        "student_parameters": parameter_count(parts.student),
        "peers": {name: parameter_count(peer) for name, peer in parts.peers.items()},
        "macs_per_step": students | {name: each["macs_per_step"] for name, each in teachers.items()},
    }


def _due(scene: Scene, scenario: Scenario) -> list[PhaseOptions]:
    return [phase for phase in scenario.phases if scene.experience.index >= phase.from_experience]


def _phase(
    phase: PhaseOptions, come: Sequence[Experience], scene: Scene, made: Composition, scenario: Scenario
) -> dict[str, Any]:
    """What one phase will do: as many rows as there can be at most, steps, and what a full step costs."""
    size = phase.batch_size or scenario.train.batch_size
    rows = _most_rows(phase, come, getattr(made.parts.memory, "size", 0))
    student = scene.parts.student
    passes = BACKWARD if phase.trains == "all" else 1
    return {
        "name": phase.name,
        "rows": rows,
        "steps": phase.epochs * -(-rows // size),
        "trains": phase.trains,
        "macs_per_step": multiply_accumulates(student, student.shape) * size * passes,
    }


def _most_rows(phase: PhaseOptions, come: Sequence[Experience], size: int) -> int:
    """How many rows a phase has at most, once the experiences `come` were trained, where memory shares its room out
    evenly among classes."""
    everything = sum(len(each.train) for each in come)
    if phase.share is not None and phase.keep is not None:
        return min(phase.keep, round(phase.share * everything))
    if phase.rows == "memory":
        return min(size, everything)
    seen, kept = come[-1].seen, size // len(come[-1].seen)
    own, earlier = (
        {c: sum(int((each.train.y == c).sum()) for each in part) for c in seen} for part in (come[-1:], come[:-1])
    )
    there = [own[c] + min(earlier[c], kept) for c in seen if own[c] or min(earlier[c], kept)]
    return len(there) * min(there, default=0)


def formula(scene: Scene, scenario: Scenario) -> str:
    """The weighted sum that is minimised in this experience.

    `0.67·` is a weight that stays, `0→2·` one that moves from the first step to the last, `Name·` one that depends on
    what models say.
    """
    parts, experience = scene.parts, scene.experience
    sums = [f"{_weight(term.weight, experience, scenario)}·{_described(term)}" for term in parts.active()]
    sums += [f"{_weight(weight, experience, scenario)}·{name}" for name, weight in speaking(parts, scenario)]
    return " + ".join(sums)


def speaking(parts: Parts, scenario: Scenario) -> list[tuple[str, float | Schedule]]:
    """The transfer strategies that add to the loss, by name, each with its weight."""
    weights = parts.transfer.weights if isinstance(parts.transfer, Several) else {}
    each = strategies(parts, scenario)
    return [(name, weights.get(name, parts.transfer_weight)) for name, strategy in each if strategy.speaks]


def strategies(parts: Parts, scenario: Scenario) -> list[tuple[str, Transfer]]:
    """All transfer strategies, by name."""
    transfer = parts.transfer
    if isinstance(transfer, Several):
        return list(zip(transfer.names, transfer.each(), strict=True))
    return [(scenario.transfer.name, transfer)]


def _changes_the_student(strategy: Transfer) -> bool:
    """Whether it does anything once an experience was trained."""
    return any(getattr(type(strategy), moment) is not getattr(Transfer, moment) for moment in ("review", "end"))


def _described(term: Term) -> str:
    sides = " ‖ ".join(str(side) for side in (term.a, term.b) if side)
    if term.specs and term.specs[1] and term.loss.reads(0).logits:
        common = term.loss.common if isinstance(term.loss, LogitLoss) else common_columns
        at_a, _ = common(term.specs[0], term.specs[1])
        sides += f", {classes([term.specs[0].class_ids[i] for i in at_a.tolist()])}"
    return term.loss.formula(sides)


def _weight(weight: float | Schedule, experience: Experience, scenario: Scenario) -> str:
    if not isinstance(weight, Schedule):
        return f"{weight:.2f}" if abs(weight) >= 0.01 else f"{weight:g}"
    if weight.reads_signals:
        return type(weight).__name__
    first, last = (weight(progress) for progress in _ends(experience, scenario))
    if isinstance(first, torch.Tensor) or isinstance(last, torch.Tensor):
        return type(weight).__name__
    return f"{first:.2f}" if first == last else f"{first:.2f}→{last:.2f}"


def _ends(experience: Experience, scenario: Scenario) -> tuple[Progress, Progress]:
    """The first and the last step of the experience."""
    steps = max(-(-len(experience.train) // scenario.train.batch_size), 1)
    epochs = max(scenario.train.epochs, -(-scenario.train.min_steps // steps))
    first = Progress(
        experience=experience.index,
        experiences=experience.count,
        epochs=epochs,
        epoch_steps=steps,
        old_classes=len(experience.old_classes),
        seen_classes=len(experience.seen),
    )
    return first, replace(first, epoch=epochs - 1, epoch_step=steps - 1)


def _teacher(name: str, parts: Parts, step: Batch, recalls: bool) -> dict[str, Any]:
    """`recalls`: whether anybody can be asked ahead, since memory's rows are known before they come."""
    teacher, student = parts.teachers[name], parts.student
    asked, (start, stop) = _asked(teacher), span(parts.compared(name), step)
    own = [] if student.view is None else [student.view.facts()]
    views = [view.facts() for view in teacher.views()] if isinstance(teacher, NetworkTeacher) else own
    recalled = [recalls and _recalled(each, parts) for each in asked]
    costs = [
        multiply_accumulates(network, shown(each, student.shape)) * (stop - start) for each, network in asked.items()
    ]
    return {
        "classes": list(teacher.spec().class_ids),
        "view": "the student's" if views == own else (views[0] if len(views) == 1 else views) or "whole rows",
        "sees": teacher.sees,
        "recalled": bool(recalled) and all(recalled),
        "parameters": sum(parameter_count(network) for network in asked.values()),
        "macs_per_step": sum(cost for cost, free in zip(costs, recalled, strict=True) if not free),
    }


def _asked(teacher: Teacher) -> dict[Teacher, nn.Module]:
    """Those who pass rows through a network when the teacher speaks: an ensemble's members, any other by itself."""
    if isinstance(teacher, Ensemble):
        return {one: network for member in teacher.members if member.ready for one, network in _asked(member).items()}
    network = teacher.module()
    return {} if network is None else {teacher: network}


def _recalled(teacher: Teacher, parts: Parts) -> bool:
    """Whether it is told ahead what it will be asked; the past selves within a `snapshot` are not."""
    told = any(teacher is each for each in parts.teachers.values())
    return bool(told and parts.augment.fixed_for(teacher.sees) and teacher.frozen and teacher.recall)


def _created(parts: Parts, scenario: Scenario, known: dict[str, int]) -> dict[str, int]:
    """Numbers in what losses and strategies have of their own that they had not before; `known` is brought up.

    A loss's by `term.module.parameter`, a strategy's by `strategy.module`.
    """
    now = {f"{term.name}.{name}": each.numel() for term in parts.terms for name, each in term.loss.named_parameters()}
    for strategy, own in strategies(parts, scenario):
        now |= {f"{strategy}.{name}": parameter_count(each) for name, each in own.named_children()}
    made = {name: count for name, count in now.items() if known.get(name) != count}
    known.update(now)
    return made


def classes(ids: Iterable[int]) -> str:
    """Class ids for people.

    >>> classes([0, 1, 2, 5]), classes([3]), classes([])
    ('classes 0–2, 5', 'class 3', 'no class')
    """
    runs: list[list[int]] = []
    for each in sorted(ids):
        if runs and each == runs[-1][-1] + 1:
            runs[-1].append(each)
        else:
            runs.append([each])
    if not runs:
        return "no class"
    words = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
    return f"{'class' if len(runs) == 1 and len(runs[0]) == 1 else 'classes'} {words}"


def text(told: dict[str, Any]) -> str:
    """The same for people; experiences that differ in nothing but their rows are told once."""
    rows = told["rows_per_step"]
    replayed = "or kept" if told["mix_memory"] else f"and up to {rows['replayed']} replayed"
    afresh = "; in each experience the student begins anew" if told["reset"] else ""
    lines = [f"{told['scenario']}: steps of {rows['new']} new {replayed} rows{afresh}"]
    blocks: list[tuple[list[dict[str, Any]], list[str]]] = []
    for each in told["experiences"]:
        block = _block(each)
        if blocks and blocks[-1][1] == block:
            blocks[-1][0].append(each)
        else:
            blocks.append(([each], block))
    for group, block in blocks:
        lines += [_heading(group), *(f"  {line}" for line in block)]
    plugins = told["plugins"]
    lines += [f"parts of plugins: {', '.join(plugins['parts']) or 'none'}"]
    lines += [f"hooks of {name}: {', '.join(hooks)}" for name, hooks in plugins["hooks"].items()]
    return "\n".join(lines)


def _heading(group: list[dict[str, Any]]) -> str:
    first, last = group[0], group[-1]
    if first is last:
        return f"experience {first['index']}: {first['name']}"
    return f"experiences {first['index']} to {last['index']}: {first['name']} … {last['name']}"


def _block(each: dict[str, Any]) -> list[str]:
    new, old = each["new_classes"], each["old_classes"]
    lines = [f"new {classes(new)}; old {classes(old)}"]
    if each["unlabelled"]:
        lines.append(f"{each['unlabelled']:,} of {each['rows']:,} rows have no label")
    if each["mixed"]:
        lines.append(f"rows are mixed with each other ({each['mixed']}), and all see them so")
    lines.append(f"loss = {each['loss']}")
    lines += [f"{name} waits: {teacher} has nothing to say yet" for name, teacher in each["waiting"].items()]
    lines += [f"{name} is left out: {reason}" for name, reason in each["left_out"].items()]
    for name, teacher in each["teachers"].items():
        named = {"the student's": "the student's view", "whole rows": "whole rows"}
        view = named.get(str(teacher["view"]), f"its own view {teacher['view']}")
        view += " before it is made strong" if teacher["sees"] == "weak" else ""
        how = ", answers recalled" if teacher["recalled"] else ""
        lines.append(f"{name} sees {view}, knows {classes(teacher['classes'])}{how}")
    lines += [f"at its end, {name} changes the student" for name in each["at_end"]]
    lines += [
        f"phase {phase['name']}: up to {phase['rows']:,} rows, {phase['steps']:,} steps, trains {phase['trains']}; "
        f"multiply-accumulates a step: student {phase['macs_per_step'] / 1e6:,.1f}M"
        for phase in each["phases"]
    ]
    lines += [f"new parameters: {name}, {count:,}" for name, count in each["created"].items()]
    lines += [f"{name}, a peer of {count:,} parameters" for name, count in each["peers"].items()]
    costs = ", ".join(f"{name} {count / 1e6:,.1f}M" for name, count in each["macs_per_step"].items())
    lines.append(f"student of {each['student_parameters']:,} parameters; multiply-accumulates a step: {costs}")
    return lines
