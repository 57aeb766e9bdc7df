"""Who is named in a scenario: models, rows and terms that losses and teachers speak of, and whether they are there.

These checks read the plain data, so that they find their mistakes even where another part is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from clkd.errors import did_you_mean
from clkd.options import Opened, Place, Problem
from clkd.registry import Registry
from clkd.scenario.train import MOST_DRAWS

STUDENT = "student"
ROWS = ("@new", "@replay")
RESERVED = ("loss", "transfer")
"""What logs call the sum of all terms, and the transfer strategy's."""


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
    named = [model_of(side) for side in between]
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
    taught = {model_of(str(loss["between"][0])) for loss in losses if _sided(loss)}
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
        name = term_name(loss)
        if name in RESERVED:
            yield ("losses", i), f"may not be called '{name}', which logs have already: give it another name"
        first = names.setdefault(name, i)
        if first != i:
            yield ("losses", i), f"is called '{name}' like losses.{first}: give it a name of its own"


def term_name(loss: Any) -> str:
    """Its own name, or its kind and the teachers it is compared with."""
    given: Mapping[str, Any] = loss if isinstance(loss, Mapping) else {}
    if given.get("name"):
        return str(given["name"])
    sides = given.get("between")
    models = [model_of(str(side)) for side in sides] if isinstance(sides, list) else []
    return named_after(str(_kind(loss)), models)


def named_after(kind: str, models: Sequence[str]) -> str:
    """What a term is called that has no name: the student as the one who learns goes without saying.

    >>> named_after("kd", ["student", "previous"]), named_after("kd", ["mate", "student"])
    ('kd_previous', 'kd_mate_student')
    """
    learns = not models or models[0] == STUDENT
    return "_".join([kind, *(model for model in models if model != STUDENT or not learns)])


def model_of(side: str) -> str:
    """The model that one side of `between` names, without tap and rows.

    >>> model_of("student.stage3@replay")
    'student'
    """
    return side.partition("@")[0].partition(".")[0]


def _kind(raw: Any) -> Any:
    if isinstance(raw, Opened):
        return raw.name
    return raw.get("kind") if isinstance(raw, Mapping) else raw
