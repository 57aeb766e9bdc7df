"""Whoever shows rows to a student with statistics of each domain says where they come from, in a whole run."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from clkd.engine.execute import execute
from clkd.plugins import load_plugins
from clkd.ranks import Ranks
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest
from clkd.transfer.domain_norm import Choice, DomainNorm

SCENARIO: dict[str, Any] = {
    "name": "told",
    "stream": {
        "dataset": {"name": "digits", "rows_per_class": 10},
        "split": {"by": "domain", "domains": ["clean", {"kind": "haze", "severity": 5}, "clean"], "validation": 0.2},
    },
    "student": {"model": {"kind": "resnet8", "width": 2}, "head": "linear"},
    "losses": ["cross_entropy"],
    "memory": {"kind": "reservoir", "size": 30},
    "transfer": {"kind": "dsbn", "by": "domain"},
    "train": {"epochs": 1, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05}},
    "tracking": {"mode": "off"},
    "checkpoint": {"every_minutes": None},
}
STORED = {"augment": "none", **SCENARIO["stream"]}
PARTS: dict[str, dict[str, Any]] = {
    "importance of parameters": {
        "teachers": {"previous": "previous"},
        "losses": [
            "cross_entropy",
            {"kind": "kd", "between": ["student", "previous"]},
            *({"kind": kind, "weight": 0.1} for kind in ("ewc", "mas", "si", "rwalk")),
        ],
    },
    "class means, herding and reports": {
        "student": {**SCENARIO["student"], "head": "ncm"},
        "memory": {"kind": "herding", "size": 30},
        "report": {"rows": 50, "cka": ["penultimate"]},
        "shift": {"rows": 40, "permutations": 99},
    },
    "fusion": {
        "student": {**SCENARIO["student"], "head": "ncm"},
        "transfer": [
            SCENARIO["transfer"],
            {"kind": "delta", "first": True},
            {"kind": "interpolate", "previous": "validation", "grid": [0, 0.5]},
            {"kind": "average", "last": 2},
            "adabn",
        ],
    },
    "past selves": {
        "teachers": {
            "slow": {"kind": "ema", "decay": 0.9},
            "experts": {"kind": "snapshot", "last": 2},
            "both": {"kind": "ensemble", "members": ["slow", "student"]},
        },
        "losses": [
            "cross_entropy",
            *({"kind": "kd", "between": ["student", name]} for name in ("slow", "experts", "both")),
        ],
    },
    "rows that a step would hurt": {
        "memory": {"kind": "loss_aware", "size": 40, "retrieval": {"kind": "mir", "candidates": 20}},
        "train": {**SCENARIO["train"], "replay_batch_size": 8},
    },
    "what was said then": {
        "stream": STORED,
        "teachers": {"stored": "stored"},
        "losses": ["cross_entropy", {"kind": "kd", "between": ["student@replay", "stored"]}],
        "memory": {"kind": "class_balanced", "size": 30, "store": ["logits"]},
    },
    "gradients of two kinds of rows": {
        "transfer": SCENARIO["transfer"],
        "memory": {"kind": "gss", "size": 30},
        "student": {**SCENARIO["student"], "head": "slda"},
    },
}
MAY = {"cost.multiply_accumulates", "student._feature_shape", "shift.begin"}
"""Two show rows that are made up. The third asks whether rows are of a known domain, so the student may not know it."""


@pytest.mark.parametrize("name", PARTS)
def test_whoever_shows_rows_says_their_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    silent: list[list[str]] = []
    told: set[int] = set()
    hear, place = Choice.hear, DomainNorm._place

    def listening(choice: Choice, domain: Tensor | None, ranks: Ranks) -> None:
        told.add(id(choice))
        if domain is None:
            silent.append([f"{Path(each.filename).stem}.{each.name}" for each in traceback.extract_stack()])
        hear(choice, domain, ranks)

    def placed(norm: DomainNorm, x: Tensor) -> Tensor:
        if norm.first:
            assert id(norm.choice) in told, "asked without a word: the rows of the pass before would count"
            told.remove(id(norm.choice))
        return place(norm, x)

    monkeypatch.setattr(Choice, "hear", listening)
    monkeypatch.setattr(DomainNorm, "_place", placed)
    path = tmp_path / "told.yaml"
    path.write_text(to_yaml({**SCENARIO, **PARTS[name], "output": str(tmp_path / "run")}))
    execute(RunRequest(scenario=path, quiet=True), load_plugins())
    assert any("shift.begin" in stack for stack in silent) == ("shift" in PARTS[name]), "the monitor is not told"
    assert not [stack[-4:] for stack in silent if not MAY & {*stack} or "shift._distances" in stack]
