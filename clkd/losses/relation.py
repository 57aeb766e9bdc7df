"""Learning how another model relates the rows of a batch to each other."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.losses.related import Related
from clkd.signals import Batch, Signals

SAME = 1e-12
"""Rows whose squared distance is no more than this have no direction from one to the other."""


class Relation(Related):
    """Relational knowledge distillation: Huber loss between the two models' distances, or angles, of rows.

    Park et al. 2019, "Relational Knowledge Distillation", eq. 4-5 (distance: Euclidean, divided by the batch's mean
    distance) and eq. 6-7 (angle: cosine at row j of rows i and k), as means over ordered pairs and triples of different
    rows; `both` is distance + 2 · angle, the paper's ratio. Distances need B² · D numbers, angles B³ as well.

    Maps are averaged over positions. A block with fewer than two rows (three for angles) has no relations and adds 0.
    """

    def __init__(self, variant: Literal["distance", "angle", "both"] = "distance", mix: bool = False) -> None:
        super().__init__(mix)
        self.variant = variant

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        """A scalar: a relation belongs to no single row."""
        blocks = self.vectors(batch, a, b)
        sizes = [len(f) for f, _ in blocks]
        value = blocks[0][0].new_zeros(())
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
