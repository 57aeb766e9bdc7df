"""Running means of the terms, kept on the device until somebody looks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from clkd.engine.guard import NonFiniteError
from clkd.ranks import ALONE, Ranks
from clkd.schedules.base import Progress


class Meter:
    """Sums scalars on the device; looking at them is the only time the host waits, for the device and other ranks."""

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def state_dict(self) -> dict[str, Any]:
        """This rank's own sums."""
        return {"sums": {name: value.cpu() for name, value in self.sums.items()}, "counts": dict(self.counts)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.counts = dict(state["counts"])

    def add(self, values: dict[str, Tensor]) -> None:
        """Add one step's terms; a term that had no rows in a step is simply not in its mean."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self, progress: Progress) -> dict[str, float]:
        """The mean of each term since the meter was made. Raises as `refuse_nonfinite` does."""
        sums = self._looked_at()
        _refuse_nonfinite(sums, progress)
        steps = self.ranks.mean(torch.tensor([self.counts.get(name, 0) for name in sums], dtype=torch.double))
        counts = dict(zip(sums, steps.tolist(), strict=True))
        return {name: sums[name] / counts[name] for name in self._names()}

    def refuse_nonfinite(self, progress: Progress) -> None:
        """Stop a run whose loss is no number any more, naming the term that broke first in the scenario's order."""
        _refuse_nonfinite(self._looked_at(), progress)

    def _looked_at(self) -> dict[str, float]:
        """The sums as the ranks have them on average, the total loss last."""
        names = sorted(self._names(), key="loss".__eq__)
        none = next(iter(self.sums.values())).new_zeros(()) if self.sums else torch.zeros(())
        sums = torch.stack([self.sums.get(name, none) for name in names]) if names else torch.empty(0)
        return dict(zip(names, self.ranks.mean(sums).tolist(), strict=True))

    def _names(self) -> list[str]:
        """Of all terms that any rank had rows for."""
        return list(dict.fromkeys(name for own in self.ranks.gather(list(self.sums)) for name in own))


def _refuse_nonfinite(sums: dict[str, float], progress: Progress) -> None:
    for name, total in sums.items():
        if not math.isfinite(total):
            raise NonFiniteError(f"the loss term '{name}'", progress, f"by step {progress.step}")
