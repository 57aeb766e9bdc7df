"""Regularisers beside fusion, which moves the student when an experience's training is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from states import state

from clkd.engine.execute import execute
from clkd.plugins import Plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

KINDS = ("si", "rwalk", "mas", "ewc")
HOLDING = [{"kind": kind, **({"mode": "online"} if kind == "ewc" else {})} for kind in KINDS]
BASE: dict[str, Any] = {
    "name": "fused",
    "stream": {
        "dataset": {"name": "digits", "rows_per_class": 20},
        "split": {"by": "domain", "transform": "rotated", "experiences": 2},
    },
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "losses": ["cross_entropy", *HOLDING],
    "train": {"batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.1}},
    "tracking": {"mode": "off"},
}


@pytest.fixture(scope="module")
def ends(plugins: Plugins, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What runs of two experiences end with. The second begins with the same weights in all of them."""
    return {name: end(plugins, tmp_path_factory.mktemp(name), name) for name in ("none", "interpolate", "average")}


def end(plugins: Plugins, place: Path, transfer: str) -> dict[str, Any]:
    (place / "s.yaml").write_text(to_yaml({**BASE, "transfer": transfer, "output": str(place / "run")}))
    execute(RunRequest(scenario=place / "s.yaml", quiet=True), plugins)
    found = state(place / "run")
    kept = {kind: found["terms"][kind]["state"]["_extra_state"]["kept"] for kind in KINDS}
    return {"student": found["student"]["state"], **kept}


@pytest.mark.parametrize("fusion", ["interpolate", "average"])
def test_what_followed_the_way_of_training_does_not_see_fusion(ends, fusion):
    for kind in ("si", "rwalk"):
        for name, importance in ends["none"][kind]["importance"].items():
            assert torch.equal(ends[fusion][kind]["importance"][name], importance), (kind, name)


@pytest.mark.parametrize("fusion", ["interpolate", "average"])
def test_all_hold_where_training_goes_on(ends, fusion):
    assert not torch.equal(ends[fusion]["student"]["head.weight"], ends["none"]["student"]["head.weight"])
    for kind in KINDS:
        for name, anchor in ends[fusion][kind]["anchor"].items():
            assert torch.equal(anchor, ends[fusion]["student"][name]), (kind, name)


@pytest.mark.parametrize("memory", ["reservoir", "random"])
def test_balanced_statistics_are_of_old_rows_too_and_weights_are_the_same(plugins, tmp_path, memory):
    """A memory that has new rows already, and one that has none yet."""
    base = {
        **BASE,
        "losses": ["cross_entropy"],
        "student": {"model": {"kind": "resnet8", "width": 2}, "head": "linear"},
        "memory": {"kind": memory, "size": 30},
    }
    students = []
    for reestimate in (True, "balanced"):
        place = tmp_path / str(reestimate)
        place.mkdir()
        transfer = {"kind": "interpolate", "reestimate": reestimate}
        (place / "s.yaml").write_text(to_yaml({**base, "transfer": transfer, "output": str(place / "run")}))
        execute(RunRequest(scenario=place / "s.yaml", quiet=True), plugins)
        students.append(state(place / "run")["student"]["state"])
    differing = {name for name, tensor in students[0].items() if not torch.equal(tensor, students[1][name])}
    counts = {name for name in students[0] if "tracked" in name}  # of batches, which no norm of ours goes by
    assert differing - counts == {name for name in students[0] if "running" in name}
