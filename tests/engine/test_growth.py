"""However long a stream is, a run holds no more after an experience than after the one before."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clkd import hookimpl
from clkd.engine.execute import execute
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

SCENARIO: dict[str, Any] = {
    "name": "long",
    "stream": {
        "dataset": {"name": "digits", "rows_per_class": 40},
        "split": {"by": "data", "experiences": 8},
    },
    "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
    "teachers": {"previous": "previous", "slow": "ema"},
    "losses": [
        "cross_entropy",
        {"kind": "kd", "between": ["student", "previous"]},
        {"kind": "kd", "between": ["student", "slow"]},
        {"kind": "relation", "between": ["student", "previous"]},
    ],
    "memory": {"kind": "class_balanced", "size": 30},
    "transfer": {"kind": "coral", "weight": 0.1},
    "train": {"epochs": 2, "batch_size": 16, "optimizer": {"kind": "adam", "lr": 0.01}, "keep_optimizer": True},
}


@pytest.fixture
def nothing_before() -> Iterator[None]:
    """What earlier tests left in this process is not counted."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Census:
    """Counts all tensors, and their bytes, at each experience's end."""

    def __init__(self) -> None:
        self.found: list[tuple[int, int]] = []

    @hookimpl
    def clkd_experience_end(self) -> None:
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some objects complain when they are asked what they are
            storages = [o.untyped_storage() for o in gc.get_objects() if isinstance(o, torch.Tensor)]
        self.found.append((len(storages), sum({s.data_ptr(): s.nbytes() for s in storages}.values())))


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_before")
def test_no_tensor_is_left_behind(tmp_path: Path) -> None:
    plugins, census = load_plugins(), Census()
    plugins.manager.register(census)
    path = tmp_path / "long.yaml"
    path.write_text(to_yaml({**SCENARIO, "output": str(tmp_path / "run"), "tracking": {"mode": "offline"}}))
    execute(RunRequest(scenario=path, quiet=True), plugins)
    first, *later = census.found[2:]  # the previous self comes with the second experience
    assert len(later) == 5
    assert min(first) > 0
    assert set(later) == {first}
