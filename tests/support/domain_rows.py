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


def said(features: Tensor, logits: Tensor | None = None, tap: str = "penultimate") -> Signals:
    return Signals(logits, torch.arange(0 if logits is None else logits.shape[1]), {tap: features})
