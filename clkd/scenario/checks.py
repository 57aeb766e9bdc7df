"""What must fit together in a scenario, beyond each part on its own.

The first checks read the plain data, so that they find their mistakes even where another part is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from clkd.errors import did_you_mean
from clkd.options import Opened, Options, Part, Place
from clkd.registry import Registry
from clkd.scenario.model import MOST_DRAWS, Scenario

STUDENT = "student"
ROWS = ("@new", "@replay")
RESERVED = ("loss", "transfer")
"""What logs call the sum of all terms, and the transfer strategy's."""
Problem = tuple[Place, str]


def check_names(data: Mapping[str, Any], registry: Registry) -> Iterator[Problem]:
    """Who compares whom: every model named exists, and every teacher is named."""
    teachers = data.get("teachers") or {}
    losses = data.get("losses") or []
    if not isinstance(teachers, Mapping) or not isinstance(losses, Sequence) or isinstance(losses, str):
        return  # the schema has said so already
    used: set[str] = set()
    train = data.get("train")
    draws = train.get("replay_draws", 1) if isinstance(train, Mapping) else 1
    for i, loss in enumerate(losses):
        yield from _check_term(("losses", i), loss, teachers, registry, used)
        yield from _check_rows(("losses", i), loss, draws if isinstance(draws, int) else 1)
    for name, teacher in teachers.items():
        yield from _check_members(("teachers", name, "members"), name, teacher, teachers, used)
    yield from _check_teachers(teachers, used)
    yield from _check_term_names(losses)


def check_whole(scenario: Scenario) -> Iterator[Problem]:
    """What parts themselves have to say about the scenario they are in."""
    for place, part in parts(scenario):
        problems = getattr(part.options, "problems", None)
        if problems is not None:
            yield from (_placed(place, part, problem) for problem in problems(scenario))
    yield from _check_views(scenario)


def _check_views(scenario: Scenario) -> Iterator[Problem]:
    """Where there is one view only, saying which one a teacher sees would change nothing."""
    if getattr(scenario.stream.augment, "strong", None):
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
    if isinstance(value, Part):
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


def _check_term(
    place: Place, loss: Any, teachers: Mapping[str, Any], registry: Registry, used: set[str]
) -> Iterator[Problem]:
    between = loss.get("between") if isinstance(loss, Mapping) else None
    sides = _sides(loss, registry)
    if between is None:
        if sides == 2:
            models = ", ".join([STUDENT, *teachers])
            yield place, f"compares two models: say which with between: [student, …] (models here: {models})"
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
        if model != STUDENT and model not in teachers:
            used.update(get_close_matches(model, teachers, n=1))  # it is meant, so do not call it unused as well
            yield (*place, i), f"model '{model}' is not known ({did_you_mean(model, [STUDENT, *teachers])})"
    if between and all(model in teachers for model in named):
        yield place, "no side is the student, so nobody would learn from it"


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


def _check_members(
    place: Place, name: str, teacher: Any, teachers: Mapping[str, Any], used: set[str]
) -> Iterator[Problem]:
    members = teacher.get("members") if isinstance(teacher, Mapping) else None
    if not isinstance(members, list):
        return
    for i, member in enumerate(members):
        used.add(str(member))
        others = [other for other in teachers if other != name]
        if member not in others:
            yield (*place, i), f"teacher '{member}' is not known ({did_you_mean(str(member), others)})"
    for member, count in Counter(map(str, members)).items():
        if count > 1:
            yield place, f"teacher '{member}' is named {count} times"


def _check_teachers(teachers: Mapping[str, Any], used: set[str]) -> Iterator[Problem]:
    for name in teachers:
        if name == STUDENT:
            yield ("teachers", name), "'student' is the trained model's own name: call this teacher something else"
        elif not name.replace("_", "").replace("-", "").isalnum():
            yield ("teachers", name), "a teacher's name is made of letters, digits, '_' and '-'"
        elif name not in used:
            yield ("teachers", name), "no loss uses this teacher; name it in a loss's 'between' or remove it"


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
    return "_".join([str(_kind(loss)), *(model for model in models if model != STUDENT)])


def _model(side: str) -> str:
    return side.partition("@")[0].partition(".")[0]


def _kind(raw: Any) -> Any:
    if isinstance(raw, Opened):
        return raw.name
    return raw.get("kind") if isinstance(raw, Mapping) else raw
