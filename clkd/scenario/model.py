"""What a scenario file may say: one strict model per section, with its defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from clkd.options import (
    DatasetPart,
    HeadPart,
    LossPart,
    MemoryPart,
    MetricPart,
    ModelPart,
    Options,
    StreamPart,
    TeacherPart,
    TrackerPart,
    TransferPart,
)
from clkd.scenario.optimizers import OptimizerOptions, SchedulerOptions

Positive = Annotated[int, Field(gt=0)]


class Augment(Options):
    """Random changes of the training view, made on whole batches."""

    crop: Annotated[int, Field(ge=0)] = 0
    """Pad by this many pixels and crop back at a random place."""
    flip: bool = False
    """Mirror left to right, half of the time."""


class StreamOptions(Options):
    """The data, and how it is cut into experiences."""

    dataset: DatasetPart
    split: StreamPart
    augment: Augment | Literal["standard", "none"] = "standard"
    """`standard` is what the data set's own entry declares (`clkd list datasets NAME`)."""


class StudentOptions(Options):
    """The model that is trained."""

    model: ModelPart
    head: HeadPart


class TrainOptions(Options):
    """How each experience is trained."""

    epochs: Positive = 1
    batch_size: Positive = 64
    """New rows in a step."""
    replay_batch_size: Positive | None = None
    """Replayed rows in a step; by default as many as new ones."""
    eval_batch_size: Positive = 512
    optimizer: OptimizerOptions
    scheduler: SchedulerOptions | None = None
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    keep_optimizer: bool = False
    """Carry the optimizer's state from one experience to the next instead of starting afresh."""
    drop_last: bool = False
    """Leave out an epoch's last batch when it is not full."""
    channels_last: bool = True
    """Lay images out channels-last, which is faster for convolutions."""


class TrackingOptions(Options):
    """Where the run is recorded beside its own directory."""

    mode: Literal["mlflow", "offline", "off"] = "mlflow"
    """`offline` writes `metrics.jsonl` only; `off` not even that."""
    uri: str | None = None
    """MLflow's tracking URI; by default `$MLFLOW_TRACKING_URI`, else `sqlite:///mlflow.db` in the current directory."""
    experiment: str | None = None
    """MLflow's experiment; by default the scenario's name."""
    child_runs: bool = True
    """One nested run per experience."""
    tags: dict[str, str] = {}
    trackers: tuple[TrackerPart, ...] = ()
    """Further trackers, from plugins."""


class Scenario(Options):
    """One execution, whole. `clkd show` prints it with every default filled in."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    seed: int = 0
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`."""
    output: str | None = None
    """The run's directory; by default `runs/<name>-<time>` in the current directory."""
    method: str | None = None
    """A preset that fills in whatever this file leaves out (`clkd list methods`)."""
    stream: StreamOptions
    student: StudentOptions
    teachers: dict[str, TeacherPart] = {}
    losses: tuple[LossPart, ...]
    memory: MemoryPart
    transfer: TransferPart
    metrics: tuple[MetricPart, ...]
    train: TrainOptions
    tracking: TrackingOptions = TrackingOptions()

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, raw: Any) -> Any:
        """Parts that a scenario need not name."""
        return {**DEFAULTS, **raw} if isinstance(raw, dict) else raw


DEFAULTS: dict[str, Any] = {
    "losses": ["cross_entropy"],
    "memory": "none",
    "transfer": "none",
    "metrics": [
        "average_accuracy",
        "average_incremental_accuracy",
        "forgetting",
        "backward_transfer",
        "forward_transfer",
        "macro_f1",
    ],
}
