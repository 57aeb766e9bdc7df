"""Options of the losses that compare layers, and what they register. Nothing here loads torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from clkd.options import Options

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Names = tuple[str, ...]
Align = Literal["auto", "none", "linear", "conv1x1", "conv3x3", "mlp", "hint"]


class TwoSided(Options):
    """A loss between two models."""

    sides: ClassVar[int] = 2


class PairsOptions(TwoSided):
    """Which layers are compared, if `between` does not name one on each side."""

    layers: Annotated[Names, Field(min_length=1)] | None = None
    """Layers of the student, `[stage1, stage2]`, each compared with its counterpart; the values are added."""
    against: Annotated[Names, Field(min_length=1)] | None = None
    """Their counterparts in the other model; by default the layers of the same names."""
    layer_weights: tuple[NotNegative, ...] | None = None
    """How much each of `layers` counts; by default 1 each."""

    @model_validator(mode="after")
    def _as_many(self) -> PairsOptions:
        for name in ("against", "layer_weights"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.layers or ()):
                raise ValueError(
                    f"'{name}' has {len(given)} entries and 'layers' {len(self.layers or ())}: give as many"
                )
        return self


class FeaturesOptions(PairsOptions):
    """Options of `features`."""

    align: Align = "auto"
    """The projector from the student's width to the teacher's; `auto` makes a linear one only where the widths differ;
    `conv3x3`, `mlp` (one hidden layer) and `hint` (`conv3x3` for maps, `linear` for vectors) are always made."""
    pool: Literal["auto", "none", "spatial", "interpolate"] = "auto"
    """`auto` averages the larger map down to the smaller one; `spatial` averages both over all positions;
    `interpolate` brings the student's map to the teacher's size, bilinearly."""
    normalize: Literal["none", "l2", "zscore", "channel"] = "none"
    """Bring each row's features to unit length, or to mean 0 and standard deviation 1, before they are compared; or
    `channel`: each channel to mean 0 and standard deviation 1 over rows and positions."""


class FitNetOptions(FeaturesOptions):
    """Options of `fitnet`: those of `features`, with a regressor that is always there."""

    align: Align = "hint"
    """The regressor: `hint` is a 3 × 3 convolution for maps and a linear layer for vectors."""


class AttentionOptions(PairsOptions):
    """Options of `attention`."""

    p: Annotated[float, Field(ge=1)] = 2.0
    """The power that activations are raised to before channels are averaged."""
    variant: Literal["mean", "norm"] = "mean"
    """The mean of squared differences over positions (the authors' code), or their norm (the paper's equation)."""


class NSTOptions(PairsOptions):
    """Options of `nst`."""

    kernel: Literal["poly", "linear", "gaussian"] = "poly"
    """`(aᵀb)²`, `aᵀb`, or a Gaussian as wide as the teacher's channels are apart."""


class VIDOptions(PairsOptions):
    """Options of `vid`."""

    align: Align = "auto"
    """The regressor from the student's width to the teacher's, as in `features`."""
    variance: Positive = 5.0
    """What each channel's variance starts from."""


class OFDOptions(PairsOptions):
    """Options of `ofd`. Its layers should be those before a ReLU: `stage3_pre`."""

    align: Align = "auto"
    """The projector from the student's width to the teacher's, as in `features`."""
    layer_weights: tuple[NotNegative, ...] | None = None
    """How much each of `layers` counts; by default 1 for the last, and half as much for each one before it."""


class ReviewOptions(PairsOptions):
    """Options of `review`."""

    layers: Annotated[Names, Field(min_length=2)] = ("stage1", "stage2", "stage3")
    """Layers of the student from shallow to deep; each is fused with all deeper ones."""
    width: Annotated[int, Field(gt=0)] | None = None
    """Channels in which layers are fused; by default those of the deepest layer, at most 512."""


class MGDOptions(PairsOptions):
    """Options of `mgd`."""

    mask: Literal["channels", "positions"] = "channels"
    """What is masked: whole channels (the authors' code for classification), or positions (for dense prediction)."""
    ratio: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """How likely each of them is masked."""
    align: Align = "auto"
    """The projector before the generator, as in `features`."""


