"""Gradient episodic memory."""

from __future__ import annotations

import torch
from torch import Tensor

from clkd.errors import ClkdError
from clkd.gradients.base import GradientPolicy, power_of_two

PIECE = 2**20
"""Parameters whose products are summed at a time in float64."""
TOLERANCE = 1e-9
"""How far a constraint may be missed, as a share of both gradients' lengths."""


class GEM(GradientPolicy):
    """The z nearest to g with `z·r ≥ 0` for the reference r of each past experience: a quadratic program.

    Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory for Continual Learning", eq. 8-12. It is solved in its dual,
    which has one number for each past experience: `z = g + Σ v_k r_k`, v ≥ 0 the one of least `½ vᵀKv + hᵀv`, with
    `K = R Rᵀ` and `h = R g`, in float64 on the CPU. Where z is not g, `margin` is then added to each v.

    >>> GEM()(torch.tensor([1.0, -1.0]), torch.tensor([[0.0, 2.0], [1.0, 1.0]]))
    tensor([1., 0.])
    """

    per_experience = True

    def __init__(self, margin: float = 0.0) -> None:
        self.margin = margin

    def __call__(self, gradient: Tensor, references: Tensor) -> Tensor:
        scale = power_of_two(references)
        references = references / scale
        lengths = references.norm(dim=1).double().clamp(min=torch.finfo(torch.float32).tiny)
        unit = torch.zeros(len(references), len(references), dtype=torch.float64, device=references.device)
        towards = torch.zeros(len(references), dtype=torch.float64, device=references.device)
        for r, g in zip(torch.split(references, PIECE, 1), torch.split(gradient, PIECE), strict=True):
            r = r.double() / lengths[:, None]  # a constraint is about directions: how long r is must not decide
            unit += r @ r.T
            towards += r @ g.double()
        if not (unit.isfinite().all() and towards.isfinite().all()):
            return gradient * torch.nan  # whoever looks at gradients finds it, and may leave this step out
        v = nonnegative(unit.cpu(), towards.cpu(), TOLERANCE * float(gradient.norm())).to(references.device)
        margin = self.margin * scale.double().squeeze(1) * (v > 0).any()
        v = (v / lengths + margin).to(references.dtype)
        changed: Tensor = gradient + v @ references
        return changed


def nonnegative(k: Tensor, h: Tensor, tolerance: float) -> Tensor:
    """The `v ≥ 0` of least `½ vᵀKv + hᵀv`, up to `Kv + h ≥ −tolerance`: `[M]` for `[M, M]` and `[M]`, in float64.

    Lawson & Hanson 1974, "Solving Least Squares Problems", chapter 23, on the normal equations: constraints are let in
    one by one, and out again where their number would be negative.

    Raises:
        ClkdError: rounding kept it from finding one.

    >>> nonnegative(torch.eye(2, dtype=torch.float64), torch.tensor([-1.0, 2.0], dtype=torch.float64), 1e-9)
    tensor([1., 0.], dtype=torch.float64)
    """
    v, active, refused = torch.zeros_like(h), torch.zeros_like(h, dtype=torch.bool), -1
    for _ in range(20 * len(h) + 20):
        missed = (-(k @ v + h)).masked_fill(active, -torch.inf)
        if refused >= 0:
            missed[refused] = -torch.inf
        if bool((missed <= tolerance).all()):
            return v
        entering = int(missed.argmax())
        active[entering] = True
        v = _best(k, h, v, active)
        refused = -1 if active[entering] else entering  # only rounding lets one in that has to go at once
    raise ClkdError(f"train.gradient: gem found no solution for {len(h)} references in float64")


def _best(k: Tensor, h: Tensor, v: Tensor, active: Tensor) -> Tensor:
    """From v towards what is best on the `active` constraints; each whose number would become negative is left out."""
    while bool(active.any()):
        at = active.nonzero().squeeze(1)
        best = torch.zeros_like(v)
        best[at] = torch.linalg.lstsq(k[at][:, at], -h[at, None], driver="gelsd").solution.squeeze(1)
        leaves = active & (best <= 0)
        if not bool(leaves.any()):
            return best
        reach = torch.where(leaves, v / (v - best).clamp(min=torch.finfo(v.dtype).tiny), torch.inf)
        v = torch.where(reach <= reach.min(), 0.0, v + reach.min() * (best - v))
        active &= v > 0
        v = torch.where(active, v, 0.0)
    return torch.zeros_like(v)
