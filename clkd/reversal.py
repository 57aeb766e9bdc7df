"""The gradient reversal layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float | Tensor) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return -ctx.scale * gradient, None


def reverse(x: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """`x` itself; its gradient comes back times −scale.

    Ganin & Lempitsky 2015, "Unsupervised Domain Adaptation by Backpropagation", §3.

    >>> x = torch.tensor([3.0], requires_grad=True)
    >>> (2 * reverse(x, 0.5)).backward()
    >>> x.grad
    tensor([-1.])
    """
    reversed_: Tensor = _Reversal.apply(x, scale)  # type: ignore[no-untyped-call]  # torch's
    return reversed_
