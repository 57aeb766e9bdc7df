"""What docs/tracking.md and docs/teachers.md say of a logged student: their blocks, run one after another."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from taught import SCENARIO

from clkd.engine.execute import execute
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def train(name: str, **sections: Any) -> None:
    path = Path(f"{name}.yaml")
    path.write_text(to_yaml({**SCENARIO, "name": name, "output": name, **sections}))
    assert execute(RunRequest(scenario=path, quiet=True), load_plugins())["status"] == "finished"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*")  # MLflow's own, when it loads a model
def test_a_student_is_logged_loaded_and_teaches(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, "mlflow.db")
    (tracking,), (code,) = blocks("tracking.md", "yaml"), blocks("tracking.md", "python")
    train("first", losses=["cross_entropy"], **yaml.safe_load(tracking))
    here = f"sqlite:///{tmp_path}/mlflow.db"
    exec(code.replace("sqlite:///mlflow.db", here), {"images": torch.zeros(3, 1, 8, 8, dtype=torch.uint8).numpy()})
    mlflow.set_tracking_uri(None)
    assert len(yaml.safe_load(capsys.readouterr().out)) == 3
    (champion,) = (yaml.safe_load(block) for block in blocks("teachers.md", "yaml") if "kind: mlflow" in block)
    train("second", losses=["cross_entropy", {"kind": "kd", "between": ["student", "champion"]}], **champion)
