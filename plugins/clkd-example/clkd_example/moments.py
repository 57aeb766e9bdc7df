"""Matching the first two moments of old and new features."""

from __future__ import annotations

from torch import Tensor

from clkd import Batch, Needs, Signals, Transfer


class Moments(Transfer):
    """`‖μ_new − μ_old‖² + ‖σ²_new − σ²_old‖²`, each divided by the number of features."""

    def __init__(self, feature: str = "penultimate") -> None:
        super().__init__()
        self.feature = feature

    def reads(self) -> Needs:
        return Needs(logits=False, features=(self.feature,))

    def forward(self, batch: Batch, a: Signals) -> Tensor | None:
        if batch.new < 2 or len(batch) - batch.new < 2:
            return None
        features = a.features[self.feature].float().flatten(2 if a.features[self.feature].dim() > 2 else 1)
        rows = features.mean(2) if features.dim() == 3 else features
        new, old = rows[: batch.new], rows[batch.new :]
        return (new.mean(0) - old.mean(0)).square().mean() + (new.var(0) - old.var(0)).square().mean()
