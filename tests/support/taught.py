"""Small scenarios with a teacher `big`, composed: what it says, and what the cache holds of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clkd.engine.compose import Composer, Composition
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load
from clkd.signals import Batch, Needs

SCENARIO: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 12}, "split": {"by": "class", "experiences": 2}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
    "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "big"]}],
    "train": {"optimizer": {"kind": "sgd", "lr": 0.05}},
}
MLP = {"kind": "mlp", "hidden": [12]}
FIT = {"kind": "fit", "model": MLP, "epochs": 2, "batch_size": 16}


def composer(home: Path, teacher: dict[str, Any], **sections: Any) -> Composer:
    """For `SCENARIO` with this teacher and these sections; its cache lies in `home`."""
    registry = load_plugins().registry
    (home / "cache").mkdir(exist_ok=True)
    path = home / "s.yaml"
    path.write_text(to_yaml({**SCENARIO, **sections, "teachers": {"big": teacher}}))
    loaded = load(path, [], registry)
    return Composer(loaded.scenario, registry, torch.device("cpu"), home / "cache", loaded.base)


def compose(home: Path, teacher: dict[str, Any], **sections: Any) -> Composition:
    return composer(home, teacher, **sections).compose()


def rows_of(composition: Composition, n: int = 5) -> Batch:
    """The first training rows, as the student is shown them in evaluation."""
    rows = composition.stream[0].train.gather(torch.arange(n))
    seen: Batch = rows.seen_as(composition.parts.augment.plain(rows.x))
    return seen


def logits(composition: Composition, n: int = 5) -> Tensor:
    """What the teacher says about them."""
    said = composition.parts.teachers["big"].signals(rows_of(composition, n), Needs()).logits
    assert said is not None
    return said


def cached(home: Path) -> list[Path]:
    """Fitted teachers in the cache."""
    return sorted((home / "cache" / "teachers").glob("*.safetensors"))
