"""Teachers: what the student is distilled from. This front door loads no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from clkd.errors import did_you_mean
from clkd.hooks import hookimpl
from clkd.optimizers import OptimizerOptions, SchedulerOptions
from clkd.options import ModelPart, OptionalPart, Options, Part, ViewOptions

if TYPE_CHECKING:
    from clkd.registry import Register
    from clkd.scenario.model import Scenario

Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]


class FollowerOptions(Options):
    """What is made from one of those that are trained."""

    of: str = "student"
    """Whose past it is: the student's, or that of one of its `peers`."""

    def problems(self, scenario: Scenario) -> Iterator[str]:
        if self.of not in (known := ("student", *scenario.peers)):
            yield f"of: '{self.of}' is not trained here ({did_you_mean(self.of, known)})"


class PreviousOptions(FollowerOptions):
    """The student as it was at the end of the previous experience."""


class EmaOptions(FollowerOptions):
    """A moving average of the student's own weights."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """How much of it stays in a step; with 0 it is the student as it stands, in eval mode."""


class StoredOptions(Options):
    """What the student said about each replayed row when the row was new."""

    classes: Literal["known", "all"] = "known"
    """What a row is compared over: the classes that had come by its own experience, or `all` columns of a head that has
    them from the start, as in the paper: then it also says again that it is of none of the classes that came later."""

    def problems(self, scenario: Scenario) -> Iterator[str]:
        """It speaks of replayed rows alone, and only where the memory stored what was said."""
        store = getattr(scenario.memory.options, "store", ())
        if not store:
            yield (
                "it says again what the memory stored, but this memory stores nothing: set memory: "
                "{kind: reservoir, size: 1000, store: [logits]}"
            )
        names = {name for name, part in scenario.teachers.items() if part.options is self}
        if self.classes == "all" and scenario.student.head.name != "fixed":
            yield (
                f"classes: only the head fixed has all columns from the start: set student.head: fixed, or "
                f"teachers: {{{', '.join(names)}: stored}}"
            )
        for name, part in scenario.teachers.items():
            if names & set(getattr(part.options, "members", ())):
                yield f"it speaks of replayed rows alone, so it cannot be a member of '{name}'"
        for i, loss in enumerate(scenario.losses):
            sides = [side.partition("@") for side in getattr(loss.shared, "between", None) or ()]
            rows = {rows for _, _, rows in sides if rows}
            models = [side.partition(".")[0] for side, _, _ in sides]
            if names & set(models) and (len(rows) != 1 or "new" in rows):
                yield (
                    f"it speaks of replayed rows alone: let both sides of losses.{i}.between name the same ones, as "
                    "[student@replay, stored@replay]"
                )
            if names & set(models) and models[0] in scenario.peers:
                yield (
                    f"it is what the student said, and memory keeps nothing that '{models[0]}' said: losses.{i} can "
                    "only teach the student by it"
                )


class EnsembleOptions(Options):
    """Several teachers that speak as one."""

    members: Annotated[tuple[str, ...], Field(min_length=2)]
    """Names of other teachers of this scenario, of its peers, or `student`."""
    mean: Literal["probabilities", "logits"] = "probabilities"
    """What is averaged: the members' probabilities, or their logits."""
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """How much each member counts, in their order; only the ratios matter. By default all count the same."""
    by: Literal["weight", "entropy", "class", "least_loss", "min_logit"] = "weight"
    """Who is heard: all as `weights` say; those that are surer of a row more (`entropy`); of each row those members
    that know its class (`class`); the one member with the least cross-entropy (`least_loss`); or of each class the one
    that finds it least likely beside the label (`min_logit`)."""

    @model_validator(mode="after")
    def _a_weight_each(self) -> EnsembleOptions:
        if self.weights is not None and len(self.weights) != len(self.members):
            raise ValueError(f"weights: give one for each of the {len(self.members)} members")
        return self

    def problems(self, scenario: Scenario) -> Iterator[str]:
        """Who speaks is settled once for an experience."""
        for name in self.members:
            if name in scenario.teachers and scenario.teachers[name].name == "before_phase":
                yield f"members: '{name}' speaks in phases alone, so it cannot be averaged with those who always do"


class SnapshotOptions(FollowerOptions):
    """Past selves of the student that speak as one."""

    last: Positive | None = 3
    """How many are kept; `null` keeps all, which takes one student's memory for every experience."""
    mean: Literal["probabilities", "logits"] = "probabilities"
    """What is averaged: their probabilities, or their logits."""
    by: Literal["weight", "entropy", "class"] = "class"
    """As of an ensemble: a row hears those past selves that know its class, all of them, or the surer ones more."""


class ExternalOptions(Options):
    """What every teacher from outside may say."""

    classes: tuple[int | str | None, ...] | None = None
    """The stream's class (id or name) of each output, `null` for one that is no class of the stream and takes no part;
    by default output k is class k, and the counts must agree."""
    view: ViewOptions | None = None
    """What it sees of the stream's rows, where that is not what the student sees."""


