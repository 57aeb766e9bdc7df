"""A run that others go on from or learn from: what it was, as one of its experiences left it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clkd import checkpoint
from clkd.engine.directory import MANIFEST, NAMES, RunDirectory, find
from clkd.engine.material import Past
from clkd.errors import UserError, did_you_mean
from clkd.options import Parsing
from clkd.registry import Registry
from clkd.scenario.document import parse, read_text
from clkd.scenario.model import Scenario

State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fork:
    """The run that another one goes on from, and how far it had come.

    Attributes:
        directory, manifest: the run's own.
        experience: the last one that counts.
        state: as its checkpoint holds it.
    """

    directory: RunDirectory
    manifest: dict[str, Any]
    experience: int
    state: State

    @property
    def origin(self) -> dict[str, Any]:
        """Which run and experience it was, and its MLflow run if it has one."""
        mlflow = self.manifest.get("tracking", {}).get("mlflow", {}).get("run_id")
        return {"run": self.manifest["id"], "experience": self.experience, "mlflow": mlflow}

    @property
    def past(self) -> Past:
        return Past(self.manifest["stream"], self.experience + 1)

    def scenario(self, registry: Registry) -> Scenario:
        """What it was trained by."""
        data = parse(read_text(self.directory.path / "resolved.yaml")).data
        return Scenario.model_validate(data, context=Parsing(registry))


def open_fork(wanted: str, cache: Path, option: str = "--from", names: str = NAMES) -> Fork:
    """The run and experience that `RUN` or `RUN@EXPERIENCE` names; `names` is what may be given beside a directory.

    Raises:
        UserError: there is no such run, or that experience is not finished.
    """
    directory, experience = _place(wanted, cache, option, names)
    manifest = directory.manifest()
    if "stream" not in manifest:
        raise UserError(f"{option} {wanted}: an older clkd made this run and did not note its data: resume it once")
    return Fork(directory, manifest, experience, checkpoint.load(directory.checkpoints / f"exp_{experience:03d}"))


def pinned(wanted: str, cache: Path, option: str = "--from") -> str:
    """The same run and experience by its place, whichever run is `last` a while later, and however far it has come."""
    directory, experience = _place(wanted, cache, option, NAMES)
    return f"{directory.path}/@{experience}"  # with the `/`, it is never the name of another run's directory


def _place(wanted: str, cache: Path, option: str, names: str) -> tuple[RunDirectory, int]:
    name, index = split(wanted)
    directory = find(name, cache, option, names)
    finished = sorted(_finished(directory.checkpoints))
    if not finished:
        raise UserError(
            f"{option} {wanted}: this run has finished no experience yet, so there is nothing to go on from"
        )
    experience = finished[-1] if index is None else index
    if experience not in finished:
        hint = did_you_mean(str(index), map(str, finished))
        raise UserError(f"{option} {wanted}: no checkpoint of experience {experience} ({hint})")
    return directory, experience


def split(wanted: str, base: Path = Path()) -> tuple[str, int | None]:
    """Run and experience; a run's directory (relative to `base`) is itself, however its name ends.

    >>> split("runs/mine@3"), split("last")
    (('runs/mine', 3), ('last', None))
    """
    name, at, index = wanted.rpartition("@")
    if (base / os.path.expanduser(wanted) / MANIFEST).exists():
        return wanted, None
    return (name, int(index)) if at and index.isdecimal() else (wanted, None)


def _finished(checkpoints: Path) -> list[int]:
    named = (re.fullmatch(r"exp_([0-9]+)", path.name) for path in checkpoints.glob("exp_*"))
    return [int(found[1]) for found in named if found]
