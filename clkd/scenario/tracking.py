"""What a scenario says of where its run is recorded."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from clkd.options import Options, TrackerPart

RegisteredName = Annotated[str, Field(min_length=1, pattern=r"^[^/:]+$")]


class TrackingOptions(Options):
    """Where the run is recorded beside its own directory."""

    mode: Literal["mlflow", "required", "offline", "off"] = "mlflow"
    """`required` trains only if MLflow can be reached; `offline` leaves MLflow out, `off` further trackers, too. The
    run's own `metrics.jsonl` is always written."""
    uri: str | None = None
    """MLflow's tracking URI; by default `$MLFLOW_TRACKING_URI`, else `sqlite:///mlflow.db` in the current directory."""
    experiment: str | None = None
    """MLflow's experiment; by default the scenario's name."""
    child_runs: bool = True
    """One nested run per experience."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Tags for the run in MLflow, beside those that clkd sets."""
    system_metrics: Annotated[float, Field(ge=1)] | bool = False
    """Sample what the machine is busy with, every so many seconds; `true` is every 10 (needs psutil)."""
    log_model: Literal["none", "final", "each"] = "none"
    """Export the student, after the stream's last experience or after each, as a model that loads without clkd."""
    register_as: RegisteredName | bool = True
    """The name in MLflow's registry that its versions get; `true` is the scenario's name, `false` registers none."""
    alias: str | None = "champion"
    """The registry's alias that moves to the newest version; `null` leaves all where they are."""
    trackers: tuple[TrackerPart, ...] = ()
    """Further trackers, from plugins."""

    @field_validator("alias")
    @classmethod
    def _an_alias(cls, alias: str | None) -> str | None:
        if alias is not None and (not re.fullmatch(r"[\w-]+", alias) or re.fullmatch(r"latest|[vV][0-9]+", alias)):
            raise ValueError("give letters, digits, _ and -, but not 'latest' or a version such as 'v1'; or null")
        return alias
