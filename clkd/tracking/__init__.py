"""Where a run is recorded: the terminal, a file of JSON lines, MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clkd.hooks import hookimpl
from clkd.options import Options

if TYPE_CHECKING:
    from clkd.registry import Register


class ConsoleOptions(Options):
    """How much the terminal is told."""

    quiet: bool = False
    """Say only what must not be overlooked, such as a stand-in for the data set."""


class JsonlOptions(Options):
    """What stands in `metrics.jsonl`, which lies in the run's directory."""

    system_metrics: float | None = None
    """Seconds between two samples of what the machine is busy with; none by default."""


class MlflowOptions(Options):
    """Which MLflow the run goes to, and as what."""

    uri: str | None = None
    """By default `$MLFLOW_TRACKING_URI`, else `sqlite:///mlflow.db` in the current directory."""
    experiment: str | None = None
    """By default the scenario's name."""
    child_runs: bool = True
    """One nested run per experience."""
    tags: dict[str, str] | None = None
    """Further tags of the run."""
    registered: str | None = None
    """The name in MLflow's registry of the run's exported students; by default they are not registered."""
    alias: str | None = "champion"
    """The registry's alias that moves to the newest of them."""
    required: bool = False
    """Whether a run waits for the store before it trains."""


@hookimpl
def clkd_register_trackers(register: Register) -> None:
    """The built-in trackers."""
    register(
        "console",
        "clkd.tracking.console:ConsoleTracker",
        config=ConsoleOptions,
        summary="progress and accuracy matrix on stderr",
    )
    register(
        "jsonl", "clkd.tracking.jsonl:JsonlTracker", config=JsonlOptions, summary="metrics.jsonl in the run's directory"
    )
    register(
        "mlflow",
        "clkd.tracking.mlflow:MlflowTracker",
        config=MlflowOptions,
        summary="an MLflow run with one child per experience",
    )
