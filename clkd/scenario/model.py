"""What a scenario file may say: one strict model per section, with its defaults."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from clkd.errors import did_you_mean
from clkd.optimizers import OptimizerOptions, SchedulerOptions
from clkd.options import (
    DatasetPart,
    GradientPart,
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
    ViewOptions,
)

Positive = Annotated[int, Field(gt=0)]


CHANGES = ("rotate", "shear", "translate", "brightness", "contrast", "posterize", "solarize", "cutout", "noise")
"""What makes a view strong."""


def _by_its_kind(raw: Any) -> Any:
    return {"kind": raw} if isinstance(raw, str) else raw


class Strong(Options):
    """Stronger changes, on top of the view that crop and flip gave. Each row draws its own."""

    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Turn by up to so many degrees, either way."""
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Add up to so much to all pixels, or take it away, where black is 0 and white is 1."""
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0
    """Slant by up to so many degrees, either way."""
    translate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Move down or up, and right or left, by up to so much of the side."""
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Multiply the distance of pixels from the row's mean by 1 ± up to so much."""
    posterize: Annotated[int, Field(ge=0, le=7)] = 0
    """Take away so many of the 8 bits of each pixel."""
    solarize: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Invert what is brighter than a threshold, which lies up to so far below white."""
    cutout: Annotated[int, Field(ge=0)] = 0
    """Paint over a square of so many pixels a side, at a random place, with the data's mean."""
    noise: Annotated[float, Field(ge=0)] = 0.0
    """Add normal noise of this deviation, in deviations of the data: the one change that vectors know."""
    choose: Positive | None = None
    """Of all these, make so many of each row, drawn for it, as RandAugment does; by default all of them."""
    rows: Literal["all", "unlabelled"] = "all"
    """Which rows the student sees like this; others it sees in the weak view, as FixMatch does with labelled ones."""

    @model_validator(mode="after")
    def _changes(self) -> Strong:
        given = [name for name in CHANGES if getattr(self, name)]
        if not given:
            raise ValueError(f"a strong view changes something: give {', '.join(CHANGES[:-1])} or {CHANGES[-1]}")
        if self.choose is not None and self.choose > len(given):
            raise ValueError(f"cannot choose {self.choose} of {len(given)} changes, which are {', '.join(given)}")
        return self


class Mix(Options):
    """Mixing rows with each other: each new row with a new one, each replayed one with one of its draw."""

    kind: Literal["mixup", "cutmix"]
    """`mixup` blends both rows' pixels; `cutmix` pastes a box of the other one."""
    alpha: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """A row's own share is drawn from Beta(alpha, alpha): at 1 each is equally likely, near 0 all are near 0 or 1."""
    rows: Literal["all", "new"] = "all"
    """Which rows are mixed."""


class Augment(Options):
    """Random changes of the training view, made on whole batches."""

    crop: Annotated[int, Field(ge=0)] = 0
    """Pad by this many pixels and crop back at a random place."""
    flip: bool = False
    """Mirror left to right, half of the time."""
    views: Positive | None = None
    """Give each row so many fixed views, which epochs go through in turn, so that frozen teachers need to see each only
    once; by default every view is drawn anew."""
    strong: Strong | None = None
    """What is done to the student's view beside; drawn anew each time. A teacher sees the view without it if it says
    `sees: weak`."""
    mix: Annotated[Mix | None, BeforeValidator(_by_its_kind)] = None
    """Mix rows with each other (`mixup`, `cutmix`, or options), before they are made strong; all see them mixed."""


MOST_DRAWS = 100
"""Draws from memory in a step; each has a name of its own."""
COMPILE = ("reduce-overhead", "max-autotune")


def _known_mode(raw: Any) -> Any:
    if isinstance(raw, bool) or raw in COMPILE:
        return raw
    raise ValueError(f"give true, false, {' or '.join(COMPILE)}; got {raw!r}")


def _named_or_spelt_out(raw: Any) -> Any:
    """Either a name or a mapping, told apart here so that only the mistakes of the one meant are reported."""
    if isinstance(raw, Mapping):
        return Augment.model_validate(raw)
    if isinstance(raw, str) and raw not in ("standard", "none"):
        raise ValueError(f"augmentation '{raw}' is not known ({did_you_mean(raw, ('standard', 'none'))})")
    return raw


