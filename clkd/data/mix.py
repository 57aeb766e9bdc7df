"""Rows mixed with each other: mixup and cutmix, on whole batches, on the device."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from clkd.errors import UserError
from clkd.signals import Batch, Mixed

LEVELS = 4096
"""Steps in which a share is drawn."""


class Mix:
    """Mixes each row with another of its kind: new rows with new ones, those of a draw from memory with those of it.

    `mixup` (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", eq. 1) blends the pixels of both,
    `λ·x + (1 − λ)·x'`. `cutmix` (Yun et al. 2019, "CutMix", eq. 1, section 3.1) pastes a box of the other row, of
    `1 − λ` of the area around a random centre, cut off at the edges; λ then becomes the share that is left. λ is drawn
    from Beta(α, α), for each row by itself, where the authors' code draws one for a batch.

    A mixed row has two labels: `Batch.mixed` has both, and `y` is -1 where they differ.

    Args:
        kind: of mixing.
        alpha: 1 makes every share equally likely; the smaller, the closer rows stay to one of the two.
        rows: `new` leaves replayed rows as they are.

    >>> i = torch.arange(2)
    >>> batch = Batch(x=torch.eye(2), y=i, sample_id=i, domain=i, experience=i, new=2)
    >>> mixed = Mix("mixup", 1.0)(batch, torch.Generator().manual_seed(1))
    >>> mixed.x, mixed.y, mixed.mixed.share
    (tensor([[0.0575, 0.9425],
            [0.0282, 0.9718]]), tensor([-1, -1]), tensor([0.0575, 0.9718]))
    """

    def __init__(self, kind: Literal["mixup", "cutmix"], alpha: float, rows: Literal["all", "new"] = "all") -> None:
        from scipy.special import betaincinv  # takes a while, and few mix

        self.kind, self.rows = kind, rows
        middle = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
        self.quantiles = torch.from_numpy(betaincinv(alpha, alpha, middle.numpy())).float()
        """`[LEVELS]` of Beta(α, α): a share is one of them."""

    def refuse_vectors(self, shape: tuple[int, ...]) -> None:
        """Raises `UserError` if boxes are to be cut out of rows of this shape, which are no images."""
        if self.kind == "cutmix" and len(shape) != 3:
            raise UserError(f"stream.augment.mix: rows are vectors of shape {shape}, which have no boxes: use mixup")

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The rows mixed. Draws come from `generator`, on its device; nothing waits for the rows' one."""
        device, x = batch.x.device, batch.x
        partner, share, middle = (
            drawn.to(device, non_blocking=True) for drawn in self._draw(batch, generator, x.shape[2:])
        )
        theirs = x.index_select(0, partner)
        if self.kind == "cutmix":
            inside = boxes(share, middle, x.shape[2], x.shape[3])
            x, share = torch.where(inside[:, None], theirs, x), 1 - inside.float().mean((1, 2))
        else:
            weight = share.view(-1, *[1] * (x.dim() - 1)).to(x.dtype)
            x = weight * x + (1 - weight) * theirs
        other = torch.where(share < 1, batch.y.index_select(0, partner), batch.y)
        y = torch.where(other != batch.y, -1, batch.y)
        return replace(batch, x=x, y=y, view=None, mixed=Mixed(batch.y, other, share))

    def _draw(self, batch: Batch, generator: torch.Generator, sides: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
        """For each row: whom it is mixed with, its own share λ, and where a box has its centre (`[B, 2]` in [0, 1))."""
        n, where = len(batch), generator.device
        kinds = (batch.new, *(batch.draws or (n - batch.new,)))
        starts = [sum(kinds[:i]) for i in range(len(kinds))]
        pieces = [torch.randperm(kind, generator=generator, device=where) for kind in kinds]
        partner = torch.cat([start + piece for start, piece in zip(starts, pieces, strict=True)])
        level = torch.randint(LEVELS, (n,), generator=generator, device=where)
        middle = torch.rand(n, 2, generator=generator, device=where)
        share = self.quantiles.to(where)[level]
        if self.rows == "new":
            at = torch.arange(n, device=where)
            partner, share = torch.where(at < batch.new, partner, at), torch.where(at < batch.new, share, 1.0)
        return partner, share, middle


def boxes(share: Tensor, middle: Tensor, height: int, width: int) -> Tensor:
    """`[B, height, width]` bool: boxes of `1 − share` (`[B]`) of the area around `middle` (`[B, 2]`), cut off at edges.

    >>> boxes(torch.tensor([0.75]), torch.tensor([[0.5, 0.0]]), 4, 4).int()[0]
    tensor([[0, 0, 0, 0],
            [1, 0, 0, 0],
            [1, 0, 0, 0],
            [0, 0, 0, 0]], dtype=torch.int32)
    """
    edge = (1 - share).sqrt()

    def inside(side: int, middle: Tensor) -> Tensor:
        length, centre = (side * edge).floor(), (middle * side).floor()
        start, at = centre - (length / 2).floor(), torch.arange(side, device=share.device)
        stop = centre + (length / 2).floor()
        return (at >= start[:, None]) & (at < stop[:, None])

    return inside(height, middle[:, 0])[:, :, None] & inside(width, middle[:, 1])[:, None, :]
