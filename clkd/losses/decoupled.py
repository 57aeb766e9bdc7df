"""Learning what a teacher says of the target class and of the others, each by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from clkd.losses.divergence import kd_rows, log_softmax, lowest, standardized
from clkd.losses.logits import Answers, LogitLoss
from clkd.losses.response import STANDARD_PAIR

if TYPE_CHECKING:
    from clkd.schedules.base import Schedule

SINGLE_OTHER = "beside the label's class a single one is left, whose share among the others is always 1"


class DKD(LogitLoss):
    """Decoupled knowledge distillation: `T² · [α · KL(bᵛ ‖ bᶻ) + β · KL(p̂ᵛ ‖ p̂ᶻ)]`, teacher v, student z.

    Zhao et al. 2022, "Decoupled Knowledge Distillation", §3: b is (p_y, 1 − p_y), the share of the label's class y,
    and p̂ the softmax over the classes other than y. With β = 1 − p_y of the teacher, row by row, and α = 1 it is `kd`.
    As in the authors' code both parts are times T². Their runs let the term's weight rise over 20 epochs, which is
    `weight: {kind: warmup, epochs: 20}` here. Rows whose class the teacher does not know are left out of the mean.

    >>> from clkd.signals import Batch, Signals, Spec
    >>> loss, side, i = DKD(temperature=1.0, beta=8.0), Spec(class_ids=(0, 1, 2), born=(0, 0, 0)), torch.tensor([0])
    >>> loss.bind(side, side)
    >>> z, v = (Signals(torch.tensor([row]), torch.arange(3)) for row in ([0.0, 0.0, 0.0], [2.0, 1.0, 0.0]))
    >>> loss(Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=1), z, v)
    tensor([1.1166])
    """

    name: ClassVar[str] = "dkd"
    labelled: ClassVar[bool] = True

    def __init__(
        self,
        temperature: float | Schedule = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        standardize: bool = False,
        convention: Literal["t2", "plain"] = "t2",
        few_classes: Literal["refuse", "kd"] = "refuse",
        min_confidence: float = 0.0,
    ) -> None:
        super().__init__(temperature, "all", few_classes, convention == "t2", min_confidence)
        self.alpha, self.beta, self.standardize = alpha, beta, standardize

    def vacuous(self) -> str:
        return STANDARD_PAIR if self.standardize else SINGLE_OTHER

    def compare(self, said: Answers, temperature: float | Tensor) -> Tensor:
        z, v = said.z, said.v
        if self.standardize:
            z, v = standardized(z, said.known), standardized(v, said.known)
        label, has_label = said.label
        (p, p_others), (q, q_others) = (binary(x / temperature, label, said.known) for x in (z, v))
        target_part = q.exp() * (q - p) + q_others.exp() * (q_others - p_others)
        other_part = kd_rows(z, v, temperature, t2=False, known=others(z, label, said.known))
        rows = (self.alpha * target_part + self.beta * other_part).where(has_label, 0.0)
        return rows * (temperature * temperature if self.t2 else 1.0)


class NKD(LogitLoss):
    """Normalised knowledge distillation: `−p_y(v) · log p_y(z) − γT² · Σ_{i≠y} p̂ᵢ(v/T) · log p̂ᵢ(z/T)`.

    Yang et al. 2023, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized
    Loss and Customized Soft Labels": the label's class y at temperature 1, weighted by the teacher's confidence in it,
    and p̂, the softmax over the other classes, at temperature T. A cross-entropy, so not 0 at agreement: its first part
    pulls the student's p_y to 1. Rows whose class the teacher does not know are left out of the mean.

    >>> from clkd.signals import Batch, Signals, Spec
    >>> loss, side, i = NKD(gamma=1.5), Spec(class_ids=(0, 1, 2), born=(0, 0, 0)), torch.tensor([0])
    >>> loss.bind(side, side)
    >>> z, v = (Signals(torch.tensor([row]), torch.arange(3)) for row in ([0.0, 0.0, 0.0], [2.0, 1.0, 0.0]))
    >>> loss(Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=1), z, v)
    tensor([1.7706])
    """

    name: ClassVar[str] = "nkd"
    labelled: ClassVar[bool] = True
    contract_optouts: ClassVar[dict[str, str]] = {
        "agreement": "the label's part, −p log q, is least where the student is sure of the label, not where it agrees"
    }

    def __init__(
        self,
        temperature: float | Schedule = 1.0,
        gamma: float = 1.5,
        few_classes: Literal["refuse", "kd"] = "refuse",
        min_confidence: float = 0.0,
    ) -> None:
        super().__init__(temperature, few_classes=few_classes, min_confidence=min_confidence)
        self.gamma = gamma

    def vacuous(self) -> str:
        return SINGLE_OTHER

    def compare(self, said: Answers, temperature: float | Tensor) -> Tensor:
        label, has_label = said.label
        log_p, log_q = (log_softmax(x, said.known).gather(1, label).squeeze(1) for x in (said.z, said.v))
        rest = others(said.z, label, said.known)
        other_part = kd_rows(said.z, said.v, temperature, variant="ce", known=rest)
        return (self.gamma * other_part - log_q.exp() * log_p).where(has_label, 0.0)


def binary(logits: Tensor, label: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`[B]` each: the logarithms of the label's probability and of all others' together.

    Args:
        logits: `[B, K]`, already divided by a temperature.
        label: `[B, 1]` columns.
        known: `[B, K]` bool, the columns that take part.

    >>> [part.exp() for part in binary(torch.tensor([[0.5, 0.2, 0.3]]).log(), torch.tensor([[1]]))]
    [tensor([0.2000]), tensor([0.8000])]
    """
    log_p = log_softmax(logits, known)
    return log_p.gather(1, label).squeeze(1), log_p.scatter(1, label, lowest(log_p)).logsumexp(1)


def others(like: Tensor, label: Tensor, known: Tensor | None = None) -> Tensor:
    """`[B, K]` bool: the columns that take part and are not the label's."""
    every = like.new_ones(like.shape, dtype=torch.bool) if known is None else known
    return every.scatter(1, label, False)
