"""What a part may know of the run that builds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clkd.experience import Rows
from clkd.options import Part


@dataclass(frozen=True, slots=True)
class Context:
    """Handed to every factory that has a parameter named `context`.

    Attributes:
        seed, device: of the run.
        cache: the cache directory; it exists and is writable.
        base: the directory that relative paths of the scenario start from (the scenario file's own).
        shape: one row of the stream, `(C, H, W)` or `(D,)`.
        class_names: one name per global class id.
        mean, std: `[C]` the statistics that the student's rows are normalised with, on the [0, 1] scale.
        train: all training rows of the stream, for a teacher that is fitted on them.
        data_fingerprint: a hash of everything that determines those rows and how they are augmented.
        build: builds another part by what the scenario says of it: `context.build(part, **offers)`.
        fit: trains a fresh model on `train` with cross-entropy: `context.fit(model_part, options, seed)` gives the
            module, already frozen. It belongs to the engine and is handed in, so that teachers need not know it.
    """

    seed: int
    device: torch.device
    cache: Path
    base: Path
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    mean: Tensor
    std: Tensor
    train: Rows
    data_fingerprint: str
    build: Callable[..., Any]
    fit: Callable[..., nn.Module]

    def model(self, part: Part) -> nn.Module:
        """A backbone for this stream's rows, as the scenario describes it."""
        module: nn.Module = self.build(part, shape=self.shape)
        return module
