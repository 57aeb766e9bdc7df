"""What a scenario says of phases: further trainings at an experience's end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from clkd.optimizers import OptimizerOptions, SchedulerOptions
from clkd.options import Options

HELD_OUT = "held_out"
HELD: dict[str, Any] = {"share": 0.1, "keep": 200}
"""What a phase on held-out rows leaves unsaid."""


class PhaseOptions(Options):
    """A further training at each experience's end, after memory took the experience in and before teachers look."""

    name: Annotated[str, Field(pattern=r"^[\w-]+$")]
    """What logs and errors call it."""
    rows: Literal["memory", "balanced", "held_out"]
    """`memory` is all that is kept, the experience's own rows among it; `balanced` the experience's rows and those
    kept, as many of each class as there are of the smallest; `held_out` rows that ordinary training never saw."""
    trains: Literal["all", "head", "bias"] = "all"
    """Everything; the head, on a backbone in eval mode; or what the head keeps for such a phase (`bias_corrected`)."""
    losses: tuple[str, ...] = ()
    """Terms of the scenario, by name; by default plain cross-entropy with the labels."""
    epochs: PositiveInt = 1
    """Passes over the phase's rows."""
    batch_size: PositiveInt | None = None
    """By default `train.batch_size`."""
    optimizer: OptimizerOptions
    """The phase's own; it starts afresh each time."""
    scheduler: SchedulerOptions | None = None
    """Over the phase's own length."""
    reset: bool = False
    """Begin with the weights that an untrained student has."""
    from_experience: Annotated[int, Field(ge=0)] = 0
    """The first experience, from 0, that has this phase."""
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of `held_out`: how much of each class's new rows ordinary training does not see; 0.1 by default."""
    keep: PositiveInt | None = None
    """Of `held_out`: how many such rows are kept at most, the same number of every class; 200 by default."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, raw: Any) -> Any:
        return {**HELD, **raw} if isinstance(raw, Mapping) and raw.get("rows") == HELD_OUT else raw

    @model_validator(mode="after")
    def _used(self) -> PhaseOptions:
        """Options that would change nothing are mistakes."""
        if self.rows != HELD_OUT and (self.share, self.keep) != (None, None):
            raise ValueError("share and keep are about held_out rows: leave them out")
        if self.reset and self.trains != "all":
            raise ValueError("reset begins with an untrained student: train all of it")
        return self
