"""Options of the losses of exemplar methods: iCaRL's, LUCIR's, PODNet's, X-DER's. Nothing here loads torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from clkd.losses.feature_options import PairsOptions
from clkd.options import Options


class NCAOptions(Options):
    """Options of `nca`."""

    sides: ClassVar[int] = 1

    margin: Annotated[float, Field(ge=0)] = 0.6
    """How far, in cosines, a row's own class has to be ahead of the others."""
    over: Literal["auto", "all", "seen", "new"] = "auto"
    """Which classes compete: `all` columns of the head, those `seen` so far, those `new` in this experience's data.
    `auto` is those that evaluation lets answer: `all`, where the head has columns for classes to come."""


class MarginRankingOptions(Options):
    """Options of `margin_ranking`."""

    sides: ClassVar[int] = 1

    margin: Annotated[float, Field(ge=0)] = 0.5
    """How far, in cosines, an old class has to be ahead of the new ones nearest to its rows."""
    top: Annotated[int, Field(gt=0)] = 2
    """How many new classes each row is kept apart from."""


class LogitMarginOptions(Options):
    """Options of `logit_margin`."""

    sides: ClassVar[int] = 1

    margin: Annotated[float, Field(ge=0)] = 0.3
    """How far a row's likeliest class, of those that came with its own, has to be ahead of the past and the future."""


class SupConOptions(Options):
    """Options of `supcon`."""

    sides: ClassVar[int] = 1

    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Divides the cosines: the lower, the more the nearest rows count."""
    over: Literal["features", "future", "seen", "all"] = "features"
    """What is compared: the layer that `between` names, else the penultimate one; or logits, of classes to come (the
    `future` columns of a `fixed` head, in blocks of an experience each), of those `seen` so far, or of `all`."""
    views: Annotated[int, Field(gt=0)] = 2
    """In how many views each row is compared: the student's, and further ones, each drawn anew and a forward pass more.
    Where rows are not augmented they are all the same, and cost nothing."""


class BinaryCrossEntropyOptions(Options):
    """Options of `binary_cross_entropy`."""

    sides: ClassVar[int] = 1

    over: Literal["auto", "all", "seen", "new"] = "auto"
    """Which classes are asked about: `all` columns of the head, those `seen` so far, those `new` in this experience's
    data (iCaRL). `auto` is those that evaluation lets answer: `all`, where the head has columns for classes to come."""


class BinaryKDOptions(Options):
    """Options of `binary_kd`."""

    sides: ClassVar[int] = 2

    rows: Literal["all", "valid"] = "all"
    """Every row, or only those whose class the teacher knows."""
    teacher_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the teacher's logits, and not the student's: above 1, it is taken to be less sure (van de Ven: 2)."""


class PODOptions(PairsOptions):
    """Options of `pod`: its layers."""


class LessForgetOptions(PairsOptions):
    """Options of `less_forget`: its layers."""


EXEMPLAR_LOSSES: tuple[tuple[str, str, type[Options], str], ...] = (
    (
        "binary_cross_entropy",
        "clkd.losses.binary:BinaryCrossEntropy",
        BinaryCrossEntropyOptions,
        "a yes or no for each class, with the labels (iCaRL)",
    ),
    (
        "binary_kd",
        "clkd.losses.binary:BinaryKD",
        BinaryKDOptions,
        "a yes or no for each class, as the teacher says (iCaRL)",
    ),
    ("nca", "clkd.losses.margins:NCA", NCAOptions, "a row's own class ahead of all others by a margin (PODNet)"),
    (
        "margin_ranking",
        "clkd.losses.margins:MarginRanking",
        MarginRankingOptions,
        "rows of old classes kept apart from the nearest new classes (LUCIR)",
    ),
    (
        "logit_margin",
        "clkd.losses.margins:LogitMargin",
        LogitMarginOptions,
        "a new row's own experience ahead of the past, and each row's ahead of the future (X-DER)",
    ),
    (
        "supcon",
        "clkd.losses.supcon:SupCon",
        SupConOptions,
        "rows of a class near each other and far from others: supervised contrastive learning (Khosla et al. 2020)",
    ),
    (
        "less_forget",
        "clkd.losses.less_forget:LessForget",
        LessForgetOptions,
        "the angle between features: LUCIR's less-forget constraint, PODNet's flat term",
    ),
    ("pod", "clkd.losses.pod:POD", PODOptions, "sums over rows and columns of maps: pooled outputs (PODNet)"),
)