class Normalize(Options):
    """What rows are normalised with: per channel on the [0, 1] scale for images, per feature for vectors."""

    mean: tuple[float, ...]
    """What is taken away."""
    std: tuple[Annotated[float, Field(gt=0)], ...]
    """What is then divided by."""


def _normalized_by(raw: Any) -> Any:
    """As above."""
    if isinstance(raw, Mapping):
        return Normalize.model_validate(raw)
    if isinstance(raw, str) and raw not in ("data", "first"):
        raise ValueError(f"normalization '{raw}' is not known ({did_you_mean(raw, ('data', 'first'))})")
    return raw


Fraction = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]


def _shares(raw: Any) -> Any:
    """Told apart here, so that only the mistake of the one that is meant is reported."""
    if isinstance(raw, list | tuple):
        if not all(type(each) in (int, float) and 0 <= each <= 1 for each in raw):
            raise ValueError("give shares from 0 to 1, one for each experience, such as [1, 0, 0.1]")
    elif type(raw) not in (int, float) or not 0 < raw <= 1:
        raise ValueError("give a share above 0 and up to 1, or a list with one for each experience")
    return raw


Labelled = Annotated[Fraction | tuple[Share, ...], BeforeValidator(_shares)]


class Imbalance(Options):
    """Fewer training rows than the data has; test rows are all there. What stays is drawn from the seed."""

    ratio: Annotated[float, Field(ge=1)] | None = None
    """Long-tailed: the largest class has so many times the rows of the smallest, and the i-th of C n·ρ^(−i/(C−1))."""
    order: Literal["natural", "random"] = "natural"
    """Which class is the i-th: by id, or drawn from the run's seed."""
    rows: Positive | tuple[Positive, ...] | None = None
    """Instead of a ratio: so many rows of each class; one number, or one for each class in the order of ids."""
    rows_per_experience: Positive | tuple[Positive, ...] | None = None
    """So many rows in each experience; one number, or one for each. At least one row of each class stays."""

    @model_validator(mode="after")
    def _used(self) -> Imbalance:
        if self.ratio is not None and self.rows is not None:
            raise ValueError("give either ratio (long-tailed) or rows (of each class)")
        if self.ratio is None and self.order != "natural":
            raise ValueError("order is which classes have most rows by ratio: give ratio")
        if self.ratio is None and self.rows is None and self.rows_per_experience is None:
            raise ValueError("give ratio, rows or rows_per_experience")
        return self


class Extension(Options):
    """Data that came later (`clkd extend`): its experiences follow those before it. Classes are the same by name."""

    dataset: DatasetPart
    """Where its images and labels come from."""
    split: StreamPart
    """How it is cut into experiences."""
    labelled: Labelled = 1.0
    """As `stream.labelled`, for these rows."""
    imbalance: Imbalance | None = None
    """As `stream.imbalance`, for these rows."""
    new_domain: bool = False
    """Whether its rows are another domain than all before."""


class StreamOptions(Options):
    """The data, and how it is cut into experiences."""

    dataset: DatasetPart
    """Where images and labels come from (`clkd list datasets`)."""
    split: StreamPart
    """How the data is cut into experiences, `by` what (`clkd list streams`)."""
    labelled: Labelled = 1.0
    """The share of each experience's training rows, class by class (at least one row each), that keep their label,
    drawn from the seed; or one share for each experience, such as `[1, 0, 0.1]`, of which 0 means no label at all. The
    others teach by distillation only."""
    imbalance: Imbalance | None = None
    """Fewer training rows of some classes, or in some experiences, whatever the split; by default all there are."""
    online: bool = False
    """A single pass: each row comes once, in the order of its arrival, where the split knows one (`fuzzy`, `given`)."""
    boundaries: bool = True
    """Whether parts are told where an experience ends. `false` needs `online: true`, and refuses parts that would do
    anything at a boundary."""
    augment: Annotated[Augment | Literal["standard", "none"], BeforeValidator(_named_or_spelt_out)] = "standard"
    """`standard` is what the data set's own entry declares (`clkd list datasets NAME`)."""
    normalize: Annotated[Normalize | Literal["data", "first"], BeforeValidator(_normalized_by)] = "data"
    """By the mean and deviation of all training rows of `dataset` (`data`), of those of its first experience (`first`:
    nothing that comes later is known yet), or by the ones given here."""
    resident: Literal["auto"] | bool = "auto"
    """Whether rows live on the training device (`true`), or stay in the store while batches are read ahead (`false`);
    `auto` streams what would take more than half of the device's memory. The numbers are the same."""
    extensions: tuple[Extension, ...] = ()
    """Data that came after `dataset`, one after another."""

    @model_validator(mode="after")
    def _unbounded(self) -> StreamOptions:
        if not (self.boundaries or self.online):
            raise ValueError(
                "boundaries: false says nothing of experiences, so no row can come twice: set online: true"
            )
        return self


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


