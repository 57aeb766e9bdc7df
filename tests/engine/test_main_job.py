"""The main job, whole: on the stand-in everywhere, on real data where there is some."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCENARIOS = Path(__file__).parents[2] / "scenarios"


def clkd(cwd: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "clkd", *arguments, "--json"],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_the_stand_in_it_learns_beats_finetuning_resumes_and_is_tracked(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    main = str(SCENARIOS / "split_cifar.yaml")
    whole = clkd(tmp_path, "run", main)
    finetuned = clkd(tmp_path, "run", str(SCENARIOS / "baselines/finetune.yaml"), "--tracking", "off")
    assert (whole["status"], whole["stand_in"]) == ("finished", "digits")
    gain = whole["metrics"]["average_accuracy"] - finetuned["metrics"]["average_accuracy"]
    assert gain > 0.15, (whole["metrics"], finetuned["metrics"])

    cut = clkd(tmp_path, "run", main, "--tracking", "off", "--limit-experiences", "2")
    resumed = clkd(tmp_path, "run", "--resume", cut["run_id"])
    assert resumed["accuracy_matrix"] == whole["accuracy_matrix"]

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("split_cifar")
    runs = client.search_runs([experiment.experiment_id], max_results=50)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    assert len(runs) == 6, "one child per experience"
    parent = parents[0]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["clkd.stand_in"] == "digits"
    assert parent.data.metrics["stream/average_accuracy"] == whole["metrics"]["average_accuracy"]
    final = [parent.data.metrics[f"acc_matrix/exp_{j:02d}"] for j in range(5)]
    assert final == whole["accuracy_matrix"][4]
    files = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert files >= {"scenario.yaml", "config.resolved.yaml", "accuracy_matrix.csv", "figures", "metrics.jsonl"}
    assert {item.path for item in client.list_artifacts(parent.info.run_id, "figures")} >= {
        "figures/accuracy_matrix.png"
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_small_network_learns_real_mnist_jointly_and_forgets_it_in_a_stream(tmp_path: Path, real_data: str) -> None:
    """Published anchors (van de Ven et al. 2022): joint training about 98 %, fine-tuning about 19.9 %."""
    scenario = (
        "name: mnist\nstream: {dataset: mnist, split: {by: class, experiences: 5}}\n"
        "student: {model: mlp, head: linear}\ntrain: {batch_size: 128, optimizer: {kind: adam, lr: 1e-3}}\n"
    )
    (tmp_path / "mnist.yaml").write_text(scenario)
    quick = ("--tracking", "off", "-q")
    stream = clkd(tmp_path, "run", "mnist.yaml", *quick, CLKD_DATA=real_data)
    joint = clkd(tmp_path, "run", "mnist.yaml", "--set", "stream.split.experiences=1", *quick, CLKD_DATA=real_data)
    assert stream["stand_in"] is None
    assert 0.18 < stream["metrics"]["average_accuracy"] < 0.22
    assert stream["metrics"]["average_accuracy_task_aware"] > 0.8
    assert joint["metrics"]["average_accuracy"] > 0.95
