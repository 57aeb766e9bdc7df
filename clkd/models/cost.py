"""What a model costs: its parameters, and its arithmetic for one row."""

from __future__ import annotations

from torch import nn
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from clkd.dynamo import spare
from clkd.models.dry_run import dry_run


def parameter_count(model: nn.Module) -> int:
    """Numbers in all parameters, frozen or not; buffers do not count.

    >>> parameter_count(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_accumulates(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one row's forward pass in eval mode: half of torch's count of floating point operations.

    Convolutions and matrix products count; element-wise work, normalisation and pooling do not, as is usual.

    >>> multiply_accumulates(nn.Linear(3, 2), (3,))
    6
    """
    spare(getattr(flop_counter, "_FlopCounterMode", FlopCounterMode))  # the inner one does the dispatching
    with dry_run(model, shape) as (copied, row), FlopCounterMode(display=False) as counter:
        copied(row)
    flops: int = counter.get_total_flops()
    return flops // 2