class GradientNoise(Options):
    """Normal noise that is added to each number of a gradient: σ² = η / (1 + t)^γ, t the steps of the training so far
    (Neelakantan et al. 2015, "Adding Gradient Noise Improves Learning for Very Deep Networks", eq. 1; EEIL)."""

    eta: Annotated[float, Field(gt=0)] = 0.3
    """Its variance in the first step."""
    gamma: Annotated[float, Field(ge=0)] = 0.55
    """How fast it dies away: 0 keeps it."""


class TrainOptions(Options):
    """How each experience is trained."""

    epochs: Positive = 1
    """Passes over each experience's rows."""
    min_steps: Annotated[int, Field(ge=0)] = 0
    """Train at least this many steps in every experience, by more epochs where it is small."""
    batch_size: Positive = 64
    """New rows in a step."""
    replay_batch_size: Positive | None = None
    """Replayed rows in a draw; by default as many as new ones."""
    replay_draws: Annotated[int, Field(gt=0, le=MOST_DRAWS)] = 1
    """How often memory is drawn from in a step, independently. A loss reads all replayed rows (`student@replay`) or
    those of one draw (`student@replay1`, `student@replay2`)."""
    mix_memory: bool = False
    """Go once an epoch over the experience's rows and all that memory keeps, shuffled together, as iCaRL and those
    after it do: `batch_size` then counts both. By default each step draws replayed rows beside its new ones."""
    eval_batch_size: Positive = 512
    """Test rows that are looked at together. It changes speed and memory, no weight."""
    optimizer: OptimizerOptions
    """An optimizer of torch (`sgd`, `adam`, …) and torch's own keywords."""
    scheduler: SchedulerOptions | None = None
    """What the learning rate follows within each experience; by default it stands still."""
    gradient: GradientPart | None = None
    """What is done to each step's gradient for the sake of replayed rows (`clkd list gradients`), which are then not
    learned from like new ones; by default nothing."""
    evaluate_every: Positive | None = None
    """Evaluate on the test rows of all experiences so far also during training, whenever so many optimiser steps of the
    run were taken: each time costs what an evaluation at an experience's end does, and changes no weight."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Scale each step's gradient down to this norm where it is longer; by default never."""
    clip_value: Annotated[float, Field(gt=0)] | None = None
    """The largest that any number of a gradient may be, either way: others are cut off there."""
    gradient_noise: GradientNoise | None = None
    """Noise on the gradient, after it was cut off, if it is to be; drawn anew in each experience and phase."""
    gradient_shares: Positive | None = None
    """Every so many steps, log each term's share of the gradient norms (`train/gradient_share_<term>`), which costs a
    backward pass for each term; by default never."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What a NaN or infinite loss or gradient does. `stop` ends the run, at the latest 50 steps later, and leaves a
    checkpoint of the state before. `skip` leaves such steps out and counts them; it looks at every step before it is
    taken, for which a GPU has to wait."""
    most_skips: Annotated[int, Field(ge=0)] = 20
    """How many steps of one experience may be left out before the run ends after all."""
    keep_optimizer: bool = False
    """Carry the optimizer's state from one experience to the next instead of starting afresh."""
    drop_last: bool = False
    """Leave out an epoch's last batch when it is not full."""
    channels_last: bool = True
    """Lay images out channels-last, which is faster for convolutions."""
    compile: Annotated[bool | Literal["reduce-overhead", "max-autotune"], BeforeValidator(_known_mode)] = False
    """Compile the backbones with `torch.compile`: `true`, or one of its modes; needs a C++ compiler."""
    precision: Literal["auto", "float32", "bf16"] = "float32"
    """What backbones compute in; losses, heads and weights stay in float32. `auto` is bf16 on a GPU that has it."""


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
    epochs: Positive = 1
    """Passes over the phase's rows."""
    batch_size: Positive | None = None
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
    keep: Positive | None = None
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


