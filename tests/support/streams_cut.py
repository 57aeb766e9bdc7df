"""What tests of streams share: cutting a store as a scenario would."""

from __future__ import annotations

from typing import Any

import torch

from clkd.data.store import Store
from clkd.registry import Registry
from clkd.streams import clkd_register_streams
from clkd.streams.base import Stream

REGISTRY = Registry()
clkd_register_streams(register=REGISTRY.register_for("streams", "clkd.streams", "clkd"))

NO_BOUNDARIES: dict[str, Any] = {
    "split": {"by": "class", "experiences": 3, "blur": 20, "fuzzy": 60},
    "imbalance": {"ratio": 2},
    "online": True,
    "boundaries": False,
}
"""Keys of a scenario's stream, nobody being told where an experience ends."""
COMES_AGAIN: dict[str, Any] = {"split": {"by": "repeated", "experiences": 3, "repetition": 0.5, "rows": 40}}


def cut(store: Store, seed: int = 0, **options: Any) -> Stream:
    stream: Stream = REGISTRY.build(REGISTRY.parse("streams", options), store=store, seed=seed)
    return stream


def table(stream: Stream, classes: int = 10) -> torch.Tensor:
    """`[E, C]` how many training rows of each class come in each experience."""
    return torch.stack([torch.bincount(e.train.y[e.train.y >= 0], minlength=classes) for e in stream])
