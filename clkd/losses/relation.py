"""Learning how another model relates the rows of a batch to each other."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.losses.base import Loss, full_precision
from clkd.signals import Batch, Needs, Signals, Spec

TAP = "penultimate"
SAME = 1e-12
"""Rows whose squared distance is no more than this have no direction from one to the other."""


class Relation(Loss):
    """Relational knowledge distillation: Huber loss between the two models' distances, or angles, of rows.

    Park et al. 2019, "Relational Knowledge Distillation", eq. 4-5 (distance: Euclidean, divided by the batch's mean
    distance) and eq. 6-7 (angle: cosine at row j of rows i and k), as means over ordered pairs and triples of different
    rows; `both` is distance + 2 · angle, the paper's ratio. Distances need B² · D numbers, angles B³ as well.

    Works on the layer that `between` names, on the penultimate one if it names none; maps are averaged over positions.
    New and replayed rows are related among themselves only, unless `mix` is set: the shift between the two would
    otherwise be what is distilled. A block with fewer than two rows (three for angles) has no relations and adds 0.
    """

    needs: ClassVar[Needs] = Needs(logits=False, features=(TAP,))

    def __init__(self, variant: Literal["distance", "angle", "both"] = "distance", mix: bool = False) -> None:
        super().__init__()
        self.variant, self.mix = variant, mix
        self.taps = TAP, TAP

    def bind(self, a: Spec, b: Spec | None) -> None:
        assert b is not None, "relation has two sides"
        self.taps = a.feature or TAP, b.feature or TAP

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        """A scalar: a relation belongs to no single row."""
        assert b is not None, "relation has two sides"
        f = _vectors(a.features[self.taps[0]])
        g = _vectors(b.features[self.taps[1]]).detach()
        sizes = [len(f)] if self.mix else [batch.new, len(f) - batch.new]
        blocks = list(zip(torch.split(f, sizes), torch.split(g, sizes), strict=True))
        value = f.new_zeros(())
        if self.variant in ("distance", "both"):
            value = value + sum(distance_sum(*block) for block in blocks) / max(sum(n * (n - 1) for n in sizes), 1)
        if self.variant in ("angle", "both"):
            triples = max(sum(n * (n - 1) * (n - 2) for n in sizes), 1)
            value = value + (2 if self.variant == "both" else 1) * sum(angle_sum(*block) for block in blocks) / triples
        return value


def distance_sum(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between normalised distances, summed over ordered pairs of rows. `[B, D]`, `[B, E]` to a scalar.

    >>> distance_sum(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [1.0], [2.0]]))
    tensor(0.1250)
    """
    return F.smooth_l1_loss(_distances(student), _distances(teacher), reduction="sum")


def angle_sum(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between cosines at j, summed over ordered triples i, j, k of different rows. A scalar.

    >>> right, straight = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0], [1.0], [2.0]])
    >>> angle_sum(right, straight)
    tensor(3.5000)
    """
    # Where i, j and k are not all different, both sides' cosines are 0 or 1 alike and add nothing.
    return F.smooth_l1_loss(_cosines(student), _cosines(teacher), reduction="sum")


def _vectors(features: Tensor) -> Tensor:
    features = full_precision(features)
    return features if features.dim() == 2 else features.flatten(2).mean(2)


def _distances(rows: Tensor) -> Tensor:
    """`[B, B]` Euclidean distances in units of the mean of those above zero."""
    # Not by matrix products, whose rounding makes small distances wrong; cdist gives equal rows the gradient 0.
    distance = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distance.sum() / (distance > 0).sum().clamp(min=1)
    return distance / torch.where(mean > 0, mean, 1.0)


def _cosines(rows: Tensor) -> Tensor:
    """`[B, B, B]`: at `[j, i, k]` the cosine of the angle at row j between rows i and k; 0 where one equals j."""
    difference = rows[None] - rows[:, None]
    square = difference.square().sum(2, keepdim=True)
    apart = square > SAME
    unit = difference * torch.where(apart, torch.where(apart, square, 1.0).rsqrt(), 0.0)
    return unit @ unit.transpose(1, 2)
