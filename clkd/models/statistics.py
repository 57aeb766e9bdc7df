"""What a model's layers gather of the rows they see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class Statistics:
    """The running statistics of a model's batch norm, whoever's layer it is.

    >>> import torch
    >>> norm = nn.BatchNorm1d(1)
    >>> with Statistics(norm).held():
    ...     _ = norm(torch.tensor([[1.0], [3.0]]))
    >>> norm.running_mean, norm.momentum, norm.num_batches_tracked
    (tensor([0.]), 0.1, tensor(0))
    """

    def __init__(self, model: nn.Module) -> None:
        layers = (layer for layer in model.modules() if getattr(layer, "running_mean", None) is not None)
        self.layers: list[Any] = list(layers)  # torch's types know nothing of their momentum

    @contextmanager
    def held(self) -> Iterator[None]:
        """Rows that are seen meanwhile do not move them, bit for bit; in train mode they are still not read."""
        momenta = [layer.momentum for layer in self.layers]
        # Who has no momentum takes the mean over all batches so far, and must not count these.
        counts = [count for layer in self.layers if (count := getattr(layer, "num_batches_tracked", None)) is not None]
        before = [count.clone() for count in counts]
        for layer in self.layers:
            layer.momentum = 0.0
        try:
            yield
        finally:
            for layer, momentum in zip(self.layers, momenta, strict=True):
                layer.momentum = momentum
            for count, own in zip(counts, before, strict=True):
                count.copy_(own)
