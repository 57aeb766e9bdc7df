"""Learning from another model's answers: knowledge distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from clkd.losses.base import common_columns
from clkd.losses.divergence import Variant, kd_rows, standardized
from clkd.losses.logits import Answers, LogitLoss
from clkd.signals import Spec

if TYPE_CHECKING:
    from clkd.losses import RowChoice
    from clkd.schedules.base import Schedule

STANDARD_PAIR = "logit standardisation turns any two logits into ±0.7071, the same for every row"


class KD(LogitLoss):
    """Knowledge distillation: `T² · KL(softmax(v/T) ‖ softmax(z/T))`, teacher v, student z, over common classes.

    Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", §2: with the T² the gradient keeps its
    size while T changes. Columns are matched by global class id; a class that only one side knows takes no part. With
    `scope: per_task` each task's classes have their own softmax and the tasks' values are added, as Learning without
    Forgetting does it (Li & Hoiem 2016, eq. 3; the implementations of Avalanche and of van de Ven). With `standardize`
    both sides' logits first get mean 0 and standard deviation 1 over the classes (Sun et al. 2024).

    `preset` names the tool whose formula the other options spell out (`clkd.losses.KD_PRESETS`); it is a label here.

    >>> import torch
    >>> from clkd.signals import Batch, Signals
    >>> loss, side, i = KD(), Spec(class_ids=(0, 1), born=(0, 0)), torch.tensor([0])
    >>> loss.bind(side, side)
    >>> z, v = (Signals(torch.tensor([row]), torch.arange(2)) for row in ([0.0, 0.0], [2.0, 0.0]))
    >>> loss(Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=1), z, v)
    tensor([0.4438])
    """

    name: ClassVar[str] = "kd"

    def __init__(
        self,
        temperature: float | Schedule = 2.0,
        variant: Variant = "kl",
        convention: Literal["t2", "plain"] = "t2",
        scope: Literal["auto", "joint", "per_task"] = "auto",
        over: Literal["seen", "all", "newest"] = "seen",
        rows: RowChoice = "all",
        top_k: int | None = None,
        standardize: bool = False,
        few_classes: Literal["refuse", "kd"] = "refuse",
        preset: str | None = None,
        min_confidence: float = 0.0,
    ) -> None:
        super().__init__(temperature, rows, few_classes, convention == "t2", min_confidence)
        self.variant, self.scope, self.over = variant, scope, over
        self.top_k, self.standardize, self.preset = top_k, standardize, preset

    @property
    def fewest(self) -> int:
        return 1 if self.variant == "mse" else 2

    def vacuous(self) -> str:
        return STANDARD_PAIR if self.standardize else ""

    def per_task(self, a: Spec) -> bool:
        return a.task_aware if self.scope == "auto" else self.scope == "per_task"

    def formula(self, sides: str) -> str:
        return f"{'T²' if self.t2 and self.variant != 'mse' else ''}{self.variant.upper()}({sides})"

    def common(self, a: Spec, b: Spec) -> tuple[Tensor, Tensor]:
        at_a, at_b = common_columns(a, b, unseen=self.over == "all" and not self.per_task(a))
        if self.over != "newest":
            return at_a, at_b
        newest = torch.tensor(a.born)[at_a] == max(a.born)
        return at_a[newest], at_b[newest]

    def compare(self, said: Answers, temperature: float | Tensor) -> Tensor:
        z, v = said.z, said.v
        if self.standardize:
            z, v = standardized(z, said.known), standardized(v, said.known)
        return kd_rows(z, v, temperature, self.variant, self.t2, said.known, self.top_k)

    def _as_kd(self, said: Answers, temperature: float | Tensor) -> Tensor:
        return kd_rows(said.z, said.v, temperature, self.variant, self.t2, said.known, self.top_k)
