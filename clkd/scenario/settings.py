"""`--set a.b=value`: one change to what a scenario says, before it is checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from clkd.errors import UserError, shorten
from clkd.options import Opened, Place
from clkd.scenario.document import DocumentError, parse, to_yaml


@dataclass(frozen=True, slots=True)
class Setting:
    """One `--set`, as typed and taken apart."""

    text: str
    place: Place
    value: Any

    @classmethod
    def read(cls, text: str) -> Setting:
        """Take `a.b=value` apart; the value is YAML.

        >>> Setting.read("losses.1.weight=1e-2")
        Setting(text='losses.1.weight=1e-2', place=('losses', 1, 'weight'), value=0.01)
        """
        key, equals, value = text.partition("=")
        words = key.strip().split(".")
        if not equals or not all(words):
            raise UserError(f"--set {shorten(text)}: write a.b=value")
        place = tuple(int(word) if re.fullmatch(r"[0-9]{1,9}", word) else word for word in words)
        return cls(text, place, said(text, value))

    def covers(self, place: Place) -> bool:
        """Whether `place` is what this sets, or a part of it."""
        return place[: len(self.place)] == self.place

    def apply(self, data: dict[str, Any]) -> Setting:
        """Change `data` in place. Returns itself with the place as `data` has it (a mapping's key may be `1`).

        Raises:
            SettingError: the way to the place leads through something that has no parts, or past a list's end.
        """
        here: Any = data
        way: Place = ()
        for word in self.place[:-1]:
            step = _step(here, word, way)
            way = (*way, step)
            here = _enter(here, step)
        last = _step(here, self.place[-1], way)
        here[last] = self.value
        return Setting(self.text, (*way, last), self.value)


def said(text: str, value: str) -> Any:
    """The plain data of the YAML that stands in the `--set` called `text`.

    Raises:
        UserError: it is none, or gives a key twice.
    """
    try:
        document = parse(value)
    except DocumentError as error:
        raise UserError(f"--set {shorten(text)}: {error.reason}") from error
    if document.twice:
        raise UserError(f"--set {shorten(text)}: {document.twice[0][0][-1]}: given twice")
    return document.data


def as_setting(place: str, value: Any) -> str:
    """The `--set` that puts plain data at a place.

    >>> as_setting("train.optimizer", {"kind": "sgd", "lr": 0.1})
    'train.optimizer={kind: sgd, lr: 0.1}'
    """
    return f"{place}={to_yaml(value, flow=True).strip()}"


class SettingError(Exception):
    """A `--set` that leads nowhere."""

    def __init__(self, place: Place, reason: str) -> None:
        super().__init__(reason)
        self.place, self.reason = place, reason


def _step(here: Any, word: str | int, way: Place) -> str | int:
    """The key or index that `word` means here."""
    if isinstance(here, dict):
        return str(word)
    if not isinstance(here, list):
        raise SettingError(way, f"is {here!r}, which has no '{word}'")
    if not here:
        raise SettingError((*way, word), "the list is empty")
    if not isinstance(word, int) or word >= len(here):
        raise SettingError((*way, word), f"no such entry: give 0 to {len(here) - 1}")
    return word


def _enter(here: Any, step: str | int) -> Any:
    """What lies at `step`, made into something with parts where it is a bare name or not there yet."""
    inner = here.get(step) if isinstance(here, dict) else here[step]
    if isinstance(inner, str):
        inner = Opened(inner)
    elif inner is None:
        inner = {}
    here[step] = inner
    return inner
