"""Where MLflow keeps runs: which store, whether it answers, and the experiment in it."""

from __future__ import annotations

import http.client
import logging
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from clkd.errors import TrackingError
from clkd.locks import alone

if TYPE_CHECKING:
    from mlflow import MlflowClient

PATIENCE_SECONDS = 3.0
SQLITE = "sqlite:///"


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


def is_server(uri: str) -> bool:
    """Whether a server has to be asked over the network."""
    return urlsplit(uri).scheme in ("http", "https")


def check_reachable(uri: str) -> None:
    """Ask a server for a sign of life, since MLflow itself would wait for minutes. Any answer will do, even a refusal.

    Raises:
        TrackingError: no answer within three seconds, or the server reports a failure of its own.
    """
    if not is_server(uri):
        return
    parts = urlsplit(uri)
    url = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=f"{parts.path.rstrip('/')}/health").geturl()
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS):
            return
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500:
            raise TrackingError(f"MLflow server {uri} answers with an error ({error.code})") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise TrackingError(f"MLflow server {uri} does not answer: {reason}") from error


def open_client(uri: str) -> MlflowClient:
    """A client of the store, quiet and impatient; what the user has set in the environment stays."""
    if is_server(uri):
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow import MlflowClient

    for chatty in ("mlflow", "alembic"):
        logger = logging.getLogger(chatty)
        logger.setLevel(max(logger.level, logging.WARNING))
    if not uri.startswith(SQLITE):
        return MlflowClient(tracking_uri=uri)
    database = _database(uri)
    with alone(database.with_name(f".{database.name}.lock"), f"opening {database}"):  # MLflow's own first start races
        return MlflowClient(tracking_uri=uri)


def find_experiment(client: MlflowClient, name: str, uri: str) -> str:
    """The experiment's id; it is made if need be, and its artifacts then lie beside a SQLite database.

    MLflow's own default would put them into the directory that the process happens to run in.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            made: str = client.create_experiment(name, _artifacts(name, uri), tags={"clkd.schema": "1"})
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


def _artifacts(name: str, uri: str) -> str | None:
    if not uri.startswith(SQLITE):
        return None
    return (_database(uri).parent / "mlartifacts" / re.sub(r"[^\w.-]", "_", name)).as_uri()


def _database(uri: str) -> Path:
    return Path(uri.removeprefix(SQLITE).partition("?")[0])
