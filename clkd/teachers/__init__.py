"""Teachers: what the student is distilled from. This front door loads no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from clkd.hooks import hookimpl
from clkd.optimizers import OptimizerOptions, SchedulerOptions
from clkd.options import ModelPart, Options

if TYPE_CHECKING:
    from clkd.registry import Register
    from clkd.scenario.model import Scenario

Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]


class PreviousOptions(Options):
    """The student as it was at the end of the previous experience."""


class EmaOptions(Options):
    """A moving average of the student's own weights."""

    decay: Share = 0.999


class StoredOptions(Options):
    """What the student said about each replayed row when the row was new."""

    def problems(self, scenario: Scenario) -> Iterator[str]:
        """It speaks of replayed rows alone, and only where the memory stored what was said."""
        store = getattr(scenario.memory.options, "store", ())
        if not store:
            yield (
                "it says again what the memory stored, but this memory stores nothing: set memory: "
                "{kind: reservoir, size: 1000, store: [logits]}"
            )
        names = {name for name, part in scenario.teachers.items() if part.options is self}
        for name, part in scenario.teachers.items():
            if names & set(getattr(part.options, "members", ())):
                yield f"it speaks of replayed rows alone, so it cannot be a member of '{name}'"
        for i, loss in enumerate(scenario.losses):
            sides = [side.partition("@") for side in getattr(loss.shared, "between", None) or ()]
            rows = {rows for _, _, rows in sides if rows}
            if names & {side.partition(".")[0] for side, _, _ in sides} and (len(rows) != 1 or "new" in rows):
                yield (
                    f"it speaks of replayed rows alone: let both sides of losses.{i}.between name the same ones, as "
                    "[student@replay, stored@replay]"
                )


class EnsembleOptions(Options):
    """Several teachers that speak as one."""

    members: Annotated[tuple[str, ...], Field(min_length=2)]
    """Names of other teachers of this scenario."""
    mean: Literal["probabilities", "logits"] = "probabilities"
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """How much each member counts, in their order; only the ratios matter. By default all count the same."""
    by: Literal["weight", "entropy", "class"] = "weight"
    """Who is heard: all as `weights` say; those that are surer of a row more (`entropy`); or of each row those members
    that know its class (`class`)."""

    @model_validator(mode="after")
    def _a_weight_each(self) -> EnsembleOptions:
        if self.weights is not None and len(self.weights) != len(self.members):
            raise ValueError(f"weights: give one for each of the {len(self.members)} members")
        return self


class SnapshotOptions(Options):
    """Past selves of the student that speak as one."""

    last: Positive | None = 3
    """How many are kept; `null` keeps all, which takes one student's memory for every experience."""
    mean: Literal["probabilities", "logits"] = "probabilities"
    by: Literal["weight", "entropy", "class"] = "class"
    """As of an ensemble: a row hears those past selves that know its class, all of them, or the surer ones more."""


class ViewOptions(Options):
    """How the student's view is changed for a teacher that was trained on another one."""

    size: Positive | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class ExternalOptions(Options):
    """What every teacher from outside may say."""

    classes: tuple[int | str | None, ...] | None = None
    """The stream's class (id or name) of each output, `null` for one that is no class of the stream and takes no part;
    by default output k is class k, and the counts must agree."""
    view: ViewOptions | None = None


class FitOptions(Options):
    """A network trained once on all of the stream's training data, kept in the cache and used again."""

    model: ModelPart
    epochs: Positive = 10
    batch_size: Positive = 128
    optimizer: OptimizerOptions = OptimizerOptions(kind="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    scheduler: SchedulerOptions | None = SchedulerOptions(kind="one_cycle", every="step", max_lr=0.1)
    seed: int = 0
    """The teacher's own: the run's seed does not count, so that one teacher serves all seeds of a scenario."""


class CheckpointOptions(ExternalOptions):
    """A network of clkd's with weights from a file: a state dict (`.pt`, never unpickled), safetensors, or the
    `state.safetensors` of a run's checkpoint."""

    path: str
    model: ModelPart


class TorchvisionOptions(ExternalOptions):
    """A torchvision classifier with its own classes, from a local weights file or torchvision's own names."""

    model: str
    weights: str


class MlflowOptions(ExternalOptions):
    """A model out of MLflow's registry or a run: `models:/student@champion`, `runs:/…/model`."""

    uri: str
    trust: bool = False
    """Load a model that was saved as a pickle, or that brings code with it: either can run any code."""


@hookimpl
def clkd_register_teachers(register: Register) -> None:
    """The teachers that clkd ships."""
    register(
        "previous",
        "clkd.teachers.previous:Previous",
        config=PreviousOptions,
        summary="the student before this experience",
    )
    register(
        "snapshot",
        "clkd.teachers.snapshots:Snapshots",
        config=SnapshotOptions,
        summary="the last few past selves of the student, as one",
    )
    register("ema", "clkd.teachers.ema:Ema", config=EmaOptions, summary="a moving average of the student")
    register(
        "stored",
        "clkd.teachers.stored:Stored",
        config=StoredOptions,
        summary="what the student said of replayed rows when they were new (Dark Experience Replay)",
    )
    register(
        "ensemble", "clkd.teachers.ensemble:Ensemble", config=EnsembleOptions, summary="several teachers, averaged"
    )
    register(
        "fit",
        "clkd.teachers.external:fit",
        config=FitOptions,
        summary="a larger network, trained once on all data and cached",
    )
    register("checkpoint", "clkd.teachers.external:checkpoint", config=CheckpointOptions, summary="weights from a file")
    register(
        "torchvision",
        "clkd.teachers.external:torchvision",
        config=TorchvisionOptions,
        summary="a torchvision classifier",
    )
    register("mlflow", "clkd.teachers.external:mlflow", config=MlflowOptions, summary="a model from MLflow")
