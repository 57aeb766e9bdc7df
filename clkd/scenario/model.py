"""What a scenario file may say, whole: strict models with their defaults. Larger sections have files of their own."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, PositiveInt, field_validator, model_validator

from clkd.options import (
    HeadPart,
    LossPart,
    MemoryPart,
    MetricPart,
    ModelPart,
    Options,
    TeacherPart,
    TransferPart,
    ViewOptions,
)
from clkd.scenario.measures import Reported, Shifted
from clkd.scenario.phase import PhaseOptions
from clkd.scenario.stream import StreamOptions
from clkd.scenario.tracking import TrackingOptions
from clkd.scenario.train import TrainOptions


class StudentOptions(Options):
    """The model that is trained."""

    model: ModelPart
    """The backbone, which turns rows into features (`clkd list models`)."""
    head: HeadPart
    """The classifier on it, which may grow with the classes (`clkd list heads`)."""
    view: ViewOptions | None = None
    """What it sees of the stream's rows, such as `{channels: gray}`; teachers see them whole, or in their own views."""


class PeerOptions(StudentOptions):
    """A further student, trained beside the one that is evaluated: they teach each other."""

    own_view: bool = False
    """Whether it sees each row in a random view of its own, or in the student's."""


class CheckpointOptions(Options):
    """When a run is saved, beside each experience's end and whenever a signal stops it, and how much of it is kept."""

    every_steps: PositiveInt | None = None
    """Save also within an experience, whenever so many optimiser steps of the run were taken."""
    every_minutes: Annotated[float, Field(gt=0)] | None = 10.0
    """Save also within an experience, whenever so much time has passed since the last checkpoint; null for never."""
    keep: PositiveInt | None = None
    """How many experiences' ends stay on disk, the newest ones; all by default. The one checkpoint from within the
    experience under way does not count."""


class Scenario(Options):
    """One execution, whole. `clkd show` prints it with every default filled in."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    """What runs, groups and MLflow's experiment are called: letters, digits, `_`, `.` and `-`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """What every random draw of the run is derived from. The same seed gives the same bits on one machine."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`."""
    output: str | None = None
    """The run's directory; by default `runs/<name>-<time>-<id>` in the current directory."""
    method: str | None = None
    """A preset that fills in whatever this file leaves out (`clkd list methods`)."""
    stream: StreamOptions
    """The data, and how it arrives."""
    student: StudentOptions
    """The model that is trained."""
    peers: dict[str, PeerOptions] = Field(default_factory=dict)
    """Further students by name, for `between`, for an ensemble's `members` and for `of` at teachers."""
    teachers: dict[str, TeacherPart] = Field(default_factory=dict)
    """By the names that `between` and other teachers call them (`clkd list teachers`)."""
    losses: Annotated[tuple[LossPart, ...], Field(min_length=1)]
    """The terms that are summed in each step, in this order (`clkd list losses`)."""
    memory: MemoryPart
    """What is kept of the past and replayed (`clkd list memories`)."""
    transfer: TransferPart
    """What makes domains comparable (`clkd list transfers`); one, or a list of them."""
    metrics: tuple[MetricPart, ...]
    """What is computed from the accuracies (`clkd list metrics`)."""
    train: TrainOptions
    """How each experience is trained."""
    phases: tuple[PhaseOptions, ...] = ()
    """Further trainings at each experience's end, one after another."""
    checkpoint: CheckpointOptions = CheckpointOptions()
    """When the run is saved, and how much of it is kept."""
    report: Reported = False
    """What was transferred in each experience: `true`, or options; by default nothing is said of it."""
    shift: Shifted = False
    """How far domains are apart, and whether what comes in is of a known one: `true`, or options; by default nothing is
    said of it."""
    tracking: TrackingOptions = TrackingOptions()
    """Where the run is recorded beside its own directory."""

    @property
    def resets(self) -> bool:
        """Whether the student ever begins anew."""
        return self.train.reset or any(phase.reset for phase in self.phases)

    @property
    def teaches_of_new_rows_alone(self) -> bool:
        """Whether no loss but regularisers looks at replayed rows."""
        losses = (part for part in self.losses if not getattr(part.options, "regularises", False))
        return all(getattr(part.shared, "of_new_rows", False) for part in losses)

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", device):
            raise ValueError("give auto, cpu, cuda or cuda:N")
        return device

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
