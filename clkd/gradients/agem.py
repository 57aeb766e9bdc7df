"""Averaged gradient episodic memory."""

from __future__ import annotations

import torch
from torch import Tensor

from clkd.gradients.base import GradientPolicy, power_of_two


class AGEM(GradientPolicy):
    """`g − (g·r / r·r) r` where `g·r < 0`, else g: the nearest gradient that does not raise the loss on replayed rows.

    Chaudhry et al. 2019, "Efficient Lifelong Learning with A-GEM", eq. 11.

    >>> AGEM()(torch.tensor([1.0, -1.0]), torch.tensor([[0.0, 2.0]]))
    tensor([1., 0.])
    """

    def __call__(self, gradient: Tensor, references: Tensor) -> Tensor:
        (reference,) = references / power_of_two(references)
        along = gradient @ reference
        against = torch.where(along < 0, along / (reference @ reference), 0.0)
        changed: Tensor = gradient - against * reference
        return changed
