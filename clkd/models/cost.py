"""What a model costs: its parameters, and its arithmetic for one row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clkd.models.dry_run import dry_run


def parameter_count(model: nn.Module) -> int:
    """Numbers in all parameters, frozen or not; buffers do not count.

    >>> parameter_count(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_accumulates(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one row's forward pass in eval mode: half of torch's count of floating point operations.

    Convolutions and matrix products count, those of attention too; element-wise work, normalisation and pooling do not,
    as is usual.

    >>> multiply_accumulates(nn.Linear(3, 2), (3,))
    6
    """
    with dry_run(model, shape) as (copied, row), _attention_by_products(), FlopCounterMode(display=False) as counter:
        copied(row)
    flops: int = counter.get_total_flops()
    return flops // 2


@contextmanager
def _attention_by_products() -> Iterator[None]:
    """Torch's counter does not know the kernels that do all of attention at once, of which each device has others."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
