"""Which runs are meant: by directory, id, group, scenario or pattern; filtered and sorted."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from clkd.compare.summary import Summary, read
from clkd.engine.directory import MANIFEST, known
from clkd.errors import UserError, did_you_mean

FACTS = ("id", "name", "group", "seed", "status", "data", "dataset", "version", "created")
"""What runs are filtered and sorted by, beside their numbers."""
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}


def all_runs(cache: Path) -> list[Summary]:
    """Those below `runs/`, or, where there are none, those that this user started anywhere; oldest first."""
    return sorted((read(path) for path in known(cache).values()), key=lambda run: run.created)


def chosen(wanted: Sequence[str], cache: Path) -> list[Summary]:
    """The runs that some words name, each once: a run's directory or one that holds runs, an id or how it begins,
    `last`, a group, a scenario's name, or a pattern of these with `*`.

    Raises:
        UserError: a word names none, or several runs begin like it.
    """
    here: list[Summary] = []
    found: dict[str, Summary] = {}
    for word in wanted:
        runs = _below(Path(os.path.expanduser(word)))
        if not runs:
            here = here or all_runs(cache)
            runs = _meant(word, here)
        found |= {run.id: run for run in runs}
    return list(found.values())


def _below(place: Path) -> list[Summary]:
    if (place / MANIFEST).is_file():
        return [read(place.absolute())]
    return [read(file.parent.absolute()) for file in sorted(place.glob(f"*/{MANIFEST}"))] if place.is_dir() else []


def _meant(word: str, runs: Sequence[Summary]) -> list[Summary]:
    if word == "last" and runs:
        return [max(runs, key=lambda run: (run.path / MANIFEST).stat().st_mtime)]
    if named := [run for run in runs if any(fnmatchcase(name, word) for name in (run.group, run.name, run.id))]:
        return named
    begun = [run for run in runs if word and run.id.startswith(word)]
    if len(begun) > 1:
        raise UserError(f"{word}: several runs begin like this: {', '.join(sorted(run.id for run in begun))}")
    if not begun:
        words = {each for run in runs for each in (run.id, run.group, run.name)}
        raise UserError(f"{word}: no such run, group or scenario here ({did_you_mean(word, words)})")
    return begun


def kept(runs: Iterable[Summary], conditions: Sequence[str]) -> list[Summary]:
    """The runs that all conditions hold for: `KEY=VALUE`, `!=`, `<`, `<=`, `>`, `>=`; text may hold `*`.

    Raises:
        UserError: a condition is none, or names what no run has.
    """
    runs = list(runs)
    tests = [_condition(text, runs) for text in conditions]
    return [run for run in runs if all(test(run) for test in tests)]


def _condition(text: str, runs: Sequence[Summary]) -> Callable[[Summary], bool]:
    found = re.fullmatch(r"([\w.-]+)\s*(<=|>=|!=|=|<|>)\s*(.*)", text.strip())
    if not found:
        raise UserError(f"--where {text}: write KEY=VALUE, or != < <= > >= in the place of =")
    key, sign, value = found.groups()
    check_key(f"--where {text}", key, runs)
    number = _number(value)
    if number is None and sign not in ("=", "!="):
        raise UserError(f"--where {text}: {sign} compares numbers, and '{value}' is none")

    def holds(run: Summary) -> bool:
        own = fact(run, key)
        if isinstance(own, str):
            return fnmatchcase(own, value) == (sign == "=") if sign in ("=", "!=") else False
        return own is not None and number is not None and OPERATORS[sign](own, number)

    return holds


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def fact(run: Summary, key: str) -> str | float | None:
    """What a run says of a key: one of `FACTS`, or a number."""
    return getattr(run, key) if key in FACTS else run.numbers.get(key)


def check_key(option: str, key: str, runs: Sequence[Summary]) -> None:
    """Raises `UserError` where no run has such a key."""
    keys = {*FACTS, *(name for run in runs for name in run.numbers)}
    if runs and key not in keys:
        raise UserError(f"{option}: no run has '{key}' ({did_you_mean(key, keys)})")


def ordered(runs: Sequence[Summary], key: str) -> list[Summary]:
    """By a key, `-KEY` from high to low; those that lack it come last."""
    name, down = key.removeprefix("-"), key.startswith("-")
    check_key(f"--sort {key}", name, runs)
    having: list[tuple[Any, Summary]] = [(fact(run, name), run) for run in runs if fact(run, name) is not None]
    having.sort(key=operator.itemgetter(0), reverse=down)
    return [*(run for _, run in having), *(run for run in runs if fact(run, name) is None)]
