"""What docs/unlabelled.md shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from clkd.engine.execute import execute
from clkd.losses import clkd_register_losses
from clkd.plugins import load_plugins
from clkd.scenario.augment import Strong
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

TEXT = (Path(__file__).parents[2] / "docs/unlabelled.md").read_text(encoding="utf-8")


def blocks() -> list[dict[str, Any]]:
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]


def run(folder: Path, scenario: dict[str, Any], **request: Any) -> dict[str, Any]:
    path = folder / "s.yaml"
    path.write_text(to_yaml({**scenario, "tracking": {"mode": "off"}, "output": str(folder / "run")}))
    return execute(RunRequest(scenario=path, quiet=True, **request), load_plugins())


def test_labels_are_taken_away(tmp_path: Path) -> None:
    shown, _, fixmatch = blocks()
    scenario = {**fixmatch, **shown, "teachers": {}, "losses": ["cross_entropy"]}
    told = run(tmp_path, scenario, dry_run=True)["stream"]
    assert [each["labelled"] for each in told] == [sum(max(1, round(0.1 * n)) for n in rows) for rows in _rows(told)]


def _rows(told: list[dict[str, Any]]) -> list[list[int]]:
    import torch
    from sklearn.datasets import load_digits

    from clkd.data.source import holdout

    y = torch.from_numpy(load_digits().target).long()
    kept = y[holdout(y, 0.2)[0]]
    return [[int((kept == c).sum()) for c in each["classes"]] for each in told]


def test_the_scenario_of_fixmatch_trains(tmp_path: Path) -> None:
    _, _, scenario = blocks()
    assert run(tmp_path, scenario, limit_batches=2, overrides=("train.epochs=1",))["status"] == "finished"


def test_mixed_rows_train(tmp_path: Path) -> None:
    _, shown, fixmatch = blocks()
    scenario = {**fixmatch, **shown, "teachers": {}, "losses": ["cross_entropy"]}
    assert run(tmp_path, scenario, limit_batches=2, overrides=("train.epochs=1",))["status"] == "finished"


def test_every_loss_and_every_change_is_spoken_of() -> None:
    names: list[str] = []
    clkd_register_losses(register=lambda name, *args, **options: names.append(name))
    for name in ("cross_entropy", "tfkd", "dkd", "nkd", "kd", "dist", "mlkd", "hard", "adversarial", "crd", "supcon"):
        assert name in names
        assert f"`{name}`" in TEXT
    for name in Strong.model_fields:
        assert f"`{name}: " in TEXT