class CheckpointOptions(Options):
    """When a run is saved, beside each experience's end and whenever a signal stops it, and how much of it is kept."""

    every_steps: Positive | None = None
    """Save also within an experience, whenever so many optimiser steps of the run were taken."""
    every_minutes: Annotated[float, Field(gt=0)] | None = 10.0
    """Save also within an experience, whenever so much time has passed since the last checkpoint; null for never."""
    keep: Positive | None = None
    """How many experiences' ends stay on disk, the newest ones; all by default. The one checkpoint from within the
    experience under way does not count."""


class ReportOptions(Options):
    """What is told after each experience of what was transferred in it. It changes no weight and costs some time."""

    cka: tuple[str, ...] = ("penultimate",)
    """Layers that are compared by CKA: a tap of student and teachers alike (`stage3`), or of one of them
    (`student.stage3`, `external.stage2`); none if empty."""
    estimator: Literal["debiased", "biased"] = "debiased"
    """How CKA estimates HSIC: without bias, or as Kornblith et al. (2019) do, which is near 1 for wide layers."""
    rows: Annotated[int, Field(ge=4)] = 2000
    """Test rows that CKA looks at, at most: of each class as many. All else is counted over all test rows."""


def _on_or_spelt_out(raw: Any) -> Any:
    """As `_named_or_spelt_out`; `true` is all defaults."""
    if isinstance(raw, Mapping):
        return ReportOptions.model_validate(raw)
    if not isinstance(raw, bool | ReportOptions):
        raise ValueError(f"give true, false, or options such as {{cka: [penultimate]}}; got {raw!r}")
    return ReportOptions() if raw is True else raw


class ShiftOptions(Options):
    """What is measured of domains before and after each experience. It changes no weight and costs some time."""

    layers: Annotated[tuple[str, ...], Field(min_length=1)] = ("input", "penultimate")
    """Where domains are compared: `input`, or taps of the student."""
    rows: Annotated[int, Field(ge=20)] = 200
    """Rows of each domain that are looked at, at most."""
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """How often the monitor may cry out, at most, about rows of a domain that it knows."""
    permutations: Annotated[int, Field(ge=19)] = 199
    """Of each two-sample test."""

    @model_validator(mode="after")
    def _can_alarm(self) -> ShiftOptions:
        if len(self.layers) / (self.permutations + 1) > self.false_alarms:
            raise ValueError(
                f"{self.permutations} permutations cannot reject at {self.false_alarms:g} in {len(self.layers)} "
                f"layers: give at least {math.ceil(len(self.layers) / self.false_alarms) - 1}"
            )
        return self


def _shift(raw: Any) -> Any:
    """As `_on_or_spelt_out`."""
    if isinstance(raw, Mapping):
        return ShiftOptions.model_validate(raw)
    if not isinstance(raw, bool | ShiftOptions):
        raise ValueError(f"give true, false, or options such as {{layers: [penultimate]}}; got {raw!r}")
    return ShiftOptions() if raw is True else raw


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


class Scenario(Options):
    """One execution, whole. `clkd show` prints it with every default filled in."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    """What runs, groups and MLflow's experiment are called: letters, digits, `_`, `.` and `-`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """What every random draw of the run is derived from. The same seed gives the same bits on one machine."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`."""
    output: str | None = None
    """The run's directory; by default `runs/<name>-<time>` in the current directory."""
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
    report: Annotated[ReportOptions | bool, BeforeValidator(_on_or_spelt_out)] = False
    """What was transferred in each experience: `true`, or options; by default nothing is said of it."""
    shift: Annotated[ShiftOptions | bool, BeforeValidator(_shift)] = False
    """How far domains are apart, and whether what comes in is of a known one: `true`, or options; by default nothing is
    said of it."""
    tracking: TrackingOptions = TrackingOptions()
    """Where the run is recorded beside its own directory."""

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
