"""Carrying an optimizer's state from one experience to the next while the head grows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def carry_state(old: Optimizer, new: Optimizer, replaced: list[tuple[nn.Parameter, nn.Parameter]]) -> None:
    """Give `new` what `old` knew of each parameter; where one was replaced, new rows start at 0.

    A new row of Adam therefore shares the step count of its parameter, as it does in every tool that resizes heads.
    """
    origin = {after: before for before, after in replaced}
    for group in new.param_groups:
        for parameter in group["params"]:
            state = old.state.get(origin.get(parameter, parameter))
            if state:
                new.state[parameter] = {name: padded(value, parameter) for name, value in state.items()}


def padded(value: Tensor | float, parameter: Tensor) -> Tensor | float:
    """A state tensor shaped like the old parameter, with zero rows up to the new one's shape."""
    if not isinstance(value, Tensor) or value.dim() == 0 or value.shape == parameter.shape:
        return value
    padded = torch.zeros_like(parameter)
    padded[: len(value)] = value
    return padded
