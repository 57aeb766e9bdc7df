"""What must fit together in a scenario, beyond each part on its own.

The first checks read the plain data, so that they find their mistakes even where another part is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from clkd.errors import did_you_mean
from clkd.options import Opened, Options, Part, Place, SeveralParts
from clkd.registry import Registry
from clkd.scenario.model import HELD_OUT, MOST_DRAWS, PhaseOptions, Scenario

STUDENT = "student"
ROWS = ("@new", "@replay")
RESERVED = ("loss", "transfer")
"""What logs call the sum of all terms, and the transfer strategy's."""
Problem = tuple[Place, str]


@dataclass(frozen=True, slots=True)
class Models:
    """Who is named in a scenario, beside the student."""

    peers: tuple[str, ...]
    teachers: Mapping[str, Any]

    @property
    def all(self) -> list[str]:
        return [STUDENT, *map(str, self.peers), *map(str, self.teachers)]


def check_names(data: Mapping[str, Any], registry: Registry) -> Iterator[Problem]:
    """Who compares whom: every model named exists, and every teacher is named."""
    teachers, peers = data.get("teachers") or {}, data.get("peers") or {}
    losses = data.get("losses") or []
    if not isinstance(teachers, Mapping) or not isinstance(losses, Sequence) or isinstance(losses, str):
        return  # the schema has said so already
    models = Models(tuple(peers) if isinstance(peers, Mapping) else (), teachers)
    used: set[str] = set()
    train = data.get("train")
    draws = train.get("replay_draws", 1) if isinstance(train, Mapping) else 1
    for i, loss in enumerate(losses):
        yield from _check_term(("losses", i), loss, models, registry, used)
        yield from _check_rows(("losses", i), loss, draws if isinstance(draws, int) else 1)
    for name, teacher in teachers.items():
        yield from _check_members(("teachers", name, "members"), name, teacher, models, used)
    yield from _check_teachers(teachers, used)
    yield from _check_peers(models, losses)
    yield from _check_term_names(losses)


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
    if all(_of_new_rows(part) for part in scenario.losses if not getattr(part.options, "regularises", False)):
        yield ("losses",), "train.mix_memory makes batches of replayed rows alone: let a loss be about all rows, too"


def _of_new_rows(loss: Part) -> bool:
    """Rows named on one side hold for both."""
    return any(side.endswith("@new") for side in getattr(loss.shared, "between", None) or ())


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


def _phase_loss(name: str, phase: PhaseOptions, scenario: Scenario) -> str | None:
    """Why the phase cannot use the term of that name; None where it can."""
    terms = {_term_name(part.dump()): part for part in scenario.losses}
    if name not in terms:
        return f"no loss is called '{name}' ({did_you_mean(name, terms)})"
    sides = terms[name].dump().get("between") or ()
    if any("@replay" in side for side in sides):
        return f"'{name}' is about replayed rows, and a phase has none: all its rows count as new"
    trained = {STUDENT, *scenario.peers}
    hears = {name for name, part in scenario.teachers.items() if trained & set(getattr(part.options, "members", ()))}
    if others := sorted({_model(side) for side in sides} & (hears | set(scenario.peers))):
        return f"'{name}' needs '{others[0]}' to be trained as well, and a phase trains the student alone"
    if phase.rows == HELD_OUT and any(_model(side) != STUDENT for side in sides):
        return f"'{name}' asks a teacher, who is not asked about held-out rows: name losses of the student alone"
    return None


def _check_views(scenario: Scenario) -> Iterator[Problem]:
    """Where there is one view only, saying which one a teacher sees would change nothing; and who repeats what students
    have just said sees what they saw."""
    if getattr(scenario.stream.augment, "strong", None):
        for name, teacher in scenario.teachers.items():
            trained = {STUDENT, *scenario.peers} & set(getattr(teacher.options, "members", ()))
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


def parts(value: Any, place: Place = ()) -> Iterator[tuple[Place, Part]]:
    """Every part below `value`, those inside other parts' options too, with its place."""
    if isinstance(value, SeveralParts):
        yield from parts(value.members, place)
    elif isinstance(value, Part):
        yield place, value
        yield from parts(value.options, place)
        yield from parts(value.shared, place)
    elif isinstance(value, Options):
        for name in type(value).model_fields:
            yield from parts(getattr(value, name), (*place, name))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from parts(inner, (*place, key))
    elif isinstance(value, tuple | list):
        for i, inner in enumerate(value):
            yield from parts(inner, (*place, i))


def _check_term(place: Place, loss: Any, models: Models, registry: Registry, used: set[str]) -> Iterator[Problem]:
    between = loss.get("between") if isinstance(loss, Mapping) else None
    sides = _sides(loss, registry)
    if between is None:
        if sides == 2:
            known = ", ".join(models.all)
            yield place, f"compares two models: say which with between: [student, …] (models here: {known})"
        return
    if not isinstance(between, list) or not all(isinstance(side, str) for side in between):
        return
    place = (*place, "between")
    if len(between) not in (1, 2) or (sides is not None and len(between) != sides):
        wanted = {1: "one model", 2: "two models", None: "one or two models"}[sides]
        yield place, f"name {wanted}; got {len(between)}"
    named = [_model(side) for side in between]
    for i, model in enumerate(named):
        used.add(model)
        if model not in models.all:
            used.update(get_close_matches(model, models.teachers, n=1))  # it is meant, so do not call it unused too
            missing = "" if models.teachers else ": declare it as a teacher, under teachers"
            yield (*place, i), f"model '{model}' is not known ({did_you_mean(model, models.all)}){missing}"
    if between and all(model in models.teachers for model in named):
        yield place, "no side is the student, so nobody would learn from it"
    elif between and named[0] in models.teachers:
        yield place, f"the first side learns, and '{named[0]}' is a teacher: write [{between[1]}, {between[0]}]"
    elif len(between) == 2 and between[0] == between[1] and named[0] in models.peers:
        yield place, f"both sides are the same, so '{named[0]}' would learn nothing: name another model, tap or rows"


