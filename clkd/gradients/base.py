"""The base of every gradient policy."""

from __future__ import annotations

from typing import ClassVar

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
