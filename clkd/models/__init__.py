"""The student: backbones, heads that grow, and taps on what happens in between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from clkd.hooks import hookimpl
from clkd.options import Options

if TYPE_CHECKING:
    from clkd.registry import Register
    from clkd.scenario.model import Scenario

Positive = Annotated[int, Field(gt=0)]


class MLPOptions(Options):
    """Fully connected layers."""

    hidden: tuple[Positive, ...] = (400, 400)
    """Units of each hidden layer."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance that a hidden unit is dropped in training."""
    init: Literal["torch", "xavier"] = "torch"
    """How weights start: as `nn.Linear` draws them, or Xavier-uniform with biases of 0 (Glorot & Bengio 2010)."""


class LeNetOptions(Options):
    """LeNet-5."""

    width: Positive = 1
    """How many times as many channels and units as the paper's network has."""
    batch_norm: bool = False
    """Normalise before each ReLU."""


class CifarResNetOptions(Options):
    """A ResNet of He et al. §4.2."""

    width: Positive = 16
    """Channels of the first stage; the second and third have twice and four times as many."""


class ResNet18Options(Options):
    """ResNet-18 for small images."""

    width: Positive = 64
    """Channels of the first stage; each further stage has twice as many."""


class TorchvisionOptions(Options):
    """A classifier of torchvision, without its last layer."""

    begins_with: ClassVar[tuple[str, ...]] = ("weights",)
    model: str
    """Its name in torchvision, for example `mobilenet_v3_small`."""
    weights: str | None = None
    """A local file of weights, `.pt`, `.pth` or `.safetensors`; a relative path starts at the scenario file."""


class LinearOptions(Options):
    """A linear layer."""

    align: bool = False
    """Scale the new classes' weights to the norm of the old ones' at each experience's end (WA)."""
    positive: bool = False
    """Set weights below 0 to 0 after each step (WA)."""


class FixedOptions(Options):
    """A head that never grows."""

    classes: Positive | None = None
    """How many columns; by default one for each class of the data set."""
    init: Literal["torch", "xavier"] = "torch"
    """As in `mlp`."""


class CosineOptions(Options):
    """A head that compares directions."""

    scale: Annotated[float, Field(gt=0)] = 1.0
    """The learned scale's first value."""


class SplitCosineOptions(Options):
    """A head that compares directions, of which a class may have several."""

    proxies: Positive = 1
    """Directions of each class; the nearest counts most (PODNet has 10)."""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """The learned scale's first value."""
    fixed_old: bool = False
    """Leave old classes where they were when later ones came (LUCIR)."""
    imprint: bool = False
    """Start the classes of later experiences at the mean direction of their rows' features (LUCIR's code)."""

    @model_validator(mode="after")
    def _one(self) -> SplitCosineOptions:
        """Directions that start the same would stay the same."""
        if self.imprint and self.proxies > 1:
            raise ValueError("imprint gives a class one direction, and its proxies would never part: set proxies: 1")
        return self

    def problems(self, scenario: Scenario) -> Iterator[str]:
        """Where an untrained student begins anew, there is nothing to leave where it was."""
        if self.fixed_old and scenario.resets:
            yield "fixed_old: a reset would leave old classes where chance puts them: leave one of the two out"


class NCMOptions(Options):
    """A head that answers by the nearest class mean."""

    rows: Literal["all", "memory"] = "all"
    """What means are made of: all training rows of the experience's classes and, for the others, what memory keeps; or
    only what memory keeps, as in iCaRL."""
    normalize: bool = True
    """Whether features and means are scaled to length 1, as in iCaRL; or taken as they are, as Mammoth does."""

    def problems(self, scenario: Scenario) -> Iterator[str]:
        """Without a mean it would answer as a linear head."""
        if self.rows == "memory" and scenario.memory.name == "none":
            yield "rows: memory: there is none to make means of: declare a memory, or set rows: all"


class SLDAOptions(Options):
    """Streaming linear discriminant analysis."""

    shrinkage: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """How far the covariance is drawn towards the unit matrix."""
    pretrained: bool = False
    """Whether the backbone stands still from the start, not only after the first experience."""

    def problems(self, scenario: Scenario) -> Iterator[str]:
        """It sees each row once."""
        if scenario.resets:
            yield "a reset would take away all that it gathered of earlier experiences: leave one of the two out"


@hookimpl
def clkd_register_models(register: Register) -> None:
    """The built-in backbones."""
    home = "clkd.models.backbones"
    register("mlp", f"{home}.mlp:MLP", config=MLPOptions, summary="fully connected layers with ReLU")
    register(
        "lenet",
        f"{home}.lenet:LeNet",
        config=LeNetOptions,
        summary="LeNet-5 with ReLU and max-pooling, for 28 or 32 pixels",
    )
    for depth in (8, 20, 32, 56):
        register(
            f"resnet{depth}",
            f"{home}.resnet:resnet{depth}",
            config=CifarResNetOptions,
            summary=f"CIFAR ResNet-{depth} (He et al. 2016, §4.2)",
        )
    register("resnet18", f"{home}.resnet:resnet18", config=ResNet18Options, summary="ResNet-18 with a CIFAR stem")
    register(
        "torchvision",
        f"{home}.vision:vision",
        config=TorchvisionOptions,
        summary="any classifier of torchvision by name",
    )


@hookimpl
def clkd_register_heads(register: Register) -> None:
    """The built-in heads."""
    home = "clkd.models.heads"
    register("linear", f"{home}:Linear", config=LinearOptions, summary="one linear layer that grows with the classes")
    register("fixed", f"{home}:Fixed", config=FixedOptions, summary="one linear layer with all classes from the start")
    register("multi", f"{home}:Multi", config=Options, summary="one head per experience: rows are told their task")
    register("cosine", f"{home}:Cosine", config=CosineOptions, summary="scaled cosine similarity that grows (LUCIR)")
    register(
        "split_cosine",
        "clkd.models.proxies:SplitCosine",
        config=SplitCosineOptions,
        summary="cosines with several directions a class, or fixed old classes (PODNet, LUCIR)",
    )
    register(
        "bias_corrected",
        "clkd.models.corrected:BiasCorrected",
        config=Options,
        summary="a linear layer whose newest logits are corrected in a phase of their own (BiC)",
    )
    register(
        "ncm",
        "clkd.models.prototypes:NearestMean",
        config=NCMOptions,
        summary="the nearest class mean; trained through a linear layer (iCaRL)",
    )
    register(
        "slda",
        "clkd.models.slda:StreamingLDA",
        config=SLDAOptions,
        summary="streaming linear discriminant analysis on a frozen backbone (Hayes & Kanan 2020)",
    )
