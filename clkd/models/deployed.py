"""A student for those who have nothing but its file: raw rows in, logits out."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from clkd.frozen import freeze
from clkd.models.student import Student
from clkd.models.taps import Taps
from clkd.signals import Needs


class Deployed(nn.Module):
    """A student's copy in eval mode, on the CPU and in float32, behind the normalization of its rows.

    It takes rows as a data set stores them: images `[B, C, H, W]` uint8, pixels from 0 to 255, or vectors `[B, D]`
    float32. It gives logits `[B, C]`, a column for each class that the head has. A head that answers in another way
    than it is trained (class means, discriminant analysis) answers; where the domain of a row would count, it is not
    known.

    Args:
        student: it stays as it is.
        mean, std: `[C]` on the [0, 1] scale, `[D]` of vectors: what the student's rows are normalised with.

    >>> import torch
    >>> from clkd.models.backbones.mlp import MLP
    >>> from clkd.models.heads import Linear
    >>> student = Student(MLP((1, 2, 2), hidden=(8,)), Linear(8), (1, 2, 2))
    >>> _ = student.grow((5, 2), experience=0, generator=torch.Generator())
    >>> deployed, gray = Deployed(student, torch.tensor([0.5]), torch.tensor([0.25])), torch.full((3, 1, 2, 2), 51)
    >>> torch.equal(deployed(gray.byte()), student.eval()((gray / 255 - 0.5) / 0.25))
    True
    """

    mean: Tensor
    std: Tensor

    def __init__(self, student: Student, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.student = freeze(copy.deepcopy(student)).cpu().float()
        self.student.autocast, self.student.runner = None, Taps.run
        self.images = len(student.shape) == 3
        spread = (-1, 1, 1) if self.images else (-1,)
        self.register_buffer("mean", mean.detach().cpu().float().view(spread))
        self.register_buffer("std", std.detach().cpu().float().view(spread))

    def forward(self, x: Tensor) -> Tensor:
        """The order of operations is that of `Augment.plain`, so that the bits are the same."""
        x = x.float() / 255 if self.images else x
        logits = self.student.signals((x - self.mean) / self.std, Needs()).logits
        assert logits is not None, "logits were asked for"
        return logits
