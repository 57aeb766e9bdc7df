"""Who asks for what is known to be forgotten is told so at the start, and nobody else."""

import json
from pathlib import Path

import pytest

from clkd.scenario.document import to_yaml

CLASS = {"by": "class", "experiences": 5}
FITTED = {"kind": "fit", "model": "mlp", "epochs": 1}


def scenario(split=CLASS, head="linear", **more):
    return {
        "name": "told",
        "stream": {"dataset": "digits", "split": split},
        "student": {"model": "mlp", "head": head},
        "train": {"epochs": 1, "batch_size": 32, "optimizer": {"kind": "sgd", "lr": 0.1}},
        "tracking": {"mode": "off"},
        **more,
    }


FORGETS = {
    "fine-tuning": scenario(losses=["cross_entropy"]),
    "lwf": scenario(method="lwf"),
    "ewc": scenario(losses=["cross_entropy", {"kind": "ewc"}]),
}
KEEPS = {
    "replay": scenario(losses=["cross_entropy"], memory={"kind": "reservoir", "size": 50}),
    "the task is told": scenario({"by": "task", "experiences": 5}, losses=["cross_entropy"]),
    "domains": scenario({"by": "domain", "transform": "rotated", "experiences": 2}, losses=["cross_entropy"]),
    "classes that come again": scenario(
        {"by": "repeated", "experiences": 10, "repetition": 0.9, "first_occurrence": 0.9}, losses=["cross_entropy"]
    ),
    "one experience": scenario({"by": "class", "experiences": 1}, losses=["cross_entropy"]),
    "class means": {**scenario(method="slda"), "student": {"model": "mlp"}},
    "a teacher that knows all": scenario(
        teachers={"big": FITTED}, losses=["cross_entropy", {"kind": "kd", "between": ["student", "big"]}]
    ),
}


@pytest.mark.parametrize("name", [*FORGETS, *KEEPS])
def test_what_will_be_forgotten_is_told(name, clkd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(to_yaml({**FORGETS, **KEEPS}[name]))
    code, out, err = clkd("run", "s.yaml", "--dry-run", "--json", "-q")
    assert code == 0, err
    assert ("much will be forgotten" in json.loads(out)["description"].get("expect", "")) == (name in FORGETS)


LATE = {"name": "late", "rows": "memory", "optimizer": {"kind": "sgd", "lr": 0.1}}
VALUES = {"kind": "per_experience", "values": [1, 2, 3, 4, 5, 6]}
HOLDING = {"phases": [{**LATE, "name": "bias", "rows": "held_out", "trains": "head"}]}
TOLD = {
    "ordinary training sees most of those that phase bias holds out": {
        "split": {"by": "domain", "transform": "rotated", "experiences": 2},
        **HOLDING,
    },
    "each experience's classes among themselves": {"head": "multi"},
    "anytime accuracy counts its new classes as wrong": {
        "head": "ncm",
        "train": {**scenario()["train"], "evaluate_every": 5},
    },
    "phase late never comes: the last experience is 4": {"phases": [{**LATE, "from_experience": 5}]},
    "losses.0.weight has 6 values for 5 experiences": {"losses": [{"kind": "cross_entropy", "weight": VALUES}]},
}
SILENT = [
    {"head": "multi", "split": {"by": "task", "experiences": 5}},
    {"head": "ncm"},
    HOLDING,
    {"train": {**scenario()["train"], "evaluate_every": 5}},
    {"phases": [{**LATE, "from_experience": 4}]},
    {"losses": [{"kind": "cross_entropy", "weight": {**VALUES, "values": [1, 2, 3, 4, 5]}}]},
]


@pytest.mark.parametrize("said", [*TOLD, *range(len(SILENT))])
def test_what_may_be_taken_for_something_else_is_told(said, clkd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = TOLD[said] if isinstance(said, str) else SILENT[said]
    Path("s.yaml").write_text(to_yaml(scenario(**{"memory": {"kind": "class_balanced", "size": 50}, **options})))
    code, out, err = clkd("run", "s.yaml", "--dry-run", "--json", "-q")
    assert code == 0, err
    told = json.loads(out)["description"].get("expect", "")
    assert said in told if isinstance(said, str) else not told
