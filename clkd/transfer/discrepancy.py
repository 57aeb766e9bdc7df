"""Maximum mean discrepancy: how far two sets of rows are apart, seen through Gaussian kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from clkd.transfer.domains import LOGITS, Between, Target

BANDWIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
PROBABILITIES = 1.68
"""σ² of the kernel on probabilities in JAN."""
Estimator = Literal["biased", "unbiased"]


class MMD(Between):
    """`Σ_l [mean k(s, s') + mean k(t, t') − 2 mean k(s, t)]` over layers l, source rows s and target rows t.

    Gretton et al. 2012, "A Kernel Two-Sample Test", eq. 3 (`unbiased`) and 5 (`biased`); over several layers as in Long
    et al. 2015, "Learning Transferable Features with Deep Adaptation Networks" (DAN), with all pairs where the paper
    takes every second one, and equal weights where it learns them. The kernel is the mean of Gaussians
    `exp(−‖x − y‖² / (2 α m))` over the `bandwidths` α; m is the mean squared distance between two rows of the batch,
    taken as given. The two sides may have different numbers of rows; `unbiased` needs two on each.
    """

    def __init__(
        self,
        layers: Sequence[str] = ("penultimate", "logits"),
        bandwidths: Sequence[float] = BANDWIDTHS,
        estimator: Estimator = "biased",
        target: Target = "new",
    ) -> None:
        super().__init__(tuple(layers), target)
        self.bandwidths, self.estimator = tuple(bandwidths), estimator
        self.least = 2 if estimator == "unbiased" else 1

    def compare(self, source: list[Tensor], target: list[Tensor]) -> Tensor:
        kernels = [gaussian(torch.cat(pair), self.bandwidths) for pair in zip(source, target, strict=True)]
        return torch.stack([discrepancy(k, len(source[0]), self.estimator) for k in kernels]).sum()


class JAN(MMD):
    """The same with the product of all layers' kernels: layers jointly, and not each by itself.

    Long et al. 2017, "Deep Transfer Learning with Joint Adaptation Networks", eq. 9, with all pairs where the paper
    takes every second one. As in the authors' code, `logits` are taken as probabilities, whose kernel has one bandwidth
    of its own (1.68, the σ² of `exp(−‖p − q‖² / σ²)`; from memory, not checked).
    """

    others: ClassVar[float | None] = None

    def compare(self, source: list[Tensor], target: list[Tensor]) -> Tensor:
        joint = torch.ones((), dtype=source[0].dtype, device=source[0].device)
        for layer, *pair in zip(self.layers, source, target, strict=True):
            rows = torch.cat(pair)
            if layer == LOGITS:
                joint = joint * (-squared_distances(rows.softmax(1)) / PROBABILITIES).exp()
            else:
                joint = joint * gaussian(rows, self.bandwidths)
        return discrepancy(joint, len(source[0]), self.estimator)


def one_layer(
    feature: str = "penultimate",
    bandwidths: Sequence[float] = BANDWIDTHS,
    estimator: Estimator = "biased",
    target: Target = "new",
) -> MMD:
    """MMD of one layer."""
    return MMD((feature,), bandwidths, estimator, target)


def gaussian(rows: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """`[N, N]` from `[N, D]`: the mean of the kernels.

    Rows that are all the same but for rounding are at no distance: measured by that, the least of errors would be far.

    >>> gaussian(torch.tensor([[0.0], [2.0]]), (0.5,))
    tensor([[1.0000, 0.3679],
            [0.3679, 1.0000]])
    """
    squared = squared_distances(rows)
    count, precision = len(rows), torch.finfo(rows.dtype)
    least = (precision.eps * rows.detach().square().sum(1).mean()).clamp(min=precision.tiny)
    typical = (squared.detach().sum() / max(count * (count - 1), 1)).maximum(least)
    return torch.stack([(-squared / (2 * bandwidth * typical)).exp() for bandwidth in bandwidths]).mean(0)


def squared_distances(rows: Tensor) -> Tensor:
    """`[N, N]`. By products, which takes no `[N, N, D]`; about the mean, so that less cancels."""
    centred = rows - rows.mean(0)
    lengths = centred.square().sum(1)
    return (lengths[:, None] + lengths - 2 * centred @ centred.T).clamp(min=0)


def discrepancy(kernel: Tensor, sources: int, estimator: Estimator) -> Tensor:
    """The discrepancy between the first `sources` rows and the others, from their kernel `[N, N]`. A scalar.

    >>> kernel = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> discrepancy(kernel, 2, "biased")  # (1 + 0.5 + 0.5 + 1) / 4 + 1
    tensor(1.7500)
    """
    ss, tt, st = kernel[:sources, :sources], kernel[sources:, sources:], kernel[:sources, sources:]
    if estimator == "biased":
        return ss.mean() + tt.mean() - 2 * st.mean()
    return _apart(ss) + _apart(tt) - 2 * st.mean()


def _apart(kernel: Tensor) -> Tensor:
    """The mean over pairs of different rows."""
    count = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (count * (count - 1))
