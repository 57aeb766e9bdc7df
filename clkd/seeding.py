"""One random generator per purpose, so that no part can disturb another's numbers."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, the same on every machine.

    >>> derive(0, "sampler", 2, 1)
    2821493332393051161
    >>> derive(0, "sampler", 2, 1) == derive(0, "sampler", 1, 2)
    False
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for one purpose: deriving it again gives the same draws (so resume needs no state)."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, *purpose))


def forked(device: torch.device) -> AbstractContextManager[None]:
    """Whatever is drawn or seeded within is not missed afterwards, neither on the CPU nor on `device`."""
    import torch

    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
