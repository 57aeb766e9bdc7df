"""The base of every gradient policy."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor


class GradientPolicy:
    """Decides on the gradient that the optimizer is given, once those of new and of past rows are there."""

    per_experience: ClassVar[bool] = False
    """Whether there is a reference for each past experience among the replayed rows, or one for all of them."""

    @property
    def needs_boundaries(self) -> bool:
        """Whether it has to be told where experiences end, for a stream without boundaries to refuse it."""
        return self.per_experience

    def __call__(self, gradient: Tensor, references: Tensor) -> Tensor:
        """`[P]` from that of new rows, `[P]`, and those of replayed ones, `[M, P]`, M > 0; changes neither."""
        raise NotImplementedError


def power_of_two(x: Tensor) -> Tensor:
    """`[M, 1]`: the least power of two above all numbers of each row of `[M, P]`; dividing by it rounds nothing.

    Squares of a gradient as small as 1e-23 are 0 in float32, and those of one as large as 1e20 infinite: a row that
    was divided by it may be squared.

    >>> power_of_two(torch.tensor([[3.0, -5.0], [0.0, 1e-30]]))
    tensor([[8.0000e+00],
            [1.5777e-30]])
    """
    largest = x.abs().amax(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return largest / torch.frexp(largest).mantissa
