"""Softmax regression representation learning."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from clkd.losses.classified import Classified
from clkd.signals import Batch, Signals


class SRRL(Classified):
    """`α · mean (r(f) − g)² + β · mean (W(r(f)) − W(g))²`, with the teacher's frozen classifier W.

    Yang et al. 2021, "Knowledge Distillation via Softmax Regression Representation Learning", eq. 3 and 6 (the variant
    with the squared difference of logits), α = `feature_weight`, β = `logit_weight`, both on pooled features. The
    teacher's logits are made of the same features, so that its answers can be recalled. The authors' projector has
    batch norm and ReLU behind its linear layer; here it is linear, or none where widths agree.

    It takes a teacher that has a classifier to lend: clkd's own networks (`fit`, `run`, `previous`, …).

    >>> import torch
    >>> from clkd.signals import Spec
    >>> loss, side = SRRL(), Spec((0,), (0,), shapes={"penultimate": (2,)})
    >>> loss.bind(side, side)
    >>> loss.borrow(torch.nn.Linear(2, 1))
    >>> _ = torch.nn.init.ones_(loss.classifier().weight)
    >>> rows = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 5.0]])
    >>> loss(None, *(Signals(None, torch.arange(1), {"penultimate": row}) for row in rows)).item()
    13.5
    """

    def __init__(
        self,
        feature_weight: float = 1.0,
        logit_weight: float = 1.0,
        align: Literal["auto", "linear", "mlp"] = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(align, seed)
        self.feature_weight, self.logit_weight = feature_weight, logit_weight

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        """`[B]`."""
        f, g = self.aligned(a, b)
        classify = self.classifier()
        features, logits = (f - g).square().mean(1), (classify(f) - classify(g)).square().mean(1)
        value: Tensor = self.feature_weight * features + self.logit_weight * logits
        return value
