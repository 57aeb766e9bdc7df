"""Memory aware synapses."""

from __future__ import annotations

import torch
from torch import Tensor

from clkd.losses.measured import Measured, Over
from clkd.losses.regulariser import Vectors


class MAS(Measured):
    """`Σ_i Ω_i (θ_i − θ_i*)²`, Ω the mean over rows of `|∂ ‖z‖² / ∂θ_i|`, z the row's logits; no label is read.

    Aljundi et al. 2018, "Memory Aware Synapses: Learning what (not) to forget", eq. 2-4, with the gradient of the
    squared norm of the answer. Over experiences, `Ω ← γ Ω + Ω^k`.
    """

    power: float = 1.0

    def __init__(self, gamma: float = 1.0, over: Over = "auto", rows: int | None = None, seed: int = 0) -> None:
        super().__init__(over, rows, seed)
        self.gamma = gamma

    def directions(self, logits: Tensor, target: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """The gradient of `‖z‖²` by the logits is `2 z`."""
        return 2 * logits[:, None], logits.new_ones(len(logits), 1)

    def settle(self, importance: Vectors) -> None:
        self.consolidate(importance, self.gamma)
