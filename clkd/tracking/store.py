"""Where MLflow keeps runs: which store, whether it answers, and the experiment in it."""

from __future__ import annotations

import http.client
import logging
import os
import re
import sqlite3
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from clkd.errors import TrackingError
from clkd.locks import alone

if TYPE_CHECKING:
    from mlflow import MlflowClient

PATIENCE_SECONDS = 3.0
RETRIES, TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
TIMEOUT_SECONDS = "10"
SQLITE = "sqlite:///"
CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def resolve_uri(uri: str | None, stored: str | None = None) -> str:
    """The tracking URI in force: given, from the environment, where the run began, or a database right here.

    Relative SQLite paths become absolute, so that a resumed run finds its database from anywhere.

    Raises:
        TrackingError: a file store, which MLflow no longer writes.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI") or stored or f"{SQLITE}mlflow.db"
    if chosen.startswith(SQLITE):
        return f"{SQLITE}{Path(chosen.removeprefix(SQLITE)).absolute()}"
    if chosen != "databricks" and urlsplit(chosen).scheme in ("", "file"):
        raise TrackingError(
            f"tracking uri '{chosen}' is a file store, which MLflow no longer writes: "
            "give sqlite:///PATH.db or a server's http address"
        )
    return chosen


def database(uri: str) -> Path | None:
    """The file of a SQLite store."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]) if uri.startswith(SQLITE) else None


def plain(uri: str) -> str:
    """The URI as it may be printed: without a password.

    >>> plain("http://me:secret@here:5000"), plain("postgresql://me:secret@here/runs")
    ('http://here:5000', 'postgresql://here/runs')
    """
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else uri


def page(experiment_id: str, run_id: str | None = None) -> str:
    """Where MLflow's user interface shows an experiment's runs, or one of them, below the server's address.

    Without the last word, MLflow 3.17 takes every experiment for one about prompts and traces.
    """
    shown = f"/{run_id}" if run_id else ""
    return f"/#/experiments/{experiment_id}/runs{shown}?workflowType=machine_learning"


def hushed(text: str) -> str:
    """Any text, with what is said before the host of an address left out: it may be a password.

    >>> hushed("clkd run tiny.yaml --tracking-uri http://me:secret@here:5000")
    'clkd run tiny.yaml --tracking-uri http://here:5000'
    """
    return re.sub(r"(?<=://)[^/\s@'\"]+@", "", text)


def told(error: Exception | None) -> str:
    """One line of what went wrong, without a password; what clkd itself raised goes without its type.

    >>> told(ValueError("http://me:secret@here is no address\\nat all"))
    'ValueError: http://here is no address'
    """
    lines = str(error).strip().splitlines()
    line = hushed(lines[0])[:300] if lines else ""
    return line if isinstance(error, TrackingError) else f"{type(error).__name__}: {line}"


def refusal(error: Exception, uri: str) -> str | None:
    """One line for an error that means that the server does not let us in; None for any other."""
    code = getattr(error, "error_code", None)
    if code == "UNAUTHENTICATED":
        given = [f"${name}" for name in CREDENTIALS if os.environ.get(name)]
        if given:
            return f"MLflow server {plain(uri)} does not accept {' and '.join(given)} (401): put them right"
        return (
            f"MLflow server {plain(uri)} wants a login (401): set $MLFLOW_TRACKING_USERNAME and "
            "$MLFLOW_TRACKING_PASSWORD, or $MLFLOW_TRACKING_TOKEN"
        )
    if code == "PERMISSION_DENIED":
        return f"MLflow server {plain(uri)} does not let you do that (403): ask its administrator for the permission"
    return None


def is_server(uri: str) -> bool:
    """Whether a server has to be asked over the network."""
    return urlsplit(uri).scheme in ("http", "https")


def check_reachable(uri: str) -> None:
    """Ask a server for a sign of life, since MLflow itself would wait for minutes. Any answer will do, even a refusal.

    Raises:
        TrackingError: no answer within three seconds, or the server reports a failure of its own; a SQLite database
            that cannot be opened.
    """
    if path := database(uri):
        _check_database(path)
    if not is_server(uri):
        return
    parts = urlsplit(uri)
    url = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=f"{parts.path.rstrip('/')}/health").geturl()
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS, context=_trusted()):
            return
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500:
            raise TrackingError(f"MLflow server {plain(uri)} answers with an error ({error.code})") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise TrackingError(f"MLflow server {plain(uri)} does not answer: {reason}") from error


