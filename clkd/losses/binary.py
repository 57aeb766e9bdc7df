"""One yes or no for each class, as iCaRL is trained: with the labels, and with what another model said."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.losses.base import among, logits_of, take
from clkd.losses.classification import CrossEntropy
from clkd.losses.logits import Answers, LogitLoss
from clkd.signals import Batch, Signals


class BinaryCrossEntropy(CrossEntropy):
    """`−Σ_c t_c log σ(z_c) + (1 − t_c) log (1 − σ(z_c))`, t one-hot, over the classes that compete.

    Rebuffi et al. 2017, "iCaRL", alg. 3: with `over: new` it is the classification term, to which rows of old classes
    belong as examples of none; the old classes' columns are left to `binary_kd`. Unlabelled rows do not take part.

    >>> from clkd.signals import Spec
    >>> loss, i = BinaryCrossEntropy(), torch.zeros(1, dtype=torch.long)
    >>> loss.bind(Spec(class_ids=(7, 3), born=(0, 0)), None)
    >>> batch = Batch(x=i, y=torch.tensor([3]), sample_id=i, domain=i, experience=i, new=1)
    >>> loss(batch, Signals(torch.tensor([[0.0, 0.0]]), torch.tensor([7, 3])))
    tensor([1.3863])
    """

    reads_mixed: ClassVar[bool] = False
    by_task: ClassVar[bool] = False

    def __init__(self, over: Literal["auto", "all", "seen", "new"] = "auto") -> None:
        super().__init__(over)

    def formula(self, sides: str) -> str:
        return f"BCE({self.chosen}{sides.removeprefix('student')})"

    def takes(self, batch: Batch) -> Tensor:
        """Rows of classes that do not compete as well: they are examples of none."""
        return batch.y >= 0

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        logits, target = take(logits_of(a), self.columns, self.prefix), self.target[batch.y]
        places = torch.arange(len(self.columns), device=target.device)
        wanted = (target[:, None] == places).to(logits)
        return among(F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1), self.takes(batch))


class BinaryKD(LogitLoss):
    """`−Σ_c σ(v_c) log σ(z_c) + (1 − σ(v_c)) log (1 − σ(z_c))` over the common classes, teacher v, student z.

    Rebuffi et al. 2017, "iCaRL", alg. 3, the distillation term. Each class is compared by itself, so one is enough.
    With a `teacher_temperature` T it is σ(v / T) in place of σ(v), and the student's σ(z) as ever: so do van de Ven et
    al. 2022 (T = 2).

    >>> from clkd.signals import Spec
    >>> loss, side, i = BinaryKD(), Spec(class_ids=(0,), born=(0,)), torch.tensor([0])
    >>> loss.bind(side, side)
    >>> z, v = (Signals(torch.tensor([[x]]), torch.arange(1)) for x in (0.0, 2.0))
    >>> loss(Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=1), z, v)
    tensor([0.6931])
    """

    name: ClassVar[str] = "binary_kd"

    def __init__(self, rows: Literal["all", "valid"] = "all", teacher_temperature: float = 1.0) -> None:
        super().__init__(rows=rows)
        self.teacher_temperature = teacher_temperature

    @property
    def fewest(self) -> int:
        return 1

    def formula(self, sides: str) -> str:
        return f"BCE({sides})"

    def compare(self, said: Answers, temperature: float | Tensor) -> Tensor:
        wanted = (said.v / self.teacher_temperature).sigmoid()
        columns = F.binary_cross_entropy_with_logits(said.z, wanted, reduction="none")
        return (columns if said.known is None else columns.masked_fill(~said.known, 0.0)).sum(1)
