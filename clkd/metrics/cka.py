"""Centred kernel alignment: how alike layers arrange the same rows, whatever their widths, axes and scales."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FEWEST = 4
"""Rows that a minibatch needs: of three, the debiased estimate is 0/0."""


class CKA:
    """Linear CKA of every layer with every other, from minibatches of rows.

    `HSIC(K, L) / √(HSIC(K, K) · HSIC(L, L))`, K and L the inner products of the rows in either layer (Kornblith et al.
    2019, "Similarity of Neural Network Representations Revisited"). Each HSIC is the mean over minibatches (Nguyen et
    al. 2021, "Do Wide and Deep Networks Learn the Same Things?"), so that only one minibatch is held at a time. Maps
    are laid out as vectors. 1 for layers that are equal up to rotation, shift and scale.

    Args:
        layers: how many.
        debiased: with the unbiased estimate of HSIC (Song et al. 2012, "Feature Selection via Dependence
            Maximization"), which is about 0 for layers that have nothing to do with each other (slightly below it
            half of the time), however many rows a minibatch has. Else with the biased one, `tr(KHLH) / (n − 1)²`,
            which is Kornblith's number where all rows are one minibatch, and near 1 for any two layers that are much
            wider than a minibatch has rows.

    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [4.0, 3.0], [1.0, 5.0]])
    >>> cka = CKA(2)
    >>> cka.add([x, 3 * x[:, :1]])
    >>> cka.values()
    tensor([[1.0000, 0.4199],
            [0.4199, 1.0000]], dtype=torch.float64)
    """

    def __init__(self, layers: int, debiased: bool = True, device: torch.device | str = "cpu") -> None:
        self.debiased = debiased
        self.sums = torch.zeros(layers, layers, dtype=torch.float64, device=device)
        """Sums of HSIC over the minibatches so far."""

    def add(self, features: Sequence[Tensor]) -> None:
        """One minibatch: `[n, …]` of each layer, n at least 4, about the same rows in the same order."""
        n = len(features[0])
        pairs = n * (n - 3) if self.debiased else (n - 1) ** 2
        kernels = torch.stack([centred(each, self.debiased).flatten() for each in features])
        self.sums += kernels @ kernels.T / pairs

    def values(self) -> Tensor:
        """`[layers, layers]` float64; not a number where a layer says the same of all rows."""
        own = self.sums.diagonal().sqrt()
        return self.sums / (own[:, None] * own)


def centred(features: Tensor, debiased: bool) -> Tensor:
    """`[n, n]` float64: inner products of the rows of `[n, …]`, such that the sum over the products of two is HSIC.

    Biased, up to `(n − 1)²`: the rows' mean is taken away. Debiased, up to `n (n − 3)`: the diagonal takes no part, and
    the mean over the others is taken away from each row and column (U-centring; Székely & Rizzo 2014).
    """
    x = features.flatten(1)
    x = x if x.dtype == torch.float64 else x.float()
    x = x - x.mean(0)
    kernel = (x @ x.T).double()
    if not debiased:
        return kernel
    n = len(kernel)
    sums = kernel.fill_diagonal_(0.0).sum(0)
    kernel = kernel - (sums[:, None] + sums) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    return kernel.fill_diagonal_(0.0)
