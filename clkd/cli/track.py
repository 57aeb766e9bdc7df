"""`clkd track`: runs and where they are recorded."""

from __future__ import annotations

import os
from pathlib import Path

import click

from clkd.cache import cache_directory
from clkd.cli.common import State, json_option, print_json
from clkd.engine.directory import LOCK, MANIFEST, RunDirectory, find
from clkd.errors import ClkdError, UserError
from clkd.locks import HeldError, claimed
from clkd.tracking.store import plain
from clkd.tracking.sync import Synced, sync


@click.group("track")
def command() -> None:
    """Bring runs into MLflow."""


@command.command("sync")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--tracking-uri", metavar="URI", help="MLflow's tracking URI; by default where each run belongs.")
@json_option
@click.pass_context
def sync_(context: click.Context, runs: tuple[str, ...], tracking_uri: str | None, as_json: bool) -> None:
    """Bring each RUN (its directory, its id, or 'last'; by default all below ./runs) into MLflow.

    Only what the store lacks is added, so it can be done at any time and as often as you like. Runs that are still
    being trained are skipped.
    """
    told, code = [], 0
    for directory in _directories(runs):
        try:
            synced = _brought(directory, tracking_uri)
        except ClkdError as error:
            if context.ensure_object(State).verbose:
                raise
            click.echo(f"clkd: {os.path.relpath(directory.path)}: {error}", err=True)
            code = max(code, error.exit_code)
            continue
        found = {**synced.found, **({"uri": plain(synced.found["uri"])} if synced.found else {})}
        told.append({"run": str(directory.path), **found, "brought": dict(synced.brought)})
        if not as_json:
            click.echo(f"{os.path.relpath(directory.path)}: {_said(synced)}")
    if as_json:
        print_json(told)
    context.exit(code)


def _brought(directory: RunDirectory, uri: str | None) -> Synced:
    noted = directory.manifest().get("tracking", {}).get("mlflow", {})
    try:
        with claimed(directory.path / LOCK, "bringing it into MLflow"):
            synced = sync(directory.path, uri, noted)
            if synced.found and "run_id" not in noted:
                _note(directory, synced)
            return synced
    except HeldError:
        return Synced()


def _note(directory: RunDirectory, synced: Synced) -> None:
    """Where the run is found from now on; it does not become the `last` one by that."""
    file, tracking = directory.path / MANIFEST, directory.manifest().get("tracking", {})
    was = file.stat()
    directory.update(tracking={**tracking, "mlflow": synced.found})
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))


def _directories(runs: tuple[str, ...]) -> list[RunDirectory]:
    if runs:
        return [find(run, cache_directory(), "track sync") for run in runs]
    found = sorted(path.parent.absolute() for path in Path("runs").glob(f"*/{MANIFEST}"))
    if not found:
        raise UserError("no run below ./runs: name a run's directory or its id")
    return [RunDirectory(path) for path in found]


def _said(synced: Synced) -> str:
    if not synced.found:
        return "still being trained, skipped"
    told = (f"{number:,} {_one(name) if number == 1 else name}" for name, number in synced.brought.items() if number)
    return ", ".join(told) or "nothing was missing"


def _one(name: str) -> str:
    return {"children": "child"}.get(name, name.removesuffix("s"))
