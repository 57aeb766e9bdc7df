"""Rows of two domains, for tests of strategies."""

from __future__ import annotations

import torch
from torch import Tensor

from clkd.signals import Batch, Signals


def batch(new: int, replayed: int, y: Tensor | None = None, domain: Tensor | None = None) -> Batch:
    i = torch.arange(new + replayed)
    return Batch(
        x=i, y=i if y is None else y, sample_id=i, domain=i if domain is None else domain, experience=i, new=new
    )


def rows(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


def own(*widths: int) -> Tensor:
    """`[9, C]` bool: rows of tasks of so many classes in turn."""
    task = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
    return task == torch.arange(9)[:, None] % len(widths)


def said(
    features: Tensor, logits: Tensor | None = None, tap: str = "penultimate", competes: Tensor | None = None
) -> Signals:
    ids = torch.arange(0 if logits is None else logits.shape[1])
    return Signals(logits, ids, {tap: features}, competes=competes)
