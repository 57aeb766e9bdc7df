"""Learning what a discriminator cannot tell from the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from clkd.errors import UserError
from clkd.losses.aligner import Aligner, Shape
from clkd.losses.base import Loss, common_columns, full_precision, logits_of
from clkd.perceptron import perceptron
from clkd.reversal import reverse
from clkd.seeding import generator
from clkd.signals import Batch, Needs, Signals, Spec

if TYPE_CHECKING:
    from clkd.schedules.base import Schedule


class Adversarial(Loss):
    """`½ · [−log σ(D(g)) − log σ(−D(f))]`, minimised by the discriminator D, with f's gradient reversed: times −λ.

    Student f, teacher g. Goodfellow et al. 2014, "Generative Adversarial Nets", eq. 1 (half of its negative), played in
    one backward pass by gradient reversal (Ganin & Lempitsky 2015); on logits as in Xu et al. 2018, "Training Shallow
    and Thin Networks for Acceleration via Knowledge Distillation with Conditional Adversarial Networks", whose D is
    told the labels, too. It is a small perceptron, drawn from a generator of its own, and optimised, moved and saved
    with the student.

    What it reads is either logits of the classes that both sides know, or the layers that `between` names: averaged
    over positions, and brought to the teacher's width by a linear projector where widths differ. When classes come, D
    reads more logits and starts afresh. It compares distributions: it says nothing of which row is which.

    The value is the discriminator's: log 2 = 0.69 where it is at a loss, less where it tells them apart. It is no
    measure of how well the student does.

    >>> import torch
    >>> loss, side, i = Adversarial(hidden=(1,)), Spec(class_ids=(0,), born=(0,)), torch.tensor([0])
    >>> loss.bind(side, side)
    >>> for parameter in loss.parameters():
    ...     _ = nn.init.zeros_(parameter)
    >>> said = Signals(torch.tensor([[1.0]]), torch.arange(1))
    >>> loss(Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=1), said, said).detach()
    tensor([0.6931])
    """

    reads_known: ClassVar[bool] = True
    contract_optouts: ClassVar[dict[str, str]] = {
        "agreement": "the value is the discriminator's: at its best it is log 2 between equals, and lower elsewhere, "
        "for the student wants it high; and one that has not learned yet gives a gradient between equals, too",
        "gradient": "the first side's is reversed on purpose",
    }
    a_columns: Tensor
    b_columns: Tensor

    def __init__(
        self,
        on: Literal["auto", "logits", "features"] = "auto",
        hidden: Sequence[int] = (64,),
        reversal: float | Schedule = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.on, self.hidden, self.reversal, self.seed = on, tuple(hidden), reversal, seed
        self.aligner = Aligner(pool="spatial")
        self.discriminator: nn.Module | None = None
        self._width = 0

    def reads(self, side: int) -> Needs:
        return Needs(logits=self.on != "features")

    def bind(self, a: Spec, b: Spec | None) -> None:
        """Look up what is compared, and make the discriminator or keep the one there is.

        Raises:
            UserError: the sides have no class in common, or one names a layer and the other does not.
        """
        assert b is not None, "adversarial has two sides"
        named = a.feature is not None, b.feature is not None
        self.taps = (a.feature or "", b.feature or "") if self.on != "logits" and any(named) else None
        if self.on == "features" or self.taps:
            width = self._layers(a, b)
        else:
            at_a, at_b = common_columns(a, b)
            if not len(at_a):
                raise UserError("adversarial: student and teacher have no class in common: name a layer on either side")
            order, width = at_a.argsort(), len(at_a)
            self.register_buffer("a_columns", at_a[order], persistent=False)
            self.register_buffer("b_columns", at_b[order], persistent=False)
        if width != self._width:
            draws = generator(self.seed, "discriminator", width)
            self.discriminator, self._width = perceptron((width, *self.hidden, 1), draws), width

    def _layers(self, a: Spec, b: Spec) -> int:
        if a.feature is None or b.feature is None:
            raise UserError("adversarial: name a layer on either side, like between: [student.stage3, external.stage3]")
        shapes: list[Shape] = [side.shape or () for side in (a, b)]
        if any(len(shape) not in (1, 3) for shape in shapes):
            raise UserError(f"adversarial: layers give {shapes}, but vectors (D) or maps (D, H, W) are needed")
        self.aligner.bind("adversarial", (a.feature, b.feature), (shapes[0], shapes[1]), self.seed)
        return shapes[1][0]

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        """`[B]`."""
        assert b is not None, "adversarial has two sides"
        f, g = self._compared(a, b)
        return self.told_apart(self._verdict(g), self._verdict(reverse(f, self.now(self.reversal, a))))

    def told_apart(self, teacher: Tensor, student: Tensor) -> Tensor:
        """`[B]`: how badly D does, given its verdicts `[B]` on both sides' rows: high should be the teacher's."""
        return 0.5 * (F.softplus(-teacher) + F.softplus(student))

    def formula(self, sides: str) -> str:
        return f"reversed D({sides})"

    def _compared(self, a: Signals, b: Signals) -> tuple[Tensor, Tensor]:
        if self.taps:
            aligned: tuple[Tensor, Tensor] = self.aligner(
                full_precision(a.features[self.taps[0]]), full_precision(b.features[self.taps[1]]).detach()
            )
            return aligned
        f = logits_of(a).index_select(1, self.a_columns)
        g = logits_of(b).detach().index_select(1, self.b_columns)
        if b.known is None:
            return f, g
        known = b.known.index_select(1, self.b_columns)
        return f.where(known, 0.0), g.where(known, 0.0)

    def _verdict(self, x: Tensor) -> Tensor:
        assert self.discriminator is not None, "whoever asks has called bind"
        verdict: Tensor = self.discriminator(x)
        return verdict.squeeze(1)
