"""Elastic weight consolidation."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.losses.measured import Measured, Over
from clkd.losses.regulariser import Vectors, copied, zeros
from clkd.signals import Batch, Signals


class EWC(Measured):
    """`½ Σ_k Σ_i F_i^k (θ_i − θ_i^k)²` over the experiences k so far; the term's weight is the papers' λ.

    Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", eq. 3. F is the diagonal of the
    Fisher information, `E_x E_{y ∼ p(y|x)} [(∂ log p(y|x) / ∂θ_i)²]`, a mean over rows of squares of each row's own
    gradient: `exact` takes the expectation over y, `sampled` one draw of y, `empirical` the label instead. `label` is
    the label's own term of the expectation, `p(y|x) (∂ log p(y|x) / ∂θ_i)²`, as the code of Buzzega et al. 2020 has it.

    A sum of squares is a square: `separate` keeps `Σ F`, the mean of the θ^k weighted by F, and a constant. That is the
    sum over all experiences, in the memory and time of one. With `online` (Schwarz et al. 2018, "Progress & Compress")
    `F ← γ F + F^k`, and θ is held where it was last.
    """

    scale: ClassVar[float] = 0.5
    power: float = 2.0

    def __init__(
        self,
        fisher: Literal["exact", "sampled", "empirical", "label"] = "exact",
        mode: Literal["separate", "online"] = "separate",
        gamma: float = 1.0,
        over: Over = "auto",
        rows: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(over, rows, seed)
        self.fisher, self.mode, self.gamma = fisher, mode, gamma
        self.apart = torch.zeros(())
        """What is left of the sum where θ is best: how far apart the θ^k are."""

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        value = super().forward(batch, a, b)
        if self.mode != "separate" or not self.kept:
            return value
        self.apart = self.apart.to(value)  # once after a resume
        return value + self.scale * self.apart

    def directions(self, logits: Tensor, target: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """The gradient of `log p_y` by the logits is `onehot(y) − p`."""
        p = logits.softmax(1)
        columns = p.shape[1]
        if self.fisher == "exact":
            return torch.eye(columns, dtype=p.dtype, device=p.device) - p[:, None], p
        if self.fisher == "sampled":
            target = torch.multinomial(p.cpu(), 1, generator=draws).squeeze(1).to(p.device)
        labelled = target >= 0
        pulls = F.one_hot(target.clamp(min=0), columns).to(p) - p
        shares = labelled.to(p)[:, None]
        return pulls[:, None], shares * (p * (pulls + p)).sum(1, keepdim=True) if self.fisher == "label" else shares

    def settle(self, importance: Vectors) -> None:
        if self.mode == "online":
            self.consolidate(importance, self.gamma)
        else:
            self._add(importance)

    @torch.no_grad()
    def _add(self, importance: Vectors) -> None:
        """`A(θ − m)² + F(θ − t)² = (A + F)(θ − m')² + A F / (A + F) · (m − t)²`, m' the weighted mean of m and t."""
        before = self.kept.get("importance", zeros(importance))
        means = self.kept.get("anchor", zeros(importance))
        total, anchor = {}, copied(self.parameters_now)
        for name, now in anchor.items():
            a, f, mean = before[name], importance[name], means[name]
            total[name] = a + f
            share = torch.where(a > 0, f / total[name], 1.0)  # where nothing was held, θ is held where it is, exactly
            self.apart = self.apart.to(now) + (a * share * (mean - now).square()).sum()
            anchor[name] = torch.where(a > 0, mean + share * (now - mean), now)
        self.kept["importance"], self.kept["anchor"] = total, anchor

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "apart": self.apart}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.apart = state["apart"].clone()
