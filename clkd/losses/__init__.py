"""Losses: what a student is trained to do, and what it is to learn from another model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from clkd.hooks import hookimpl
from clkd.losses.exemplar_options import EXEMPLAR_LOSSES
from clkd.losses.feature_options import FEATURE_LOSSES
from clkd.losses.regulariser_options import REGULARISERS
from clkd.losses.relation_options import RELATION_LOSSES
from clkd.options import Options, Part, Scheduled

if TYPE_CHECKING:
    from clkd.registry import Register


def _positive(value: Part | float) -> Part | float:
    low = _lowest(value) if isinstance(value, Part) else value
    if low is not None and low <= 0:
        raise ValueError("a temperature is greater than 0")
    return value


def _lowest(schedule: Part) -> float | None:
    """The least that a schedule of clkd's says, where its options tell. `warmup` rises from 0; those that are 0 while
    nothing is old, or new, are for a teacher that has nothing to say then."""
    if schedule.name == "warmup":
        return 0.0
    said = {name: ["value"] for name in ("constant", "forgetting", "imbalance", "old_fraction", "new_fraction")}
    said["per_experience"] = ["values"]
    said |= {"linear": ["start", "end"], "cosine": ["start", "end"]}
    said |= {"confidence": ["low", "high"], "entropy": ["low", "high"]}
    values = [getattr(schedule.options, name) for name in said.get(schedule.name, [])]
    return min((number for each in values for number in (each if isinstance(each, tuple) else (each,))), default=None)


def _not_negative(value: Part | float) -> Part | float:
    if not isinstance(value, Part) and value < 0:
        raise ValueError("give 0 or more")
    return value


NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]


class CrossEntropyOptions(Options):
    """Options of `cross_entropy`."""

    sides: ClassVar[int] = 1

    over: Literal["auto", "all", "seen", "new", "old", "own", "batch"] = "auto"
    """Which classes compete: `all` columns of the head, those `seen` so far, those `new` in this experience's data, the
    `old` ones that came before and are not in it, the row's `own` task's, those of the `batch` (ER-ACE: labels of the
    rows that this term is about; with several processes, of each one's share); `auto` are those among which the
    student's answer is looked for: `own` for a task-aware head, `all` for a `fixed` one, `seen` otherwise."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """How much of the target is spread evenly over the classes that compete."""

    @model_validator(mode="after")
    def _used(self) -> CrossEntropyOptions:
        """A share of the target for a class that is out of the race would cost infinitely much."""
        if self.over == "batch" and self.label_smoothing:
            raise ValueError("over 'batch' leaves classes out that smoothing would aim at: leave out label_smoothing")
        return self


Temperature = Annotated[Scheduled, AfterValidator(_positive)]
"""Divides both sides' logits before the softmax."""
Convention = Literal["t2", "plain"]
"""`t2` multiplies by the squared temperature, so that gradients keep their size; `plain` does not."""
RowChoice = Literal["all", "valid", "unlabelled"]
"""Every row, or only those whose class the teacher knows, or only those without a label."""
Confidence = Annotated[float, Field(ge=0, lt=1)]
FewClasses = Literal["refuse", "kd"]
"""What to do in an experience in which both sides share fewer than three classes: stop before it, or be plain `kd`."""

KD_PRESETS: dict[str, dict[str, Any]] = {
    "hinton": {"temperature": 20.0, "variant": "ce", "convention": "t2", "scope": "joint"},
    "repdistiller": {"temperature": 4.0, "variant": "kl", "convention": "t2", "scope": "joint"},
    "torchdistill": {"temperature": 1.0, "variant": "kl", "convention": "t2", "scope": "joint"},
    "avalanche": {"temperature": 2.0, "variant": "kl", "convention": "plain", "scope": "auto"},
    "mammoth": {"temperature": 2.0, "variant": "ce", "convention": "plain", "scope": "joint"},
    "van_de_ven": {"temperature": 2.0, "variant": "ce", "convention": "plain", "scope": "auto", "over": "all"},
    "pycil": {"temperature": 2.0, "variant": "ce", "convention": "plain", "scope": "joint"},
    "facil": {"temperature": 2.0, "variant": "ce", "convention": "plain", "scope": "joint"},
}
"""What `kd` is in the paper, in two distillation libraries, and in five tools' Learning without Forgetting."""


class KDOptions(Options):
    """Options of `kd`."""

    sides: ClassVar[int] = 2

    preset: (
        Literal["hinton", "repdistiller", "torchdistill", "avalanche", "mammoth", "van_de_ven", "pycil", "facil"] | None
    ) = None
    """Fill in what is not given here as that tool has it: temperature, variant, convention, scope and over."""
    temperature: Temperature = 2.0
    """Divides both sides' logits before the softmax."""
    variant: Literal["kl", "ce", "mse", "l2"] = "kl"
    """Kullback-Leibler divergence, cross-entropy (same gradient), mean squared error of the logits themselves, or `l2`:
    the distance of the two sides' probabilities (FDR)."""
    convention: Convention = "t2"
    """`t2` multiplies by the squared temperature, so that gradients keep their size; `plain` does not."""
    scope: Literal["auto", "joint", "per_task"] = "auto"
    """One softmax over all common classes, or one per task, summed; `auto` is `per_task` for a task-aware head."""
    over: Literal["seen", "all", "newest"] = "seen"
    """Compare the classes `seen` so far, `all` columns of a head that has them from the start, or the `newest`: those
    that came last."""
    rows: RowChoice = "all"
    """Every row, only those whose class the teacher knows, or only those without a label."""
    top_k: Annotated[int, Field(gt=0)] | None = None
    """Compare the k classes of which the teacher is surest, row by row, and all others as one (`mse`: not at all)."""
    standardize: bool = False
    """Bring each row's logits to mean 0 and standard deviation 1 first (Sun et al. 2024)."""
    few_classes: FewClasses = "refuse"
    """Where both sides share two classes only and `standardize` would say nothing: stop, or be plain `kd`."""
    min_confidence: Confidence = 0.0
    """Rows whose likeliest class (of those matched) the teacher gives less probability than this count 0."""

    @model_validator(mode="before")
    @classmethod
    def _as_the_preset(cls, given: Any) -> Any:
        """What the preset means becomes part of the options, so that `clkd show` shows it."""
        chosen = given.get("preset") if isinstance(given, dict) else None
        return {**KD_PRESETS.get(chosen, {}), **given} if isinstance(chosen, str) else given

    @model_validator(mode="after")
    def _used(self) -> KDOptions:
        """Options that would change nothing are mistakes."""
        if self.variant == "mse" and (self.temperature != 2.0 or self.convention != "t2"):
            raise ValueError("variant 'mse' compares the logits themselves: leave out temperature and convention")
        if self.few_classes != "refuse" and not self.standardize:
            raise ValueError("few_classes is about standardize: plain kd works with two classes, so leave it out")
        return self


class DKDOptions(Options):
    """Options of `dkd`."""

    sides: ClassVar[int] = 2

    temperature: Temperature = 4.0
    """Divides both sides' logits before the softmax."""
    alpha: NotNegative = 1.0
    """Weight of the label's class against all others together."""
    beta: NotNegative = 8.0
    """Weight of the other classes among themselves; what is best depends on the pair of models."""
    standardize: bool = False
    """Bring each row's logits to mean 0 and standard deviation 1 first (Sun et al. 2024)."""
    convention: Convention = "t2"
    """`t2` multiplies by the squared temperature, so that gradients keep their size; `plain` does not."""
    few_classes: FewClasses = "refuse"
    """Where both sides share two classes only, so that no others are left to compare: stop, or be plain `kd`."""
    min_confidence: Confidence = 0.0
    """Rows whose likeliest class (of those matched) the teacher gives less probability than this count 0."""


class NKDOptions(Options):
    """Options of `nkd`."""

    sides: ClassVar[int] = 2

    temperature: Temperature = 1.0
    """Divides both sides' logits of the classes other than the label's."""
    gamma: NotNegative = 1.5
    """Weight of the other classes."""
    few_classes: FewClasses = "refuse"
    """Where both sides share two classes only, so that no others are left to compare: stop, or be plain `kd`."""
    min_confidence: Confidence = 0.0
    """Rows whose likeliest class (of those matched) the teacher gives less probability than this count 0."""


class DISTOptions(Options):
    """Options of `dist`."""

    sides: ClassVar[int] = 2

    temperature: Temperature = 1.0
    """Divides both sides' logits before the softmax."""
    beta: NotNegative = 1.0
    """Weight of the correlation over the classes, row by row."""
    gamma: NotNegative = 1.0
    """Weight of the correlation over the rows, class by class."""
    rows: RowChoice = "all"
    """Every row, only those whose class the teacher knows, or only those without a label."""
    convention: Convention = "t2"
    """`t2` multiplies by the squared temperature, as the authors' code does; `plain` does not, as their paper."""
    few_classes: FewClasses = "refuse"
    """Where both sides share two classes only, so that every correlation is 1 or -1: stop, or be plain `kd`."""
    min_confidence: Confidence = 0.0
    """Rows whose likeliest class (of those matched) the teacher gives less probability than this count 0."""


class MLKDOptions(Options):
    """Options of `mlkd`."""

    sides: ClassVar[int] = 2

    temperatures: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (2.0, 3.0, 4.0, 5.0, 6.0)
    """The comparison is made at each of these temperatures, and summed."""
    instance: NotNegative = 1.0
    """Weight of each row's own answer."""
    batch: NotNegative = 1.0
    """Weight of the relations between rows."""
    classes: NotNegative = 1.0
    """Weight of the relations between classes."""
    standardize: bool = False
    """Bring each row's logits to mean 0 and standard deviation 1 first (Sun et al. 2024)."""
    rows: RowChoice = "all"
    """Every row, only those whose class the teacher knows, or only those without a label."""
    few_classes: FewClasses = "refuse"
    """Where both sides share two classes only and `standardize` would say nothing: stop, or be plain `kd` at the first
    temperature."""
    min_confidence: Confidence = 0.0
    """Rows whose likeliest class (of those matched) the teacher gives less probability than this count 0."""

    @model_validator(mode="after")
    def _used(self) -> MLKDOptions:
        if self.few_classes != "refuse" and not self.standardize:
            raise ValueError("few_classes is about standardize: mlkd works with two classes, so leave it out")
        return self


class HardOptions(Options):
    """Options of `hard`."""

    sides: ClassVar[int] = 2

    threshold: Confidence = 0.0
    """Rows of which the teacher is less sure than this count 0: what other losses call `min_confidence`."""
    rows: RowChoice = "all"
    """Every row, only those whose class the teacher knows, or only those without a label."""


class TeacherFreeOptions(Options):
    """Options of `tfkd`."""

    sides: ClassVar[int] = 1

    correct: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """The probability that the virtual teacher gives the label's class."""
    temperature: Temperature = 20.0
    """Of both the virtual teacher and the student."""
    over: Literal["auto", "all", "seen", "new", "own"] = "auto"
    """Which classes compete, as in `cross_entropy`."""
    convention: Convention = "t2"
    """`t2` multiplies by the squared temperature, so that gradients keep their size; `plain` does not."""


class AdversarialOptions(Options):
    """Options of `adversarial`."""

    sides: ClassVar[int] = 2

    on: Literal["auto", "logits", "features"] = "auto"
    """What the discriminator reads: the logits of the classes that both know, or the layers that `between` names;
    `auto` is the layers where it names some."""
    hidden: Annotated[tuple[Positive, ...], Field(min_length=1)] = (64,)
    """Widths of the discriminator's hidden layers."""
    reversal: Annotated[Scheduled, AfterValidator(_not_negative)] = 1.0
    """λ: how strongly the student works against the discriminator. The term's `weight` scales both of them."""


@hookimpl
def clkd_register_losses(register: Register) -> None:
    """The losses that clkd ships."""
    register(
        "cross_entropy",
        "clkd.losses.classification:CrossEntropy",
        config=CrossEntropyOptions,
        summary="cross-entropy with the labels, over all, seen, new or the own task's classes",
    )
    register(
        "kd",
        "clkd.losses.response:KD",
        config=KDOptions,
        summary="knowledge distillation of the logits (Hinton et al. 2015), class ids aligned",
    )
    register(
        "dkd",
        "clkd.losses.decoupled:DKD",
        config=DKDOptions,
        summary="decoupled distillation: the label's class and the others apart (Zhao et al. 2022)",
    )
    register(
        "nkd",
        "clkd.losses.decoupled:NKD",
        config=NKDOptions,
        summary="normalised distillation: the label's class weighted by the teacher (Yang et al. 2023)",
    )
    register(
        "dist",
        "clkd.losses.correlation:DIST",
        config=DISTOptions,
        summary="correlation of probabilities, over classes and over rows (Huang et al. 2022)",
    )
    register(
        "mlkd",
        "clkd.losses.multilevel:MLKD",
        config=MLKDOptions,
        summary="rows, their relations and the classes' relations at several temperatures (Jin et al. 2023)",
    )
    register(
        "hard",
        "clkd.losses.pseudo_label:HardLabel",
        config=HardOptions,
        summary="cross-entropy with the class that the teacher finds most likely (DeiT, pseudo-labels)",
    )
    register(
        "tfkd",
        "clkd.losses.virtual:VirtualTeacher",
        config=TeacherFreeOptions,
        summary="teacher-free distillation from a virtual teacher (Yuan et al. 2020)",
    )
    register(
        "adversarial",
        "clkd.losses.adversarial:Adversarial",
        config=AdversarialOptions,
        summary="a discriminator tells teacher from student, and the student learns to fool it",
    )
    for name, factory, config, summary in (*FEATURE_LOSSES, *RELATION_LOSSES, *EXEMPLAR_LOSSES, *REGULARISERS):
        register(name, factory, config=config, summary=summary)
