"""Running means of the terms, kept on the device until somebody looks."""

from __future__ import annotations

import torch
from torch import Tensor

from clkd.errors import ClkdError
from clkd.schedules.base import Progress


class Meter:
    """Sums scalars on the device; looking at them is the only time the host waits."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add one step's terms; a term that had no rows in a step is simply not in its mean."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self, progress: Progress) -> dict[str, float]:
        """The mean of each term since the meter was made. Raises as `refuse_nonfinite` does."""
        self.refuse_nonfinite(progress)
        return {name: total.item() / self.counts[name] for name, total in self.sums.items()}

    def refuse_nonfinite(self, progress: Progress) -> None:
        """Stop a run whose loss is no number any more, naming the term that broke first in the scenario's order."""
        if not self.sums:
            return
        names = [name for name in self.sums if name != "loss"] + ["loss"]
        finite = torch.isfinite(torch.stack([self.sums[name].float() for name in names])).tolist()
        for name, fine in zip(names, finite, strict=True):
            if not fine:
                raise ClkdError(
                    f"the loss term '{name}' became NaN or infinite in experience {progress.experience}, epoch "
                    f"{progress.epoch}, by step {progress.step}: lower the learning rate, set train.clip_norm, or look "
                    f"at that term's options"
                )
