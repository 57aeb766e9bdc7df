"""What must fit together in a scenario, beyond each part on its own and the names in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clkd.errors import did_you_mean
from clkd.options import Part, Place, Problem
from clkd.registry import Registry
from clkd.scenario.model import Scenario
from clkd.scenario.names import STUDENT, model_of, term_name
from clkd.scenario.parts import parts
from clkd.scenario.phase import HELD_OUT, PhaseOptions


def check_whole(scenario: Scenario) -> Iterator[Problem]:
    """What parts themselves have to say about the scenario they are in."""
    for place, part in parts(scenario):
        problems = getattr(part.options, "problems", None)
        if problems is not None:
            yield from (_placed(place, part, problem) for problem in problems(scenario))
    yield from _check_phases(scenario)
    yield from _check_views(scenario)
    yield from _check_online(scenario)
    yield from _check_mixing(scenario)
    yield from _check_reset(scenario)


def _check_mixing(scenario: Scenario) -> Iterator[Problem]:
    """Where memory is mixed into the rows, nothing is drawn from it."""
    train = scenario.train
    if not train.mix_memory:
        return
    if train.replay_batch_size is not None:
        yield ("train", "replay_batch_size"), "train.mix_memory draws nothing, and batch_size counts both: leave it out"
    if train.replay_draws > 1:
        yield ("train", "replay_draws"), "train.mix_memory draws nothing: leave it out"
    if scenario.stream.online:
        yield ("train", "mix_memory"), "stream.online keeps the order in which rows arrive: draw from memory instead"
    if train.gradient is not None:
        yield ("train", "gradient"), "train.mix_memory puts rows together that it looks at apart: leave one of them out"
    if scenario.teaches_of_new_rows_alone:
        yield ("losses",), "train.mix_memory makes batches of replayed rows alone: let a loss be about all rows, too"


def _check_reset(scenario: Scenario) -> Iterator[Problem]:
    """Where the student begins anew in each experience, what goes on would be about another one."""
    if not scenario.train.reset:
        return
    if scenario.train.keep_optimizer:
        yield ("train", "keep_optimizer"), "train.reset begins with other weights than its state is about: leave it out"
    if scenario.peers:
        yield ("peers",), "train.reset is about the student alone, and peers would go on: leave one of the two out"


def _check_online(scenario: Scenario) -> Iterator[Problem]:
    """Where each row comes once, nothing trains on it again; without boundaries, nothing may mark one either."""
    stream, train = scenario.stream, scenario.train
    if stream.online:
        told = "stream.online is a single pass over the rows"
        if train.epochs > 1:
            yield ("train", "epochs"), f"{told}: set it to 1"
        if train.min_steps:
            yield ("train", "min_steps"), f"{told}: leave it out"
        for i, phase in enumerate(scenario.phases):
            if phase.rows != "memory":
                yield ("phases", i, "rows"), f"{told}: a phase may train on memory only"
    if not stream.boundaries:
        told = "stream.boundaries is false, so nothing tells where an experience ends"
        if not train.keep_optimizer:
            yield ("train", "optimizer"), f"{told}, but it starts afresh in each: set train.keep_optimizer: true"
        if train.scheduler is not None:
            yield ("train", "scheduler"), f"{told}, but it begins anew in each: leave it out"
        if train.gradient_noise is not None and train.gradient_noise.gamma:
            yield ("train", "gradient_noise"), f"{told}, but it dies away anew in each: set its gamma to 0"
        if train.reset:
            yield ("train", "reset"), f"{told}, and the student begins anew at that moment: leave it out"
        if scenario.phases:
            yield ("phases",), f"{told}, but phases come at that moment: leave them out"


def _check_phases(scenario: Scenario) -> Iterator[Problem]:
    """Phases that could not work: without rows, without anything to train, or with losses that never speak."""
    names = [phase.name for phase in scenario.phases]
    holding = [phase for phase in scenario.phases if phase.rows == HELD_OUT]
    for i, phase in enumerate(scenario.phases):
        place = ("phases", i)
        if names.index(phase.name) != i:
            yield (*place, "name"), f"'{phase.name}' is phases.{names.index(phase.name)} already"
        if phase.rows != HELD_OUT and scenario.memory.name == "none":
            yield (*place, "rows"), f"'{phase.rows}' needs rows that are kept: declare a memory"
        if phase in holding[1:]:
            yield (*place, "rows"), "one phase holds rows out: give the others memory or balanced"
        if phase.trains == "bias" and scenario.student.head.name != "bias_corrected":
            yield (*place, "trains"), "'bias' is what the head bias_corrected keeps for a phase: set student.head to it"
        for k, name in enumerate(phase.losses):
            if problem := _phase_loss(name, phase, scenario):
                yield (*place, "losses", k), problem
    spoken = {name for phase in scenario.phases for name in phase.losses}
    for i, (name, loss) in enumerate((term_name(each.dump()), each.dump()) for each in scenario.losses):
        for model in map(model_of, loss.get("between") or ()):
            teacher = scenario.teachers.get(model)
            if teacher and teacher.name == "before_phase" and name not in spoken:
                yield (
                    ("losses", i),
                    f"'{model}' speaks in phases alone, and none names '{name}': add it to phases.N.losses",
                )


def _phase_loss(name: str, phase: PhaseOptions, scenario: Scenario) -> str | None:
    """Why the phase cannot use the term of that name; None where it can."""
    terms = {term_name(part.dump()): part for part in scenario.losses}
    if name not in terms:
        return f"no loss is called '{name}' ({did_you_mean(name, terms)})"
    sides = terms[name].dump().get("between") or ()
    if any("@replay" in side for side in sides):
        return f"'{name}' is about replayed rows, and a phase has none: all its rows count as new"
    hears = {name for name in scenario.teachers if _heard(name, scenario)}
    if others := sorted({model_of(side) for side in sides} & (hears | set(scenario.peers))):
        return f"'{name}' needs '{others[0]}' to be trained as well, and a phase trains the student alone"
    if phase.rows == HELD_OUT and any(model_of(side) != STUDENT for side in sides):
        return f"'{name}' asks a teacher, who is not asked about held-out rows: name losses of the student alone"
    return None


def _heard(name: str, scenario: Scenario, above: frozenset[str] = frozenset()) -> set[str]:
    """The students that an ensemble repeats, by itself or by way of others."""
    members = set(getattr(scenario.teachers[name].options, "members", ()))
    deeper = (members & scenario.teachers.keys()) - above - {name}
    own = members & {STUDENT, *scenario.peers}
    return own.union(*(_heard(each, scenario, above | {name}) for each in deeper))


def _check_views(scenario: Scenario) -> Iterator[Problem]:
    """Where there is one view only, saying which one a teacher sees would change nothing; and who repeats what students
    have just said sees what they saw."""
    strong = getattr(scenario.stream.augment, "strong", None)
    if strong and strong.rows != "none":
        for name, teacher in scenario.teachers.items():
            trained = _heard(name, scenario)
            if trained and getattr(teacher.shared, "sees", "student") != "student":
                yield ("teachers", name, "sees"), f"it hears '{min(trained)}', who sees the strong view: leave this out"
        return
    for name, teacher in scenario.teachers.items():
        if getattr(teacher.shared, "sees", "student") != "student":
            yield (
                ("teachers", name, "sees"),
                "there is no other view: give stream.augment a strong one, or leave this out",
            )


def check_split(data: Mapping[str, Any], registry: Registry) -> Iterator[Problem]:
    """Whether there are classes enough for the split, where the data set's class count is known before it is read."""
    stream = data.get("stream")
    if not isinstance(stream, Mapping):
        return
    try:
        dataset = registry.get("datasets", _name(stream.get("dataset"), "name")).options
        split = registry.parse("streams", stream.get("split"))
    except ValueError:
        return  # the schema has said so already
    count, fits = getattr(dataset, "class_count", None), getattr(split.options, "problem", None)
    problem = fits(count) if count is not None and fits is not None else None
    if problem:
        yield _placed(("stream", "split"), split, problem)


def _name(raw: Any, selector: str) -> Any:
    return raw.get(selector) if isinstance(raw, Mapping) else raw


def _placed(place: Place, part: Part, problem: str) -> Problem:
    """A part may say which of its keys it means: `experiences: 11 experiences need at least 11 classes`."""
    key, colon, reason = problem.partition(": ")
    return ((*place, key), reason) if colon and key in type(part.options).model_fields else (place, problem)
