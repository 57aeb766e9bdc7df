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
