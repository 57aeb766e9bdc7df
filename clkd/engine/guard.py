"""What happens when numbers stop being numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from clkd.engine.parts import Parts
from clkd.errors import ClkdError
from clkd.ranks import Ranks
from clkd.schedules.base import Progress


class NonFiniteError(ClkdError):
    """A loss, a gradient or a weight became NaN or infinite.

    Attributes:
        step: optimiser steps of the run when it was seen.
    """

    def __init__(self, what: str, progress: Progress, when: str) -> None:
        super().__init__(
            f"{what} became NaN or infinite in experience {progress.experience}, epoch {progress.epoch}, {when}: lower "
            f"the learning rate, set train.clip_norm or train.on_nan: skip, or look at that term's options"
        )
        self.step = progress.step


class Guard:
    """Looks at the loss and at all gradients before weights change. That waits for the device in every step.

    A step that is not to be taken leaves no trace: weights, buffers, optimizer, memory and teachers stay as they were.
    """

    def __init__(self, parts: Parts, progress: Progress, ranks: Ranks, most: int) -> None:
        self.progress, self.ranks, self.most = progress, ranks, most
        self.trained = list(parts.parameters())
        self.buffers = list(parts.modules().buffers())
        self.before: list[Tensor] = []
        self.skipped = 0
        """Steps of this experience that were not taken."""
        self.error: NonFiniteError | None = None
        """Why the latest step was not taken, if it was not."""

    def remember(self) -> None:
        """Before a step's forward pass, which moves buffers."""
        self.before = [buffer.clone() for buffer in self.buffers]
        self.error = None

    def passes(self, loss: Tensor, values: Mapping[str, Tensor]) -> bool:
        """After the backward pass, whose graph must still be there: whether the step may be taken."""
        gradients = [parameter.grad for parameter in self.trained if parameter.grad is not None]
        if not self.ranks.highest(int(not _finite([loss, *gradients]))):
            return True
        what = _broken(values, self.trained) if self.ranks.alone else "the loss or a gradient"
        self.error = NonFiniteError(what, self.progress, f"at step {self.progress.step + 1}")
        self.skipped += 1
        with torch.no_grad():
            for buffer, value in zip(self.buffers, self.before, strict=True):
                buffer.copy_(value)
        return False

    def gives_up(self) -> NonFiniteError | None:
        """What to stop with, if the latest step was one skipped too many."""
        return self.error if self.skipped > self.most else None


def _broken(values: Mapping[str, Tensor], trained: list[torch.nn.Parameter]) -> str:
    """The first term that broke, in the scenario's order; where all values are numbers, the first by its gradient."""
    for name, value in values.items():
        if not _finite([value]):
            return f"the loss term '{name}'"
    for name, value in values.items():
        if value.requires_grad:
            gradients = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True)
            if not _finite(gradient for gradient in gradients if gradient is not None):
                return f"the gradient of the loss term '{name}'"
    return "the sum of the loss terms or its gradient"


def _finite(tensors: Iterable[Tensor]) -> bool:
    found = [tensor.isfinite().all() for tensor in tensors]
    return bool(torch.stack(found).all()) if found else True


def refuse_broken_weights(parts: Parts, progress: Progress) -> None:
    """Raises `NonFiniteError` naming the first weight that is no number: a last gradient may have been none."""
    weights = dict(parts.modules().named_parameters())
    if not _finite(weights.values()):
        name = next(name for name, weight in weights.items() if not _finite([weight]))
        raise NonFiniteError(f"the weight '{name}'", progress, f"by step {progress.step}")