class FSPOptions(TwoSided):
    """Options of `fsp`."""

    layers: Annotated[Names, Field(min_length=2)] = ("stage1", "stage2")
    """Layers of the student; the flow from each to the next one is compared."""
    against: Annotated[Names, Field(min_length=2)] | None = None
    """Their counterparts in the other model; by default the layers of the same names."""
    align: Align = "auto"
    """The projector of each layer where widths differ, as in `features`."""

    @model_validator(mode="after")
    def _as_many(self) -> FSPOptions:
        if self.against is not None and len(self.against) != len(self.layers):
            raise ValueError(f"'against' has {len(self.against)} entries and 'layers' {len(self.layers)}: give as many")
        return self


class CRDOptions(TwoSided):
    """Options of `crd`."""

    dim: Annotated[int, Field(gt=0)] = 128
    """Width of the embeddings in which rows are compared."""
    queue: Annotated[int, Field(ge=0)] = 4096
    """How many of the teacher's latest embeddings are kept as negatives, beside those of the batch."""
    temperature: Positive = 0.07
    """Divides the cosines."""
    negatives: Literal["other_classes", "all"] = "other_classes"
    """Whether rows of the same class are left out of the negatives."""


class SRRLOptions(TwoSided):
    """Options of `srrl`."""

    feature_weight: NotNegative = 1.0
    """How much the distance of the features counts."""
    logit_weight: NotNegative = 1.0
    """How much the distance of the logits that the teacher's classifier makes of them counts."""
    align: Literal["auto", "linear", "mlp"] = "auto"
    """The projector from the student's width to the teacher's, as in `features`."""


class SimKDOptions(TwoSided):
    """Options of `simkd`."""

    align: Literal["auto", "linear"] = "auto"
    """The projector from the student's width to the teacher's, as in `features`; it ends in the student's head."""


HOME = "clkd.losses"
FEATURE_LOSSES: tuple[tuple[str, str, type[Options], str], ...] = (
    (
        "features",
        f"{HOME}.feature:Features",
        FeaturesOptions,
        "mean squared error between layers, with a projector where widths differ (FitNets)",
    ),
    ("fitnet", f"{HOME}.feature:FitNet", FitNetOptions, "hints through a regressor (Romero et al. 2015)"),
    (
        "attention",
        f"{HOME}.attention:Attention",
        AttentionOptions,
        "where a layer looks: attention transfer (Zagoruyko & Komodakis 2017)",
    ),
    ("nst", f"{HOME}.nst:NST", NSTOptions, "what channels respond to: neuron selectivity (Huang & Wang 2017)"),
    (
        "vid",
        f"{HOME}.vid:VID",
        VIDOptions,
        "variational information distillation, variances are learned (Ahn et al. 2019)",
    ),
    (
        "ofd",
        f"{HOME}.ofd:OFD",
        OFDOptions,
        "overhaul of feature distillation: margin ReLU, partial distance (Heo et al. 2019)",
    ),
    ("review", f"{HOME}.review:Review", ReviewOptions, "knowledge review: fused layers (Chen et al. 2021)"),
    ("mgd", f"{HOME}.mgd:MGD", MGDOptions, "masked generative distillation (Yang et al. 2022)"),
    ("fsp", f"{HOME}.fsp:FSP", FSPOptions, "the flow from one layer to another (Yim et al. 2017)"),
    (
        "crd",
        f"{HOME}.crd:CRD",
        CRDOptions,
        "contrastive representation distillation against a queue (Tian et al. 2020)",
    ),
    (
        "srrl",
        f"{HOME}.srrl:SRRL",
        SRRLOptions,
        "features judged by the teacher's classifier (Yang et al. 2021)",
    ),
    ("simkd", f"{HOME}.simkd:SimKD", SimKDOptions, "the teacher's classifier reused (Chen et al. 2022)"),
)
