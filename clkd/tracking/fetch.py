"""A model's files out of MLflow, from the store that tracking would choose."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clkd.errors import TrackingError, UserError, one_line
from clkd.tracking import store

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODELS, RUNS = "models:/", "runs:/"


def fetch(model: str, uri: str | None, into: Path) -> Path:
    """Bring a model into the folder `into`: the folder with its `MLmodel`.

    Args:
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `models:/ID`, `runs:/RUN/NAME`, or any address of a folder.
        uri: of the store, as a scenario gives it; None is the one that tracking then chooses.

    Raises:
        UserError: there is no such model, or the store cannot be used or does not answer.
    """
    from mlflow.exceptions import MlflowException

    try:
        chosen = store.resolve_uri(uri)
        _check(chosen)
        with store.impatient(model):
            return _downloaded(model, chosen, into)
    except TrackingError as error:
        raise UserError(f"the model '{model}' cannot be loaded from MLflow: {error}") from error
    except (MlflowException, OSError) as error:
        reason = store.refusal(error, chosen) or one_line(str(error), 200)
        raise UserError(f"the model '{model}' cannot be loaded from MLflow {store.plain(chosen)}: {reason}") from error


def _check(uri: str) -> None:
    """A database that is not there holds no model, and is not made by looking for one."""
    if (path := store.database(uri)) is not None and not path.exists():
        raise TrackingError(f"there is no database {path}: name the store by --tracking-uri or $MLFLOW_TRACKING_URI")
    store.check_reachable(uri)


def _downloaded(model: str, uri: str, into: Path) -> Path:
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client = store.open_client(uri)
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(artifact_uri=_address(client, model), dst_path=str(into), tracking_uri=uri))


def _address(client: MlflowClient, model: str) -> str:
    """Where its files lie."""
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    if model.startswith(RUNS):
        return _output_of(client, *model.removeprefix(RUNS).partition("/")[::2])
    if not model.startswith(MODELS):
        return model
    found: tuple[str, ...] = get_model_name_and_version(client, model)  # type: ignore[no-untyped-call]  # mlflow's
    if len(found) > 1:
        source = str(client.get_model_version(*found).source)
        if not source.startswith(MODELS):
            return source
        found = (source.removeprefix(MODELS),)
    location: str = client.get_logged_model(found[0]).artifact_location
    return location


def _output_of(client: MlflowClient, run_id: str, name: str) -> str:
    """The newest model of that name that the run gave, or its artifact of that name."""
    run: Any = client.get_run(run_id)
    outputs = run.outputs.model_outputs if run.outputs else []
    for output in sorted(outputs, key=lambda each: each.step, reverse=True):
        model = client.get_logged_model(output.model_id)
        if model.name == name:
            location: str = model.artifact_location
            return location
    return f"{run.info.artifact_uri}/{name}"
