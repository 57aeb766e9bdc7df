"""Supervised contrastive learning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.errors import UserError
from clkd.losses.aligner import averaged
from clkd.losses.base import Loss, among, full_precision, is_prefix, logits_of, take
from clkd.losses.taps import TAP
from clkd.signals import Batch, Needs, Signals, Spec

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student

SHORTEST = 1e-3
"""What is shorter is not brought to length 1: near 0, the gradient would have no bound."""


class SupCon(Loss):
    """`−mean_{p ∈ P(i)} log (exp(z_i·z_p/τ) / Σ_{a ≠ i} exp(z_i·z_a/τ))`: be like all rows of your own class.

    Khosla et al. 2020, "Supervised Contrastive Learning", eq. 2 (`L_out`): z are of unit length, P(i) are the views of
    all other rows of i's class in the batch, and the other views of i itself. A row's value is the mean over its views.
    Rows without any positive, which single views can be, do not take part. A row without a label is of no known class:
    its positives are its own other views, as in SimCLR (Chen et al. 2020), and it is a negative to all other rows.

    What is compared is a layer, the penultimate one unless `between` names another, averaged over positions (the paper
    has a perceptron after it, which is thrown away afterwards); or logits: of the columns `seen` so far, of `all`, or
    of the `future`, those of classes to come in a `fixed` head. These are the preparation of future heads of Boschini
    et al. 2022 (X-DER): so that what will be learned there finds classes told apart. Its authors' code compares the
    columns of each experience to come by themselves, and takes the mean. Here they are cut into as many blocks, in the
    order of the head and as even as can be, of two columns at least: nobody is told which class will come when.

    >>> i = torch.arange(3)
    >>> batch = Batch(x=i, y=torch.tensor([0, 0, 1]), sample_id=i, domain=i, experience=i, new=3)
    >>> loss = SupCon(temperature=1.0, over="seen")
    >>> loss.bind(Spec(class_ids=(0, 1), born=(0, 0)), None)
    >>> loss(batch, Signals(torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 1.0]]), torch.arange(2)))
    tensor([0.4699, 0.4699, 0.0000])
    """

    sides = 1
    columns: Tensor
    """`[K]` those that are compared."""

    def __init__(
        self,
        temperature: float = 0.1,
        over: Literal["features", "future", "seen", "all"] = "features",
        views: int = 2,
    ) -> None:
        super().__init__()
        self.temperature, self.over, self.views = temperature, over, views
        self.tap, self.blocks = TAP, 1

    @property
    def needs_boundaries(self) -> bool:
        """They tell how many experiences are to come."""
        return self.over == "future"

    def reads(self, side: int) -> Needs:
        features = self.over == "features"
        return Needs(logits=not features, features=(TAP,) if features else ())

    def bind(self, a: Spec, b: Spec | None) -> None:
        """Raises `UserError` where there is one column, or none: a single number has no direction."""
        self.tap, self.blocks = a.feature or TAP, 1
        at = [i for i, born in enumerate(a.born) if self.over == "all" or (born < 0) == (self.over == "future")]
        if self.over != "features" and len(at) < 2:
            raise UserError(f"supcon: over: {self.over}: {_too_few(self.over, len(at))}")
        self.register_buffer("columns", torch.tensor(at, dtype=torch.long), persistent=False)
        self.prefix = is_prefix(self.columns)

    def begin(self, experience: Experience, student: Student) -> None:
        if self.over == "future":
            to_come = experience.count - experience.index - 1
            self.blocks = max(min(to_come, len(self.columns) // 2), 1)

    def formula(self, sides: str) -> str:
        return f"SupCon({self.over}{sides.removeprefix('student')}, {self.views} views)"

    def takes(self, batch: Batch) -> Tensor | None:
        return positives(batch.y, 1).any(1) if self.views == 1 else None

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        said = (a, *a.views[: self.views - 1])
        alike = positives(batch.y, len(said))
        z = torch.cat([self._compared(each) for each in said])
        blocks = z.tensor_split(self.blocks, 1)
        values = torch.stack([contrasted(block, alike, self.temperature) for block in blocks]).mean(0)
        return among(values.view(len(said), -1).mean(0), alike[: len(batch)].any(1))

    def _compared(self, said: Signals) -> Tensor:
        """`[B, D]`."""
        if self.over == "features":
            return averaged(full_precision(said.features[self.tap]), ())
        return take(logits_of(said), self.columns, self.prefix)


def positives(y: Tensor, views: int) -> Tensor:
    """`[V·B, V·B]` bool, view by view: which are of one class (`[B]`, -1 for none), or of one row, but not the same.

    >>> positives(torch.tensor([3, 3, -1]), 1).int()
    tensor([[0, 1, 0],
            [1, 0, 0],
            [0, 0, 0]], dtype=torch.int32)
    """
    row = torch.arange(len(y), device=y.device)
    alike = ((y[:, None] == y) & (y >= 0)) | (row[:, None] == row)
    return alike.repeat(views, views).fill_diagonal_(False)


def contrasted(z: Tensor, alike: Tensor, temperature: float) -> Tensor:
    """`[N]`: how badly each row finds those that are `alike` (`[N, N]` bool) by its direction `z` (`[N, D]`)."""
    z = F.normalize(z, dim=1, eps=SHORTEST)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    cosine = (z @ z.T / temperature).masked_fill(itself, torch.finfo(z.dtype).min)
    return -cosine.log_softmax(1).where(alike, 0.0).sum(1) / alike.sum(1).clamp(min=1)


def _too_few(over: str, count: int) -> str:
    told = "a single column has no direction" if count else "there is no column"
    return f"{told} (those of classes to come are in a head that is fixed)" if over == "future" else told
