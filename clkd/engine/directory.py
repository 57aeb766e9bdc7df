"""The run's directory: where it is, what lies in it, and how it is found again."""

from __future__ import annotations

import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clkd.cache import clear
from clkd.disk import write_whole
from clkd.errors import UserError, did_you_mean, writing
from clkd.locks import HeldError, claimed
from clkd.scenario.document import read_text

log = logging.getLogger("clkd.engine")

MANIFEST = "run.json"
LOCK = ".lock"
"""Held by the process that trains the run, or brings it into MLflow later."""
SCENARIO = "scenario.yaml"
OWN = (MANIFEST, LOCK, SCENARIO, "resolved.yaml", "metrics.jsonl", "environment.txt", "result.json")
"""What is written of a run even if it never trains."""
FOLDERS = ("checkpoints", "teachers")


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """`run.json` (who this run is), `scenario.yaml` (as written), `resolved.yaml` (every value), `metrics.jsonl`,
    `checkpoints/`, `teachers/`, `result.json`."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def teachers(self) -> Path:
        """Copies of what teachers from outside weigh, which may be gone elsewhere when the run goes on."""
        return self.path / "teachers"

    def write(self, name: str, text: str) -> None:
        """Write a file whole or not at all, whatever stops the machine."""
        with writing(self.path / name):
            write_whole(self.path / name, text)

    def manifest(self) -> dict[str, Any]:
        """What `run.json` says."""
        file = self.path / MANIFEST
        try:
            loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{file} cannot be read ({error}), so this run cannot be found by it") from error
        if not isinstance(loaded, dict) or not re.fullmatch(r"\w{1,64}", str(loaded.get("id"))):
            raise UserError(f"{file} was altered (it does not say which run this is): bring it back from a copy")
        return loaded

    @contextmanager
    def claimed(self, doing: str) -> Iterator[None]:
        """Keep all other processes from training this run; refused if one does so already.

        Raises:
            UserError: it says which one.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(claimed(self.path / LOCK, doing))
            except HeldError as holder:
                raise UserError(f"{self.path} is in use by {holder}: wait for it, or stop it") from holder
            yield

    def discard(self) -> None:
        """Take back what a run that never trained has written; whatever else lies here stays."""
        for name in set(OWN) - set(self.manifest().get("found", ())):
            (self.path / name).unlink(missing_ok=True)
        clear(self.teachers)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def update(self, **facts: Any) -> None:
        """Set facts in `run.json`."""
        before = self.manifest() if (self.path / MANIFEST).exists() else {}
        self.write(MANIFEST, json.dumps({**before, **facts}, indent=2))


def new_run_id() -> str:
    """Twelve hex digits, unique."""
    return uuid.uuid4().hex[:12]


def create(output: str | None, name: str, run_id: str, cache: Path, scenario: str) -> RunDirectory:
    """Make the directory of a new run; refuses one that already holds a run, or is just being made into one, and one
    with files that the run would write over: another `scenario` than its own is one."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = Path(os.path.expanduser(output)) if output else Path("runs") / f"{name}-{stamp}-{run_id[:8]}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        directory = RunDirectory(path.absolute())
        with directory.claimed("starting a run"):
            _begin(directory, run_id, name, scenario)
    except OSError as error:
        raise UserError(
            f"output: cannot write {path}: {error.strerror}; choose another place with --set output=DIR"
        ) from error
    _remember(directory, cache)
    return directory


def _begin(directory: RunDirectory, run_id: str, name: str, scenario: str) -> None:
    if (directory.path / MANIFEST).exists():
        raise UserError(
            f"output: {directory.path} already holds a run: choose another place, or go on with it by "
            f"--resume {directory.path}"
        )
    found = [SCENARIO] if _says(directory.path / SCENARIO, scenario) else []
    for taken in (*OWN, *FOLDERS):
        if taken not in (LOCK, *found) and (directory.path / taken).exists():
            raise UserError(
                f"output: {directory.path / taken} is there already, and the run would write over it: choose another "
                f"place, or take it away"
            )
    directory.update(id=run_id, name=name, created=time.time(), **({"found": found} if found else {}))


def _says(file: Path, text: str) -> bool:
    """Whether a file is this scenario."""
    try:
        return file.is_file() and read_text(file) == text
    except UserError:  # it is no scenario at all
        return False


NAMES = "its id or 'last'"


def find(wanted: str, cache: Path, option: str = "--resume", names: str = NAMES) -> RunDirectory:
    """The run that `option` names: its directory, its id, how its id begins, or `last`."""
    place = Path(os.path.expanduser(wanted))  # unlike Path's own, it leaves a `~` that is no home as it is
    if (place / MANIFEST).exists():
        return RunDirectory(place.absolute())
    runs = known(cache)
    if wanted == "last" and runs:
        return RunDirectory(max(runs.values(), key=lambda path: (path / MANIFEST).stat().st_mtime))
    named = [wanted] if wanted in runs else [each for each in runs if wanted and each.startswith(wanted)]
    if len(named) == 1:
        return RunDirectory(runs[named[0]])
    if named:
        raise UserError(f"{option} {wanted}: several runs begin like this: {', '.join(sorted(named))}")
    if Path(wanted).is_dir():
        raise UserError(f"{option} {wanted}: this directory holds no run ({MANIFEST} is missing)")
    raise UserError(
        f"{option} {wanted}: no such run here: give a run's directory, {names} ({did_you_mean(wanted, runs)})"
    )


def known(cache: Path) -> dict[str, Path]:
    """Runs by id: those below `runs/` here; where there are none, those this user started anywhere."""
    local = {path.parent for path in Path("runs").glob(f"*/{MANIFEST}")}
    remembered = {path for path in _remembered(cache) if (path / MANIFEST).exists()}
    here = {path for path in remembered if path.is_relative_to(Path.cwd())}
    chosen = {path.absolute() for path in local} | here or remembered
    found = {}
    for path in sorted(chosen):
        try:
            found[RunDirectory(path).manifest()["id"]] = path
        except UserError as error:
            log.warning("%s; other runs are looked at", error)
    return found


def _index(cache: Path) -> Path:
    return cache / "runs.txt"


def _remember(directory: RunDirectory, cache: Path) -> None:
    """An index for `--resume`, which a run can do without."""
    try:
        with _index(cache).open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"{directory.path}\n")
    except OSError as error:
        log.warning("%s cannot be written (%s): this run is found by its directory only", _index(cache), error.strerror)


def _remembered(cache: Path) -> list[Path]:
    if not _index(cache).is_file():
        return []
    return [Path(line) for line in _index(cache).read_text(encoding="utf-8", errors="surrogateescape").splitlines()]