class Recipe(Options):
    """How networks are fitted that are to teach."""

    model: ModelPart
    """Its backbone (`clkd list models`), with a linear head."""
    epochs: Positive = 10
    """Passes over all training rows of the stream."""
    batch_size: Positive = 128
    """Rows in a step."""
    optimizer: OptimizerOptions = OptimizerOptions(kind="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    """As `train.optimizer`."""
    scheduler: SchedulerOptions | None = SchedulerOptions(kind="one_cycle", every="step", max_lr=0.1)
    """As `train.scheduler`, over the whole fit; `null` for none."""
    seed: int = 0
    """The teacher's own: the run's seed does not count, so that one teacher serves all seeds of a scenario."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """With a teacher of its own: as of `kd`."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """With a teacher of its own: of `kd`, beside the cross-entropy's 1."""
    view: ViewOptions | None = None
    """What it sees of the stream's rows, when it is fitted and when it teaches."""
    domains: Annotated[tuple[str | Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    """Of which of the data's own domains it is fitted on the rows, by name or number (such as one of several data
    sets); by default of all."""


class FitOptions(Recipe):
    """A network trained once on all of the stream's training data, kept in the cache and used again."""

    teacher: Annotated[Part | None, OptionalPart("teachers")] = None
    """Who teaches it: another teacher from outside, which may have one itself (a teacher assistant)."""

    @model_validator(mode="after")
    def _somebody_who_can(self) -> FitOptions:
        if self.teacher is None:
            for key in ("temperature", "weight"):
                if getattr(self, key) != Recipe.model_fields[key].default:
                    raise ValueError(f"{key}: is for learning from a teacher, and none is given: add teacher: {{…}}")
        elif self.teacher.name in OF_A_RUN:
            raise ValueError(
                f"teacher: '{self.teacher.name}' lives with a run's student, and this network is fitted before that "
                "is there: use a teacher from outside (fit, born_again, run, checkpoint, torchvision, mlflow)"
            )
        return self


OF_A_RUN = ("previous", "before_phase", "snapshot", "ema", "stored", "ensemble")
"""Teachers that are nothing without the run they are in."""


class BornAgainOptions(Recipe):
    """Networks of one kind, each taught by the one before it, trained once and kept in the cache."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """As of `kd`."""
    generations: Annotated[int, Field(gt=1)] = 3
    """How many, the first one included, which learns from labels alone. Each has a seed of its own: `seed`, `seed` + 1,
    …"""
    speak: Literal["last", "all"] = "last"
    """Who teaches the student: the last generation, or the mean of the probabilities of all of them."""


class RunOptions(Options):
    """The student of a finished run: its model, classes and normalization are as they were there."""

    run: str
    """The run's directory (relative to the scenario file) or id; with `@N` as it was after experience N, else after the
    last one."""
    classes: dict[str, int | str | None] = Field(default_factory=dict)
    """For a class of that run (name or id) the stream's class, `null` for none; others are matched by name."""
    view: ViewOptions | None = None
    """What it sees of the stream's rows; by default they are brought to that run's size, channels and statistics."""

    @field_validator("run")
    @classmethod
    def _one_that_stays(cls, run: str) -> str:
        if run.partition("@")[0] == "last":
            raise ValueError("'last' is another run tomorrow: give a run's directory or id")
        return run


class CheckpointOptions(ExternalOptions):
    """A network of clkd's with weights from a file: a state dict (`.pt`, never unpickled), safetensors, or the
    `state.safetensors` of a run's checkpoint."""

    path: str
    """The file; a relative path starts at the scenario file."""
    model: ModelPart
    """The backbone that the weights belong to, with a linear head."""


class TorchvisionOptions(ExternalOptions):
    """A torchvision classifier with its own classes, from a local weights file or torchvision's own names."""

    model: str
    """Its name in torchvision, such as `resnet18`."""
    weights: str
    """A file, or what torchvision calls them, such as `IMAGENET1K_V1`."""


class MlflowOptions(ExternalOptions):
    """A model out of MLflow's registry or a run: `models:/student@champion`, `runs:/…/student`."""

    uri: str
    """Where MLflow has it: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or what a run logged, `runs:/RUN/PATH`."""
    trust: bool = False
    """Load a model that was saved as a pickle, or that brings code with it: either can run any code."""


@hookimpl
def clkd_register_teachers(register: Register) -> None:
    """The teachers that clkd ships."""
    register(
        "before_phase",
        "clkd.teachers.before_phase:BeforePhase",
        config=Options,
        summary="the student as it was when the phase under way began (EEIL)",
    )
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
        "clkd.teachers.fitted:fit",
        config=FitOptions,
        summary="a larger network, trained once on all data and cached",
    )
    register(
        "born_again",
        "clkd.teachers.fitted:born_again",
        config=BornAgainOptions,
        summary="generations of one network, each taught by the one before, trained once and cached",
    )
    register("run", "clkd.teachers.finished:run", config=RunOptions, summary="the student of a finished run")
    register("checkpoint", "clkd.teachers.external:checkpoint", config=CheckpointOptions, summary="weights from a file")
    register(
        "torchvision",
        "clkd.teachers.external:torchvision",
        config=TorchvisionOptions,
        summary="a torchvision classifier",
    )
    register("mlflow", "clkd.teachers.logged:mlflow", config=MlflowOptions, summary="a model from MLflow")
