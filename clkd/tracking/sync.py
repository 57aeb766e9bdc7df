"""A run that is over, into MLflow: whatever of it the store lacks, from its directory alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clkd.errors import ClkdError, TrackingError, UserError
from clkd.scenario.document import parse, read_text
from clkd.tracking import store
from clkd.tracking.events import FILE
from clkd.tracking.logged import registered_name
from clkd.tracking.upload import VANISHED, Destination, Upload


@dataclass(frozen=True, slots=True)
class Synced:
    """What became of a run.

    Attributes:
        found: where it is in MLflow (`uri`, `experiment_id`, `run_id`, `children`); empty if it was left alone.
        brought: how many points, params, tags, children, artifacts and so on the store lacked.
    """

    found: dict[str, Any] = field(default_factory=dict)
    brought: Counter[str] = field(default_factory=Counter)


def sync(directory: Path, uri: str | None = None, noted: Mapping[str, Any] = {}) -> Synced:  # it is only read
    """Bring a run into MLflow. Whoever calls this holds its lock: while it is trained, its own tracker does so.

    Args:
        directory: the run's, from any machine.
        uri: of the store; by default the scenario's, else `$MLFLOW_TRACKING_URI`, else the one that is `noted`, else
            `sqlite:///mlflow.db` here.
        noted: what its tracker noted when it was last trained: `uri`, `experiment_id`, and what it was to be called.

    Raises:
        UserError: the directory holds no record.
        TrackingError: the store cannot be used or does not answer.
    """
    if not (directory / FILE).exists():
        raise UserError(f"{directory} holds no {FILE}, so nothing of it can be brought in")
    config = parse(read_text(directory / "resolved.yaml")).data
    options = config["tracking"]
    resolved = store.resolve_uri(uri or options["uri"], noted.get("uri"))
    destination = Destination(
        resolved,
        options["experiment"],
        options["child_runs"],
        noted.get("tags", options["tags"]),
        noted.get("registered", registered_name(options.get("register_as", True), config["name"])),
        noted.get("alias", options.get("alias")),
        noted.get("experiment_id") if noted.get("uri") == resolved else None,
    )
    try:
        upload = Upload(directory, destination)
        upload.advance(VANISHED)
    except ClkdError:
        raise
    except Exception as error:  # MLflow raises whatever its database or its server made of a request
        raise TrackingError(f"MLflow {store.plain(resolved)} failed: {store.told(error)}") from error
    return Synced(upload.found, upload.brought)
