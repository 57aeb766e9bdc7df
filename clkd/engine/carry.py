"""Carrying an optimizer's state from one experience to the next while the head grows."""

from __future__ import annotations

from collections.abc import Mapping

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
                new.state[parameter] = padded(state, parameter)


def padded(state: Mapping[str, Tensor | float], parameter: Tensor) -> dict[str, Tensor | float]:
    """What an optimizer knew of the old parameter, with rows of 0 up to as many as the new one has.

    A count has no rows, nor has what Adafactor keeps of each column of a matrix.
    """
    grown = dict(state)
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.dim() == 0 or (name == "col_var" and parameter.dim() == 2):
            continue
        if len(value) < len(parameter):
            longer = value.new_zeros(len(parameter), *value.shape[1:])
            longer[: len(value)] = value
            grown[name] = longer
    return grown
