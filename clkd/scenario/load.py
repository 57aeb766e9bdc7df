"""From a file to a checked scenario, with all mistakes at once and where each of them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clkd.errors import PluginError, UserError, one_line, shorten
from clkd.options import UNKNOWN_PART, Opened, Parsing, Place
from clkd.registry import Registry
from clkd.scenario.checks import check_split, check_whole
from clkd.scenario.document import Document, DocumentError, Mark, parse, read_text
from clkd.scenario.model import DEFAULTS, Scenario
from clkd.scenario.names import check_names
from clkd.scenario.origins import Origin, leaves, origins
from clkd.scenario.settings import Setting, SettingError

TWICE = "given twice"
MOST_LINES = 50
"""Mistakes that are told at once."""
_LAST = (10**9, 0)
MIXED = ("student", "train")
"""Sections that every scenario has."""
PARTS = ("memory", "transfer")
"""Sections that are one part."""


class ScenarioErrors(UserError):  # noqa: N818  # it is many
    """Every mistake of one scenario, a line each. Its exit code is 3 where a broken plugin may be to blame."""

    def __init__(self, lines: Sequence[str], plugin_to_blame: bool = False) -> None:
        told = [one_line(line) for line in lines[:MOST_LINES]]
        if len(lines) > MOST_LINES:
            told.append(f"clkd: and {len(lines) - MOST_LINES:,} mistakes more")
        super().__init__("\n".join(told))
        self.lines = told
        if plugin_to_blame:
            self.exit_code = PluginError.exit_code


@dataclass(frozen=True, slots=True)
class Loaded:
    """A scenario that may be run.

    Attributes:
        scenario: checked, every default filled in.
        origins: where each value of `resolved(scenario)` comes from.
        source_text: the file as written.
        base: the directory that relative paths start from.
    """

    scenario: Scenario
    origins: dict[Place, Origin]
    source_text: str
    base: Path


def load(path: str | Path, overrides: Sequence[str], registry: Registry, base: Path | None = None) -> Loaded:
    """Read a scenario file, change it by `overrides` (`a.b=v`) and check it.

    Args:
        base: where relative paths start; by default the file's own directory.

    Raises:
        ScenarioErrors: all mistakes of the scenario, each with file, line, column, key, reason and suggestion.
        UserError: the file cannot be read.
    """
    path = Path(path)
    text = read_text(path)
    draft = _Draft(path, _parsed(path, text))
    settings = [Setting.read(override) for override in overrides]
    draft.start(settings, registry)
    draft.change(settings)
    scenario = draft.check(registry)
    found = origins(scenario, draft.given)
    return Loaded(scenario, found, text, base if base is not None else path.absolute().parent)


def _parsed(path: Path, text: str) -> Document:
    try:
        document = parse(text)
    except DocumentError as error:
        where = "".join(f":{number}" for number in error.mark or ())
        raise ScenarioErrors([f"{path}{where}: {error.reason}"]) from error
    if document.data is None:
        raise ScenarioErrors([f"{path}:1:1: is empty: a scenario needs at least name, stream, student and train"])
    if not isinstance(document.data, dict):
        kind = "list" if isinstance(document.data, list) else "single value"
        raise ScenarioErrors([f"{path}:1:1: a scenario is a mapping of keys to values; got a {kind}"])
    return document


@dataclass(slots=True)
class _Draft:
    """A scenario on its way: what is said so far, by whom, and what is wrong with it."""

    path: Path
    document: Document
    data: dict[str, Any] = field(default_factory=dict)
    given: dict[Place, Origin] = field(default_factory=dict)
    settings: list[Setting] = field(default_factory=list)
    problems: list[tuple[Place, str, str]] = field(default_factory=list)
    """Place, reason, and the `--set` it stands in, if it does."""
    plugin_to_blame: bool = False

    def start(self, settings: Sequence[Setting], registry: Registry) -> None:
        """The file's sections over the method's over the defaults: whole sections, but for those that are mixed."""
        own = self.document.data
        named = [(own.get("method"), "")] + [(each.value, each.text) for each in settings if each.place == ("method",)]
        method = _copy(self._method(*named[-1], registry))
        for section in PARTS:  # a bare name's options can be changed, too
            if isinstance(name := method.get(section), str) and name != "none" and section in own:
                method[section] = {"kind": name}
        mixed = [section for section, theirs in method.items() if _mixes(section, theirs, own.get(section))]
        self.data = {**_copy(DEFAULTS), **method, **own} | {key: {**method[key], **own[key]} for key in mixed}
        self.given = dict.fromkeys(leaves(own), "file")
        for place in leaves(method):
            if place and (place[0] not in own or (place[0] in mixed and place[1] not in own[place[0]])):
                self.given[place] = "method"
        self.problems += [(place, f"{TWICE}, first on line {first}", "") for place, _, first in self.document.twice]

    def _method(self, name: Any, setting: str, registry: Registry) -> dict[str, Any]:
        """The fragment of the method that the file, or the last `--set`, names."""
        if not isinstance(name, str):
            return {}
        try:
            fragment: dict[str, Any] = registry.get("methods", name).load()
        except ValueError as error:
            self.problems.append((("method",), str(error), setting))
            self.plugin_to_blame = bool(registry.broken)
            return {}
        return fragment

    def change(self, settings: Sequence[Setting]) -> None:
        """Apply each `--set` in turn; a later one wins."""
        for setting in settings:
            try:
                applied = setting.apply(self.data)
            except SettingError as error:
                self.problems.append((error.place, error.reason, setting.text))
                continue
            self.settings.append(applied)
            self.given = {place: origin for place, origin in self.given.items() if not applied.covers(place)}
            self.given |= {(*applied.place, *place): "--set" for place in leaves(applied.value)}

    def check(self, registry: Registry) -> Scenario:
        """The checked scenario, or all that is wrong."""
        scenario = None
        found: list[tuple[Place, str]] = []
        try:
            scenario = Scenario.model_validate(self.data, context=Parsing(registry))
        except ValidationError as error:
            for item in error.errors():
                found.append((self._existing(item["loc"]), item["msg"]))
                self.plugin_to_blame |= item["type"] == UNKNOWN_PART and bool(registry.broken)
        found += [*check_names(self.data, registry), *check_split(self.data, registry)]
        if scenario is not None:
            found += check_whole(scenario)
        self.problems += [(place, reason, self._setting(place)) for place, reason in found]
        if scenario is None or self.problems:
            raise ScenarioErrors(self._report(), self.plugin_to_blame)
        return scenario

    def _existing(self, place: Place) -> Place:
        """The place without the words that pydantic adds for the members of a union."""
        here: Any = self.data
        kept: list[str | int] = []
        for i, step in enumerate(place):
            inside = (isinstance(here, Mapping) and step in here) or (isinstance(here, list) and isinstance(step, int))
            if inside:
                here = here[step]
            if inside or (i == len(place) - 1 and isinstance(here, Mapping) and isinstance(step, str)):
                kept.append(step)
        return tuple(kept)

    def _setting(self, place: Place) -> str:
        """The last `--set` that the place, or what became of a plain value there, stands in."""
        for setting in reversed(self.settings):
            if setting.covers(place) or (setting.place[:-1] == place and isinstance(self._at(place), Opened)):
                return setting.text
        return ""

    def _at(self, place: Place) -> Any:
        here: Any = self.data
        for step in place:
            if isinstance(here, list) and isinstance(step, int):
                here = here[step]
            else:
                here = here.get(step) if isinstance(here, Mapping) else None
        return here

    def _report(self) -> list[str]:
        """One line a mistake: those in the file by line, then those that were set."""
        lines: dict[tuple[Mark, str], None] = {}
        for place, reason, setting in self.problems:
            dotted = ".".join(map(str, place))
            said = f"{dotted}: {reason}" if dotted else reason
            mark = self._mark(place, reason)
            where = f"--set {shorten(setting)}" if setting else f"{self.path}:{mark[0]}:{mark[1]}"
            lines[_LAST if setting else mark, f"{where}: {said}"] = None
        return [line for _, line in sorted(lines, key=lambda found: found[0])]

    def _mark(self, place: Place, reason: str) -> Mark:
        """Where the file says it; for what it does not say, where the section around it starts."""
        if reason.startswith(TWICE):
            return next(mark for twice, mark, _ in self.document.twice if twice == place)
        while place not in self.document.marks:
            place = place[:-1]
        return self.document.marks[place]


def _mixes(section: str, theirs: Any, own: Any) -> bool:
    """Whether the file's section changes single keys of the method's: one that every scenario has, or a part of which
    the file does not say what kind it is."""
    if not (isinstance(theirs, dict) and isinstance(own, dict)):
        return False
    return section in MIXED or ("kind" in theirs and "kind" not in own)


def _copy(value: Any) -> Any:
    """Settings change lists and mappings in place; the defaults and the methods' fragments must not be those."""
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value
