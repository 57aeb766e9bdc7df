"""Random numbers that belong to a row: made of its pixels, so that they are the same whatever stands beside it."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

MASK = 0xFFFFFFFF


class Drawn:
    """Counter-based draws for each of some rows: the i-th number is a hash of i, the row's pixels and the purpose.

    Integer arithmetic alone, so that all devices give the same numbers. Rows with the same pixels draw the same.

    Args:
        x: `[N, …]` uint8.
        purpose: what the numbers are for; another purpose draws others.

    >>> x = torch.arange(6, dtype=torch.uint8).view(2, 1, 1, 3)
    >>> both, one = Drawn(x, "noise").below(100, 4), Drawn(x[1:], "noise").below(100, 4)
    >>> torch.equal(both[1:], one)
    True
    """

    def __init__(self, x: Tensor, purpose: str) -> None:
        pixels = x.flatten(1)
        places = torch.arange(1, pixels.shape[1] + 1, device=x.device)
        total = (pixels.long() * _mixed(places)).sum(1)  # below 2^63: 8 and 32 bits, and fewer than 2^23 pixels
        self.low, self.high = _mixed(total & MASK)[:, None], (total >> 32)[:, None]
        self.salt = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "big")

    def below(self, most: int, count: int) -> Tensor:
        """`[N, count]` int64, evenly from 0 to `most` - 1; `most` is far below 2^32."""
        counter = _mixed((torch.arange(count, device=self.low.device) + self.salt) & MASK)
        return _mixed(_mixed(self.low ^ counter).add_(self.high).bitwise_and_(MASK)).mul_(most) >> 32

    def uniform(self, count: int) -> Tensor:
        """`[N, count]` float32, evenly from [-1, 1): multiples of 2^-16."""
        return self.below(2**17, count).to(torch.float32).div_(2**16).sub_(1)


def _mixed(h: Tensor) -> Tensor:
    """A permutation of the 32-bit numbers (Wellons' hash prospector, 15-12-15). Products stay below 2^63."""
    h = (h ^ (h >> 15)).mul_(0x2C1B3C6D).bitwise_and_(MASK)
    h = h.bitwise_xor_(h >> 12).mul_(0x297A2D39).bitwise_and_(MASK)
    return h.bitwise_xor_(h >> 15)
