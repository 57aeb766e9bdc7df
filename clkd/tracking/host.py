"""The MLflow run that a run of clkd is started in: one that is active here, or the one that the environment names."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Literal

from clkd.errors import TrackingError
from clkd.tracking import store

TAG = "clkd.host"
"""Of a run that clkd did not make: who did."""


@dataclass(frozen=True, slots=True)
class Host:
    """A run that is there already.

    Attributes:
        run_id: MLflow's.
        by: `active` is somebody's `with mlflow.start_run():`, which also ends it; `environment` is `$MLFLOW_RUN_ID`.
    """

    run_id: str
    by: Literal["active", "environment"]


def active_uri() -> str | None:
    """The store of the run that is active in this thread; who has not loaded MLflow has none."""
    mlflow = sys.modules.get("mlflow")
    if mlflow is None or not hasattr(mlflow, "active_run") or mlflow.active_run() is None:
        return None
    try:
        return store.resolve_uri(mlflow.get_tracking_uri())
    except TrackingError:  # in files, which clkd does not write
        return None


def find_host(uri: str) -> Host | None:
    """The run of the store `uri` that is to be used. MLflow keeps active runs by thread, so ask on the caller's."""
    if active_uri() == uri:
        return Host(sys.modules["mlflow"].active_run().info.run_id, "active")
    named = os.environ.get("MLFLOW_RUN_ID")
    return Host(named, "environment") if named else None
