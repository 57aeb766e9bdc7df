"""How much each term counts: its weighted value, and its share of the gradient."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from clkd.engine.parts import Parts
from clkd.schedules.base import Schedule

WEIGHTED = "weighted/"
"""Before a term's name: its weighted value. No term's name has a `/`."""
SHARE = "gradient_share/"
"""Before a term's name: its part in the sum of all terms' gradient norms."""


def constant_weights(parts: Parts) -> dict[str, float]:
    """The weights that are numbers, by term: their weighted means are known without being summed in the step."""
    weights = {term.name: term.weight for term in parts.terms} | {"transfer": parts.transfer_weight}
    return {name: weight for name, weight in weights.items() if not isinstance(weight, Schedule)}


def moving(weighted: Mapping[str, Tensor], constant: Collection[str]) -> dict[str, Tensor]:
    """Under the names of a meter, the weighted terms whose weight follows a schedule."""
    return {f"{WEIGHTED}{name}": value.detach() for name, value in weighted.items() if name not in constant}


def gradient_shares(weighted: Mapping[str, Tensor], parts: Parts) -> dict[str, Tensor]:
    """Each weighted term's gradient norm over all students' parameters, divided by the sum of all terms' norms.

    The shares sum to 1, terms without rows in this batch having 0; where no term has a gradient, all are 0. Costs a
    backward pass for each term, whose graph is kept, and leaves no trace in gradients. Nothing waits for the device.
    """
    students = [p for model in parts.students.values() for p in model.parameters() if p.requires_grad]
    norms = {name: _norm(value, students) for name, value in weighted.items()}
    total = torch.stack(list(norms.values())).sum().clamp(min=torch.finfo(torch.float32).tiny)
    silent = {term.name: torch.zeros_like(total) for term in parts.active()}
    return {f"{SHARE}{name}": norm / total for name, norm in (silent | norms).items()}


def _norm(value: Tensor, parameters: list[torch.nn.Parameter]) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(value)
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    gradients = [gradient.float().norm() for gradient in found if gradient is not None]
    return torch.stack(gradients).norm() if gradients else torch.zeros_like(value)


def metrics_of(means: Mapping[str, float], constant: Mapping[str, float]) -> dict[str, float]:
    """An epoch's means as they are logged: every term raw and weighted, and the shares that were looked at.

    >>> metrics_of({"kd": 2.0, "loss": 1.0}, {"kd": 0.5})
    {'train/loss_kd': 2.0, 'train/loss': 1.0, 'train/weighted_kd': 1.0}
    """
    told = {name: value for name, value in means.items() if "/" not in name}
    weighted = {name: constant[name] * value for name, value in told.items() if name in constant}
    return {
        **{f"train/{name if name == 'loss' else f'loss_{name}'}": value for name, value in told.items()},
        **{f"train/weighted_{name}": value for name, value in weighted.items()},
        **{f"train/{name.replace('/', '_', 1)}": value for name, value in means.items() if "/" in name},
    }