def _trusted() -> ssl.SSLContext | None:
    """Which certificates MLflow trusts, by its own variables."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        return ssl._create_unverified_context()
    path = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    return ssl.create_default_context(cafile=path) if path else None


def _check_database(path: Path) -> None:
    """A look into it, or, where it is still to be made, into its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=PATIENCE_SECONDS)) as database:
            database.execute("PRAGMA schema_version")
    except (OSError, sqlite3.Error) as error:
        raise TrackingError(
            f"MLflow's database {path} cannot be opened ({error}): name another by --tracking-uri"
        ) from error


class _Impatience:
    """MLflow's own patience, lowered in the environment as long as anybody is `impatient`: it reads it there alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before: dict[str, str | None] = {}

    def begin(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                wanted = {RETRIES: "0", TIMEOUT: os.environ.get(TIMEOUT) or TIMEOUT_SECONDS}
                self._before = {name: os.environ.get(name) for name in wanted}
                os.environ.update(wanted)

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                for name, value in self._before.items():
                    _set(name, value)


_impatience = _Impatience()


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


@contextmanager
def understood(uri: str) -> Iterator[None]:
    """A server that does not let us in is a `TrackingError` of one line."""
    try:
        yield
    except Exception as error:
        if line := refusal(error, uri):
            raise TrackingError(line) from error
        raise


@contextmanager
def impatient(uri: str) -> Iterator[None]:
    """Let MLflow's requests to a server fail at once in here: by itself, it would repeat each for minutes.

    A request that was repeated although the server had obeyed it would also make things twice. How long a request may
    take is the user's to say (`$MLFLOW_HTTP_REQUEST_TIMEOUT`, else 10 seconds). The environment is put back at the end;
    for a database it stays as it is, since other threads may be reading it.
    """
    if database(uri):
        yield
        return
    _impatience.begin()
    try:
        yield
    finally:
        _impatience.end()


def leftover() -> tuple[str, str] | None:
    """A file store of an older MLflow right here, which nobody reads any more: what it is, and what to do."""
    path = Path("mlruns")
    if not any(path.glob("*/meta.yaml")):
        return None
    remedy = f"mlflow migrate-filestore --source {path.absolute()} --target {SQLITE}mlflow.db, or delete it"
    return "./mlruns is a file store of an older MLflow, which nobody reads here", remedy


def open_client(uri: str) -> MlflowClient:
    """A client of the store that keeps quiet."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow import MlflowClient

    for chatty in ("mlflow", "alembic"):
        logger = logging.getLogger(chatty)
        logger.setLevel(max(logger.level, logging.WARNING))
    path = database(uri)
    if path is None:
        return MlflowClient(tracking_uri=uri)
    with alone(path.with_name(f".{path.name}.lock"), f"opening {path}"):  # MLflow's own first start races
        return MlflowClient(tracking_uri=uri)


def find_experiment(client: MlflowClient, name: str, uri: str, about: str = "") -> str:
    """The experiment's id; it is made if need be, with a note, and its artifacts then lie beside a SQLite database.

    MLflow's own default would put them into the directory that the process happens to run in.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            tags = {"clkd.schema": "1", **({"mlflow.note.content": about} if about else {})}
            made: str = client.create_experiment(name, _artifacts(name, uri), tags=tags)
            return made
        except MlflowException:  # another process may have made it in the meantime
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        restore = f"mlflow experiments restore --experiment-id {found.experiment_id}"
        raise TrackingError(f"MLflow experiment '{name}' was deleted: bring it back with `{restore}`, or name another")
    identifier: str = found.experiment_id
    return identifier


def choose_experiment(client: MlflowClient, wanted: str | None, name: str, uri: str, about: str = "") -> str:
    """The id of the experiment `wanted`, else of the one that the environment names, else of `name`.

    One that is made now gets the note `about`.
    """
    from mlflow.exceptions import MlflowException

    identifier = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if wanted is not None or not identifier:
        return find_experiment(client, wanted or os.environ.get("MLFLOW_EXPERIMENT_NAME") or name, uri, about)
    try:
        return find_experiment(client, client.get_experiment(identifier).name, uri)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise TrackingError(
            f"$MLFLOW_EXPERIMENT_ID is '{identifier}', but {plain(uri)} has no such experiment: name another"
        ) from error


def _artifacts(name: str, uri: str) -> str | None:
    path = database(uri)
    if path is None:
        return None
    safe = re.sub(r"[^\w.-]|^\.+$", "_", name)  # dots alone would lead out of the folder
    return (path.parent / "mlartifacts" / safe).as_uri()
