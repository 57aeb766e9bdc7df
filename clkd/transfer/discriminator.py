"""Learning what a discriminator of domains cannot tell apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clkd.perceptron import perceptron
from clkd.reversal import reverse
from clkd.seeding import generator
from clkd.signals import Batch, Signals
from clkd.transfer.domains import LOGITS, Between, Target
from clkd.transfer.uncertainty import entropy

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student
    from clkd.schedules.base import Progress, Schedule


class Adversary(Between):
    """A strategy with a discriminator of its own, which is made for what it reads, optimised, moved and saved.

    The student's gradient is reversed, times `reversal · (2 / (1 + exp(−ramp · p)) − 1)`, p from 0 to 1 over the
    experience. With `ramp` 0 it is `reversal` all the time.
    """

    def __init__(
        self,
        layers: tuple[str, ...],
        target: Target = "new",
        hidden: Sequence[int] = (64, 64),
        reversal: float | Schedule = 1.0,
        ramp: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__(layers, target)
        self.hidden, self.reversal, self.ramp, self.seed = tuple(hidden), reversal, ramp, seed
        self.discriminator: nn.Module | None = None
        self.widths: tuple[int, ...] = ()

    @property
    def needs_boundaries(self) -> bool:
        """The ramp runs over an experience."""
        return self.ramp > 0

    def begin(self, experience: Experience, student: Student) -> None:
        self.make(widths_of(student, self.layers))

    def make(self, widths: tuple[int, ...]) -> None:
        """A fresh discriminator for layers of these widths, unless the one there is fits."""
        if widths != self.widths:
            self.widths = widths
            wide = self.input_width(widths)
            draws = generator(self.seed, "discriminator", *widths)
            self.discriminator = perceptron((wide, *self.hidden, 1), draws) if wide else None

    def input_width(self, widths: tuple[int, ...]) -> int:
        """How many numbers the discriminator is told of a row."""
        return sum(widths)

    def forward(self, batch: Batch, a: Signals) -> Tensor | None:
        self._now = self.strength(a)
        return super().forward(batch, a)

    def strength(self, a: Signals) -> float | Tensor:
        """What the student's gradient is reversed with."""
        reversal = self.now(self.reversal, a)
        return reversal if self.progress is None or not self.ramp else reversal * ramped(self.progress, self.ramp)

    def verdict(self, x: Tensor) -> Tensor:
        """`[n]`: high where it takes the row for one of the source."""
        assert self.discriminator is not None, "whoever asks has called begin"
        said: Tensor = self.discriminator(x)
        return said.squeeze(1)

    def get_extra_state(self) -> dict[str, Any]:
        """What the discriminator was made for, so that a fresh strategy can take its weights."""
        return {"widths": list(self.widths)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.make(tuple(state["widths"]))


class DANN(Adversary):
    """`½ · [mean −log σ(D(f_s)) + mean −log σ(−D(f_t))]`, minimised by D, with the gradient reversed for the student.

    Ganin et al. 2016, "Domain-Adversarial Training of Neural Networks", eq. 9-10 and the schedule of §5.2.2; half, and
    the mean of each side, so that unequal numbers of rows do not matter. In the paper p runs over all of training; here
    over each experience. The value is the discriminator's: log 2 = 0.69 where it is at a loss.
    """

    def __init__(
        self,
        feature: str = "penultimate",
        target: Target = "new",
        hidden: Sequence[int] = (64, 64),
        reversal: float | Schedule = 1.0,
        ramp: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__((feature,), target, hidden, reversal, ramp, seed)

    def compare(self, source: list[Tensor], target: list[Tensor]) -> Tensor:
        s, t = (self.verdict(reverse(side[0], self._now)) for side in (source, target))
        return 0.5 * (F.softplus(-s).mean() + F.softplus(t).mean())


class CDAN(Adversary):
    """As `DANN`, but D is told `f ⊗ softmax(z)`: what a row is like, and what it is taken for.

    Long et al. 2018, "Conditional Adversarial Domain Adaptation", eq. 4-8. Where the product has more than `random`
    numbers, D is told `(R_f f) ⊙ (R_p p) / √random` instead, R fixed and drawn once. With `entropy` (CDAN+E), rows are
    weighted by `1 + e^(−H(p))`, brought to the mean 1 in each domain. No gradient comes by way of p, as in the authors'
    code, nor of the weights, as in the Transfer Learning Library; in the authors' code theirs comes, reversed as f's.
    When classes come, D starts afresh.
    """

    others: ClassVar[float | None] = None
    random_f: Tensor
    random_p: Tensor

    def __init__(
        self,
        feature: str = "penultimate",
        target: Target = "new",
        hidden: Sequence[int] = (64, 64),
        reversal: float | Schedule = 1.0,
        ramp: float = 10.0,
        entropy: bool = True,
        random: int = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__((feature, LOGITS), target, hidden, reversal, ramp, seed)
        self.entropy, self.random = entropy, random
        self.register_buffer("random_f", torch.empty(0), persistent=False)
        self.register_buffer("random_p", torch.empty(0), persistent=False)

    def input_width(self, widths: tuple[int, ...]) -> int:
        return min(math.prod(widths), self.random) if widths else 0

    def make(self, widths: tuple[int, ...]) -> None:
        if widths != self.widths and math.prod(widths) > self.random:
            draws = generator(self.seed, "multilinear", *widths)
            self.random_f, self.random_p = (torch.randn(width, self.random, generator=draws) for width in widths)
        super().make(widths)

    def compare(self, source: list[Tensor], target: list[Tensor]) -> Tensor:
        return 0.5 * (self._side(source, -1) + self._side(target, 1))

    def _side(self, said: list[Tensor], sign: int) -> Tensor:
        features, logits = said
        p = logits.detach().softmax(1)
        rows = F.softplus(sign * self.verdict(reverse(self.joint(features, p), self._now)))
        if not self.entropy:
            return rows.mean()
        weight = 1 + (-entropy(logits.detach())).exp()
        return (weight * rows).sum() / weight.sum()

    def joint(self, f: Tensor, p: Tensor) -> Tensor:
        """`[n, D]` and `[n, C]` to the `[n, …]` that D is told."""
        if math.prod(self.widths) <= self.random:
            return (f[:, :, None] * p[:, None]).flatten(1)
        return (f @ self.random_f.to(f)) * (p @ self.random_p.to(p)) / math.sqrt(self.random)


def widths_of(student: Student, layers: tuple[str, ...]) -> tuple[int, ...]:
    """How many numbers each layer has for a row, once averaged over positions."""
    return tuple(
        len(student.class_ids) if layer == LOGITS else (student.spec(layer).shape or (0,))[0] for layer in layers
    )


def ramped(progress: Progress, ramp: float) -> float:
    """`2 / (1 + exp(−ramp · p)) − 1`, p how much of the experience is over.

    >>> from clkd.schedules.base import Progress
    >>> [round(ramped(Progress(epochs=2, epoch_steps=5, epoch_step=step), 10.0), 3) for step in (0, 1, 4)]
    [0.0, 0.462, 0.964]
    """
    return 2 / (1 + math.exp(-ramp * progress.experience_step / progress.experience_steps)) - 1
