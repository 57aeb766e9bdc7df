"""The scenario with what was chosen, as a file that `clkd run` takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clkd.disk import write_whole
from clkd.errors import UserError, one_line, writing
from clkd.registry import Registry
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load
from clkd.scenario.resolve import resolved

MARK = "# Chosen by clkd tune, on validation rows alone."
"""The first line of what may be written over."""


def refuse_to_overwrite(target: Path, scenario: Path) -> None:
    """Raises `UserError` where a file is that somebody else has written, or where relative paths would lead astray."""
    if target.exists() and not target.read_text(encoding="utf-8").startswith(MARK):
        raise UserError(f"{target} is there already, and not by clkd tune: give another --write")
    if target.absolute().parent != scenario.absolute().parent:
        raise UserError(f"--write {target}: paths in a scenario start at its folder: name a file beside {scenario}")


def write(target: Path, scenario: Path, settings: Sequence[str], registry: Registry, told: Sequence[str]) -> None:
    """Every value, defaults too: nothing that was in force while it was chosen can change behind its back."""
    chosen = resolved(load(scenario, settings, registry).scenario)
    head = "".join(f"# {one_line(line)}\n" for line in (*told, *settings))
    with writing(target):
        write_whole(target, f"{MARK}\n{head}{to_yaml(chosen)}")
