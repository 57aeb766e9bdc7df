"""What a run must find again to go on as if it had never stopped: its scenario, its plugins, its own state."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from clkd.engine.directory import RunDirectory
from clkd.errors import UserError, one_line
from clkd.registry import Registry
from clkd.scenario.model import Scenario
from clkd.scenario.parts import parts

RESOLVED = "resolved.yaml"

log = logging.getLogger("clkd.engine")


def digest(content: bytes) -> str:
    """What a content is known by."""
    return hashlib.sha256(content).hexdigest()


def plugins_of(scenario: Scenario, registry: Registry, trackers: bool = True) -> dict[str, str]:
    """The plugins that bring this scenario's parts, each with its distribution (or file) and version (or checksum).

    Without `trackers` only those that numbers depend on.
    """
    entries = [registry.get(part.kind, part.name) for at, part in parts(scenario) if trackers or at[0] != "tracking"]
    return {entry.plugin: _version(entry.origin) for entry in entries if entry.origin != "clkd"}


def _version(origin: str) -> str:
    file = Path(origin)
    if file.suffix == ".py" and file.is_file():
        return f"{file.name} {digest(file.read_bytes())[:12]}"
    try:
        return f"{origin} {metadata.version(origin)}"
    except metadata.PackageNotFoundError:
        return f"{origin} unknown"


def check_scenario(directory: RunDirectory, manifest: Mapping[str, Any]) -> None:
    """Raises `UserError` where `resolved.yaml` or `run.json` is not what was written when the run began."""
    base, limit = manifest.get("base"), manifest.get("limit_batches", "missing")
    noted = [manifest.get(key) or {} for key in ("plugins", "tracking")]
    sound = isinstance(base, str) and (limit is None or isinstance(limit, int))
    if not sound or not all(isinstance(each, dict) for each in noted):
        raise UserError(f"{directory.path / 'run.json'} is incomplete or was altered: start a new run")
    told, file = manifest.get("resolved_sha256"), directory.path / RESOLVED
    if told is not None and file.is_file() and digest(file.read_bytes()) != told:
        raise UserError(
            f"{file} was altered since the run began, which goes on as if it had never stopped: undo that (--set "
            f"changes what may change), or start a new run"
        )


def check_plugins(manifest: Mapping[str, Any], scenario: Scenario, registry: Registry) -> None:
    """Another version of a plugin is warned of; another plugin under the same name raises `UserError`.

    Runs of earlier versions have noted those of their trackers, too, which no number depends on.
    """
    now = plugins_of(scenario, registry, trackers=False)
    track = plugins_of(scenario, registry).keys() - now.keys()
    for name, then in manifest.get("plugins", {}).items():
        if name in track:
            continue
        found = now.get(name, "")
        if found.split()[:1] != str(then).split()[:1]:
            raise UserError(
                f"the run began with plugin '{name}' from {then}; now its parts come from {found or 'others'}"
            )
        if found != then:
            log.warning("plugin '%s' is %s, the run began with %s: numbers may differ from then on", name, found, then)


def check_state(state: Mapping[str, Any], manifest: Mapping[str, Any], path: Path) -> None:
    """Raises `UserError` where the checkpoint at `path` is another run's."""
    run = state.get("run")
    owner = run.get("id") if isinstance(run, dict) else None
    if owner != manifest["id"]:
        raise UserError(f"{path} is a checkpoint of run {owner}, not of run {manifest['id']}: take it away from here")


@contextmanager
def fitting() -> Iterator[None]:
    """Restoring a state that does not fit is a `UserError`: other versions made it, or it was tampered with."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"--resume: the checkpoint does not fit this scenario's parts as they are installed now "
            f"({type(error).__name__}: {one_line(str(error), 200)}): go on with the versions that it was written with"
        ) from error
