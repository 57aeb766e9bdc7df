"""Schedules in a run: what they read, where they are refused, and that weighted terms add up."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from clkd import checkpoint
from clkd.engine.execute import execute
from clkd.errors import UserError
from clkd.plugins import Plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

BASE: dict[str, Any] = {
    "name": "tiny",
    "stream": {
        "dataset": {"name": "digits", "rows_per_class": 20},
        "split": {"by": "class", "experiences": 3, "validation": 0.25},
    },
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "teachers": {"previous": "previous"},
    "train": {"epochs": 2, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.2}},
    "tracking": {"mode": "off"},
}
KD = {"kind": "kd", "between": ["student", "previous"]}
ONE_STEP = {**BASE["train"], "batch_size": 512, "epochs": 5}
"""Each epoch is one step, so that an epoch's means are that step's numbers."""


def run(plugins: Plugins, home: Path, changes: dict[str, Any], limit: int | None = None) -> Path:
    scenario = home / "s.yaml"
    scenario.write_text(to_yaml({**BASE, **changes, "output": str(home / "run")}))
    execute(RunRequest(scenario=scenario, limit_experiences=limit, quiet=True), plugins)
    return home / "run"


def epochs(run: Path, experience: int) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["metrics"] for line in lines if (line["event"], line.get("experience")) == ("epoch", experience)]


def test_feature_and_output_terms_add_up_with_a_schedule_on_each(plugins: Plugins, tmp_path: Path) -> None:
    """λ_F(t) · L_F + λ_O(t) · L_O + CE, each with its own λ, step by step."""
    features = {
        "kind": "features",
        "between": ["student.penultimate", "previous.penultimate"],
        "weight": {"kind": "linear", "start": 2.0, "end": 0.5, "experiences": 3},
    }
    output = {**KD, "weight": {"kind": "cosine", "start": 0.0, "end": 3.0, "epochs": 4}}
    made = run(plugins, tmp_path, {"losses": ["cross_entropy", features, output], "train": ONE_STEP})
    for experience in (1, 2):
        for t, told in enumerate(epochs(made, experience)):
            lambda_f = 2.0 - 1.5 * (experience + t / 5) / 3
            lambda_o = 1.5 * (1 - math.cos(math.pi * min(t / 4, 1)))
            terms = [told[f"train/loss_{name}"] for name in ("cross_entropy", "features_previous", "kd_previous")]
            expected = terms[0] + lambda_f * terms[1] + lambda_o * terms[2]
            assert told["train/loss"] == pytest.approx(expected, rel=1e-5)
            assert t == 0 or min(terms) > 0


def test_forgetting_is_read_from_validation_rows(plugins: Plugins, tmp_path: Path) -> None:
    kd = {**KD, "weight": {"kind": "forgetting", "value": 0.5, "gain": 3.0}}
    train = {**ONE_STEP, "epochs": 30}
    made = run(plugins, tmp_path, {"losses": ["cross_entropy", kd], "train": train})
    accuracy = checkpoint.load(made / "checkpoints" / "exp_001")["run"]["record"]["validation"]
    forgot = accuracy[0][0] - accuracy[1][0]
    assert forgot > 0.1, "else nothing would be proved"
    for experience, weight in [(1, 0.5), (2, 0.5 * (1 + 3 * forgot))]:
        for told in epochs(made, experience):
            expected = told["train/loss_cross_entropy"] + weight * told["train/loss_kd_previous"]
            assert told["train/loss"] == pytest.approx(expected, rel=1e-5)


def test_uncertainty_adds_half_the_log_variance_and_learns_it(plugins: Plugins, tmp_path: Path) -> None:
    changes = {"teachers": {}, "losses": [{"kind": "cross_entropy", "weight": "uncertainty"}], "train": ONE_STEP}
    made = run(plugins, tmp_path, changes, limit=1)
    s = torch.zeros(())
    for told in epochs(made, 0):
        loss = torch.tensor(told["train/loss_cross_entropy"])
        assert told["train/loss"] == pytest.approx(float(torch.exp(-s) * loss + s / 2), rel=1e-5)
        s = s - 0.2 * (0.5 - torch.exp(-s) * loss)
    saved = checkpoint.load(made / "checkpoints" / "exp_000")["terms"]["cross_entropy"]["weight"]["log_variance"]
    torch.testing.assert_close(saved, s, rtol=1e-5, atol=1e-6)


ZEROS = [
    {"kind": "warmup", "epochs": 2},
    {"kind": "linear", "end": 4},
    {"kind": "constant", "value": 0},
    {"kind": "per_experience", "values": [0, 2]},
    "confidence",
    {"kind": "old_fraction", "value": 0},
    {"kind": "imbalance", "value": -1},
    {"kind": "forgetting", "value": 0},
]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"losses": ["cross_entropy", {**KD, "weight": "curriculum"}]},
            "can be a loss's temperature, and nothing else",
        ),
        *(
            ({"losses": ["cross_entropy", {**KD, "temperature": zero}]}, "a temperature is greater than 0")
            for zero in ZEROS
        ),
        ({"losses": ["cross_entropy", {**KD, "temperature": "uncertainty"}]}, "give it as a loss's `weight`"),
        (
            {
                "losses": ["cross_entropy", {**KD, "weight": "forgetting"}],
                "stream": {**BASE["stream"], "split": {"by": "class", "experiences": 3}},
            },
            "set stream.split.validation: 0.1",
        ),
    ],
)
def test_a_schedule_where_it_says_nothing_is_refused(
    plugins: Plugins, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        run(plugins, tmp_path, changes)
