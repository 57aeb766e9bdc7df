"""`clkd ui`: MLflow's pages of the runs here."""

from __future__ import annotations

import os
import shlex
import signal
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click

from clkd.cache import cache_directory
from clkd.engine.directory import MANIFEST, RunDirectory, find, known
from clkd.errors import Interrupted, UserError
from clkd.handlers import handled
from clkd.tracking import store
from clkd.tracking.server import free_port, serving, url

DATABASE = "mlflow.db"
ENDINGS = {signal.SIGTERM: 143, signal.SIGHUP: 129}


@dataclass(frozen=True, slots=True)
class Place:
    """A store, and a page within its user interface."""

    uri: str
    page: str = ""


@click.command("ui", short_help="Open MLflow's pages of the runs here.")
@click.argument("where", required=False, metavar="[RUN|PATH]")
@click.option("--port", type=click.IntRange(0, 65535), default=5000, show_default=True, help="0 takes any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 lets other machines in, without a login.")
@click.option("--open", "opened", is_flag=True, help="Show it in a browser.")
@click.option("--tracking-uri", metavar="URI", help="MLflow's tracking URI.")
def command(where: str | None, port: int, host: str, opened: bool, tracking_uri: str | None) -> int:
    """Open MLflow's user interface on the store that `clkd run` records in, until Ctrl-C.

    RUN is a run's directory, its id or 'last': its own page is told. PATH is a database, or a folder that holds
    `mlflow.db`. Without either, it is --tracking-uri, $MLFLOW_TRACKING_URI, or `mlflow.db` in this folder.
    """
    place = _place(where, tracking_uri)
    if found := store.leftover():
        click.echo(f"clkd: {found[0]}: {found[1]}", err=True)
    if store.is_server(place.uri):
        store.check_reachable(place.uri)
        _tell(f"{store.plain(place.uri).rstrip('/')}{place.page}", opened)
        return 0
    _check_there(place.uri)
    with free_port(host, port) as chosen:
        return _serve(place, host, chosen, opened)


def _serve(place: Place, host: str, port: int, opened: bool) -> int:
    """Until it is stopped."""
    click.echo(f"starting MLflow on {store.plain(place.uri)} (Ctrl-C ends it)", err=True)
    with _told_to_end():
        try:
            with serving(place.uri, host, port) as server:
                _tell(f"{url(host, port)}{place.page}", opened)
                return 1 if server.wait() else 0
        except KeyboardInterrupt:
            return 0


def _tell(address: str, opened: bool) -> None:
    click.echo(address)
    if opened and not webbrowser.open(address):
        click.echo("no browser here: open the address yourself", err=True)


@contextmanager
def _told_to_end() -> Iterator[None]:
    """Other signals than Ctrl-C leave no server behind, either."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name}", ENDINGS[signal.Signals(number)])

    with handled(ENDINGS, end):
        yield


# Which store


def _place(where: str | None, uri: str | None) -> Place:
    """What the words on the command line mean."""
    path = Path(os.path.expanduser(where)) if where else None
    if path is None:
        chosen = store.resolve_uri(uri)
        return Place(chosen, _latest_experiment(chosen))
    if not path.exists() or (path / MANIFEST).exists():
        return _of_run(find(str(where), cache_directory(), "ui", "its id, 'last' or a database"), uri)
    if uri:
        raise UserError(f"ui {where}: --tracking-uri names a store, too: leave one of them out")
    chosen = store.resolve_uri(f"{store.SQLITE}{path / DATABASE if path.is_dir() else path}")
    return Place(chosen, _latest_experiment(chosen))


def _of_run(directory: RunDirectory, uri: str | None) -> Place:
    """Where a run was recorded, unless another store is named: of that, only the front page is known."""
    noted = _noted(directory)
    chosen = store.resolve_uri(uri, noted.get("uri"))
    if "run_id" not in noted:
        near = shlex.quote(os.path.relpath(directory.path))
        raise UserError(f"{directory.path} was not recorded in MLflow: bring it in by: clkd track sync {near}")
    if chosen == noted["uri"]:
        return Place(chosen, store.page(noted["experiment_id"], noted["run_id"]))
    click.echo(f"clkd: the run was recorded in {store.plain(noted['uri'])}; this is {store.plain(chosen)}", err=True)
    return Place(chosen)


def _latest_experiment(uri: str) -> str:
    """The page of the experiment that the newest run here is in, if the store has it."""
    runs = [(RunDirectory(path), (path / MANIFEST).stat().st_mtime) for path in known(cache_directory()).values()]
    for directory, _ in sorted(runs, key=lambda run: run[1], reverse=True):
        noted = _noted(directory)
        if noted.get("uri") == uri and "experiment_id" in noted:
            return store.page(noted["experiment_id"])
    return ""


def _noted(directory: RunDirectory) -> dict[str, Any]:
    """What MLflow's tracker found out."""
    found: dict[str, Any] = (directory.manifest().get("tracking") or {}).get("mlflow") or {}
    return found


def _check_there(uri: str) -> None:
    """MLflow would make an empty one."""
    path = store.database(uri)
    if path and (not path.is_file() or path.stat().st_size == 0):
        raise UserError(f"there is no MLflow store {path} yet: `clkd run` makes it, or name another by --tracking-uri")