def _check_rows(place: Place, loss: Any, draws: int) -> Iterator[Problem]:
    """`@new`, `@replay`, and `@replay1` … for each of the draws in a step."""
    between = loss.get("between") if isinstance(loss, Mapping) else None
    draws = min(draws, MOST_DRAWS)
    allowed = [*ROWS, *(f"@replay{draw + 1}" for draw in range(draws))]
    for i, side in enumerate(between if isinstance(between, list) else []):
        _, at, name = str(side).partition("@")
        if not at or (rows := at + name) in allowed:
            continue
        if name.removeprefix("replay").isdecimal():
            yield (*place, "between", i), f"rows '{rows}' are not drawn: train.replay_draws is {draws}"
        else:
            yield (*place, "between", i), f"rows '{rows}' are not known ({did_you_mean(rows, allowed)})"


def _sides(loss: Any, registry: Registry) -> int | None:
    """How many models a loss compares, where its options say so."""
    entry = registry.entries.get(("losses", str(_kind(loss))))
    return getattr(entry.config, "sides", None) if entry and entry.config else None


def _check_members(place: Place, name: str, teacher: Any, models: Models, used: set[str]) -> Iterator[Problem]:
    members = teacher.get("members") if isinstance(teacher, Mapping) else None
    if not isinstance(members, list):
        return
    for i, member in enumerate(members):
        used.add(str(member))
        others = [other for other in models.teachers if other != name]
        if member not in (*others, STUDENT, *models.peers):
            yield (*place, i), f"teacher '{member}' is not known ({did_you_mean(str(member), others)})"
    for member, count in Counter(map(str, members)).items():
        if count > 1:
            yield place, f"teacher '{member}' is named {count} times"


def _check_teachers(teachers: Mapping[str, Any], used: set[str]) -> Iterator[Problem]:
    for name in teachers:
        if name == STUDENT:
            yield ("teachers", name), "'student' is the trained model's own name: call this teacher something else"
        elif not _is_name(name):
            yield ("teachers", name), "a teacher's name is made of letters, digits, '_' and '-'"
        elif name not in used:
            yield ("teachers", name), "no loss uses this teacher; name it in a loss's 'between' or remove it"


def _check_peers(models: Models, losses: Sequence[Any]) -> Iterator[Problem]:
    """Each has a name of its own and something to learn. Whether anybody learns from it is its own affair."""
    taught = {_model(str(loss["between"][0])) for loss in losses if _sided(loss)}
    for name in models.peers:
        if name == STUDENT or name in models.teachers:
            yield ("peers", name), f"'{name}' is another model's name already: call this peer something else"
        elif not _is_name(name):
            yield ("peers", name), "a peer's name is made of letters, digits, '_' and '-'"
        elif name not in taught:
            yield (
                ("peers", name),
                f"no loss teaches this peer: name it first in a loss's 'between', as in {{kind: cross_entropy, "
                f"between: [{name}]}}, or remove it",
            )


def _sided(loss: Any) -> bool:
    return isinstance(loss, Mapping) and isinstance(loss.get("between"), list) and bool(loss["between"])


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.replace("_", "").replace("-", "").isalnum()


def _check_term_names(losses: Sequence[Any]) -> Iterator[Problem]:
    """Logs, errors and checkpoints know a term by its name."""
    names: dict[str, int] = {}
    for i, loss in enumerate(losses):
        name = _term_name(loss)
        if name in RESERVED:
            yield ("losses", i), f"may not be called '{name}', which logs have already: give it another name"
        first = names.setdefault(name, i)
        if first != i:
            yield ("losses", i), f"is called '{name}' like losses.{first}: give it a name of its own"


def _term_name(loss: Any) -> str:
    """Its own name, or its kind and the teachers it is compared with."""
    given: Mapping[str, Any] = loss if isinstance(loss, Mapping) else {}
    if given.get("name"):
        return str(given["name"])
    sides = given.get("between")
    models = [_model(str(side)) for side in sides] if isinstance(sides, list) else []
    return named_after(str(_kind(loss)), models)


def named_after(kind: str, models: Sequence[str]) -> str:
    """What a term is called that has no name: the student as the one who learns goes without saying.

    >>> named_after("kd", ["student", "previous"]), named_after("kd", ["mate", "student"])
    ('kd_previous', 'kd_mate_student')
    """
    learns = not models or models[0] == STUDENT
    return "_".join([kind, *(model for model in models if model != STUDENT or not learns)])


def _model(side: str) -> str:
    return side.partition("@")[0].partition(".")[0]


def _kind(raw: Any) -> Any:
    if isinstance(raw, Opened):
        return raw.name
    return raw.get("kind") if isinstance(raw, Mapping) else raw
