"""Learning a teacher's decision as if it were the label."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from clkd.losses import RowChoice
from clkd.losses.divergence import log_softmax
from clkd.losses.logits import Answers, LogitLoss


class HardLabel(LogitLoss):
    """Hard distillation: `−log softmax(z)_ŷ`, ŷ the class that the teacher finds most likely among the common ones.

    Touvron et al. 2021, "Training data-efficient image transformers & distillation through attention", §3, where
    half of the loss is this and half the labels' cross-entropy: give both terms the weight 0.5. (DeiT's own students
    say it with a second head, on a distillation token; here the student's one head says both.) With `threshold`, a row
    counts 0 where the teacher's probability of ŷ is below it, while the mean stays over all rows, as for pseudo-labels
    in FixMatch (Sohn et al. 2020): it is the base's `min_confidence`. With `rows: unlabelled` the decision stands for
    the label that a row does not have, so that a student that is told its task learns one among that task's classes.

    >>> import torch
    >>> from clkd.signals import Batch, Signals, Spec
    >>> loss, side, i = HardLabel(), Spec(class_ids=(0, 1), born=(0, 0)), torch.tensor([0])
    >>> loss.bind(side, side)
    >>> z, v = (Signals(torch.tensor([row]), torch.arange(2)) for row in ([0.0, 0.0], [2.0, 0.0]))
    >>> loss(Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=1), z, v)
    tensor([0.6931])
    """

    name: ClassVar[str] = "hard"
    contract_optouts: ClassVar[dict[str, str]] = {
        "agreement": "it is least where the student is sure of the teacher's choice, not where both are equally sure"
    }

    def __init__(self, threshold: float = 0.0, rows: RowChoice = "all") -> None:
        super().__init__(rows=rows, min_confidence=threshold)

    @property
    def own_task(self) -> bool:
        return self.rows == "unlabelled"

    def compare(self, said: Answers, temperature: float | Tensor) -> Tensor:
        choice = log_softmax(said.v, said.known).argmax(1, keepdim=True)
        values = -log_softmax(said.z, said.known).gather(1, choice).squeeze(1)
        return values if said.known is None else values.where(said.known.any(1), 0.0)
