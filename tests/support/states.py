"""What a run's checkpoint holds, and whether two of them are the same to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clkd import checkpoint


def state(run: Path, name: str | None = None) -> dict[str, Any]:
    """The checkpoint `name` of a run, or its newest; without what differs between any two runs."""
    path = run / "checkpoints" / name if name else checkpoint.latest(run / "checkpoints")
    assert path is not None
    found = checkpoint.load(path)
    found["run"] = {key: value for key, value in found["run"].items() if key not in ("id", "seconds")}
    return found


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal to the last bit, and laid out alike; what is not a number equals itself."""
    assert type(a) is type(b), where
    if isinstance(a, Tensor):
        assert (a.dtype, a.stride()) == (b.dtype, b.stride()), where
        assert torch.equal(a, b) or (a.isnan() & b.isnan() | (a == b)).all(), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}.{i}")
    else:
        assert a == b or (a != a and b != b), where
