"""The instance relationship graph."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from clkd.errors import UserError
from clkd.losses.base import common_columns, full_precision, is_prefix, logits_of, take
from clkd.losses.related import Blocks, Related, pairs_of
from clkd.losses.taps import TAP
from clkd.signals import Batch, Needs, Signals, Spec


class IRG(Related):
    """`λ_v · MSE(z, v) + λ_e · mean_l ‖E_l − E'_l‖² / B² + λ_t · mean_l ‖(E_l+1 − E_l) − (E'_l+1 − E'_l)‖² / B²`.

    Liu et al. 2019, "Knowledge Distillation via Instance Relationship Graph", eq. 3-8: vertices are logits z and v
    (over the classes that both models know, of the row itself where the second knows fewer of some rows), edges E the
    squared distances of rows in a layer. Edges are divided by their largest, and the weights are those of the
    Knowledge-Distillation-Zoo. The transformation is that of the edges (Tran^E in the paper, which drops it for the
    vertices'): it needs no equal widths. Maps are laid out as vectors. It takes B² numbers a layer.

    >>> edges(torch.tensor([[0.0], [1.0], [3.0]]))
    tensor([[0.0000, 0.1111, 1.0000],
            [0.1111, 0.0000, 0.4444],
            [1.0000, 0.4444, 0.0000]])
    """

    reads_known: ClassVar[bool] = True
    a_columns: Tensor
    b_columns: Tensor

    def __init__(
        self,
        vertex: float = 0.1,
        edge: float = 5.0,
        transformation: float = 5.0,
        layers: Sequence[str] = (TAP,),
        against: Sequence[str] | None = None,
        mix: bool = False,
    ) -> None:
        super().__init__(mix)
        self.vertex, self.edge, self.transformation = vertex, edge, transformation
        self.layers, self.against = tuple(layers), tuple(against or layers)

    def reads(self, side: int) -> Needs:
        return Needs(self.vertex > 0, self.against if side else self.layers)

    def bind(self, a: Spec, b: Spec | None) -> None:
        """Match the classes of both sides.

        Raises:
            UserError: they have none in common, or a layer is named in `between`.
        """
        assert b is not None, "irg has two sides"
        if a.feature or b.feature:
            raise UserError("irg: its layers are named in its option layers: name none in between")
        at_a, at_b = common_columns(a, b)
        if self.vertex and not len(at_a):
            raise UserError("irg: student and teacher have no class in common: set vertex: 0, or use another teacher")
        self.register_buffer("a_columns", at_a, persistent=False)
        self.register_buffer("b_columns", at_b, persistent=False)
        self.a_prefix, self.b_prefix = is_prefix(at_a), is_prefix(at_b)

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        """A scalar: an edge belongs to no single row."""
        assert b is not None, "irg has two sides"
        layers = [
            self._edges(batch, a.features[f], b.features[g]) for f, g in zip(self.layers, self.against, strict=True)
        ]
        value = self.edge * torch.stack([_apart(blocks) for blocks in layers]).mean()
        if len(layers) > 1:
            changes = [_change(*two) for two in pairwise(layers)]
            value = value + self.transformation * torch.stack([_apart(blocks) for blocks in changes]).mean()
        if self.vertex:
            value = value + self.vertex * self._vertices(a, b)
        return value

    def _vertices(self, a: Signals, b: Signals) -> Tensor:
        """The mean squared difference of the logits that both know."""
        z = take(logits_of(a), self.a_columns, self.a_prefix)
        v = take(logits_of(b).detach(), self.b_columns, self.b_prefix)
        if b.known is None:
            return (z - v).square().mean()
        known = take(b.known, self.b_columns, self.b_prefix)
        return (z - v).where(known, 0.0).square().sum() / known.sum().clamp(min=1)

    def _edges(self, batch: Batch, f: Tensor, g: Tensor) -> Blocks:
        blocks = self.blocks(batch, full_precision(f).flatten(1), full_precision(g).detach().flatten(1))
        return [(edges(student), edges(teacher)) for student, teacher in blocks]


def edges(rows: Tensor) -> Tensor:
    """`[n, n]` squared distances, in units of the largest."""
    if not len(rows):
        return rows.new_zeros(0, 0)
    # Not by matrix products, whose rounding makes small distances wrong; cdist gives equal rows the gradient 0.
    square = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    largest = square.max()
    return square / torch.where(largest > 0, largest, 1.0)


def _apart(blocks: Blocks) -> Tensor:
    """The mean squared difference over all pairs."""
    return torch.stack([(f - g).square().sum() for f, g in blocks]).sum() / pairs_of(blocks)


def _change(before: Blocks, after: Blocks) -> Blocks:
    return [(f2 - f1, g2 - g1) for (f1, g1), (f2, g2) in zip(before, after, strict=True)]
