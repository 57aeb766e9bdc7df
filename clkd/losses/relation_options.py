"""Options of the losses that compare how rows relate to each other. Nothing here loads torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from clkd.options import Options

NotNegative = Annotated[float, Field(ge=0)]


class RelatedOptions(Options):
    """What every loss about pairs of rows may be told."""

    sides: ClassVar[int] = 2

    mix: bool = False
    """Whether new and replayed rows are related to each other, too."""


class RelationOptions(RelatedOptions):
    """Options of `rkd` (also called `relation`)."""

    variant: Literal["distance", "angle", "both"] = "distance"
    """Compare pairwise distances, angles of triples, or the first plus twice the second."""


class SPOptions(RelatedOptions):
    """Options of `sp`."""


class PKTOptions(RelatedOptions):
    """Options of `pkt`."""

    variant: Literal["paper", "repdistiller"] = "paper"
    """Each row's divergence over the other rows; or, as RepDistiller, with itself and as the mean over all pairs."""


class CCOptions(RelatedOptions):
    """Options of `cc`."""

    kernel: Literal["taylor", "gaussian", "bilinear"] = "taylor"
    """The Gaussian kernel's Taylor series, that kernel itself, or cosines."""
    gamma: Annotated[float, Field(gt=0)] = 0.4
    """How narrow the Gaussian is."""
    order: Annotated[int, Field(ge=1)] = 2
    """Where its Taylor series ends."""

    @model_validator(mode="after")
    def _used(self) -> CCOptions:
        """Options that would change nothing are mistakes."""
        if self.kernel == "bilinear" and self.gamma != 0.4:
            raise ValueError("kernel 'bilinear' has no gamma: leave it out")
        if self.kernel != "taylor" and self.order != 2:
            raise ValueError(f"kernel '{self.kernel}' is no series: leave out order")
        return self


class IRGOptions(RelatedOptions):
    """Options of `irg`."""

    vertex: NotNegative = 0.1
    """How much the logits count, over the classes that both models know."""
    edge: NotNegative = 5.0
    """How much distances between rows count, averaged over the layers."""
    transformation: NotNegative = 5.0
    """How much the change of these distances from one layer to the next counts."""
    layers: tuple[str, ...] = ("penultimate",)
    """The layers whose distances are compared; with one there is no transformation."""
    against: tuple[str, ...] | None = None
    """Their counterparts in the other model; by default the layers of the same names."""

    @model_validator(mode="after")
    def _fitting(self) -> IRGOptions:
        if not self.layers:
            raise ValueError("name at least one layer")
        if self.against is not None and len(self.against) != len(self.layers):
            raise ValueError(f"'against' has {len(self.against)} entries and 'layers' {len(self.layers)}: give as many")
        filled_in = type(self).model_fields["transformation"].default  # as a resolved scenario has it
        if len(self.layers) == 1 and self.transformation not in (0, filled_in):
            raise ValueError("transformation: from one layer to the next: name at least two layers")
        return self


HOME = "clkd.losses"
RKD = "distances and angles between the rows of a batch (Relational KD, Park et al. 2019)"
RELATION_LOSSES: tuple[tuple[str, str, type[Options], str], ...] = (
    ("relation", f"{HOME}.relation:Relation", RelationOptions, RKD),
    ("rkd", f"{HOME}.relation:Relation", RelationOptions, f"{RKD}; the same as 'relation'"),
    ("sp", f"{HOME}.similarity:SP", SPOptions, "which rows are alike: similarity-preserving (Tung & Mori 2019)"),
    ("pkt", f"{HOME}.pkt:PKT", PKTOptions, "probabilistic knowledge transfer (Passalis & Tefas 2018)"),
    ("cc", f"{HOME}.cc:CC", CCOptions, "correlation congruence of rows (Peng et al. 2019)"),
    ("irg", f"{HOME}.irg:IRG", IRGOptions, "instance relationship graph over layers (Liu et al. 2019)"),
)
