"""All that one small run leaves in MLflow, in a list: what is added or goes missing is seen here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from clkd.engine.execute import execute
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest
from clkd.tracking import store

SCENARIO: dict[str, Any] = {
    "name": "tiny",
    "seed": 4,
    "stream": {"dataset": {"name": "digits", "rows_per_class": 20}, "split": {"by": "class", "experiences": 2}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
    "teachers": {"previous": "previous"},
    "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "previous"]}],
    "memory": {"kind": "reservoir", "size": 20},
    "train": {"epochs": 3, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.1}},
    "report": True,
    "tracking": {"log_model": "final", "tags": {"team": "x"}},
}
TAGS = {
    "clkd.config_sha", "clkd.dataset", "clkd.git_dirty", "clkd.group", "clkd.plugins", "clkd.run_id", "clkd.seed",
    "clkd.settled", "clkd.status_detail", "clkd.version", "mlflow.loggedArtifacts", "mlflow.note.content",
    "mlflow.runName", "mlflow.source.git.commit", "mlflow.source.name", "mlflow.source.type", "team",
}  # fmt: skip
ARTIFACTS = {
    "accuracy_matrix.csv", "accuracy_matrix.json", "config.resolved.yaml", "environment.txt", "metrics.jsonl",
    "result.json", "scenario.yaml", "figures/accuracy_matrix.png", "figures/agreement.png", "figures/cka.png",
    "figures/class_accuracy.png", "figures/forgetting.png", "figures/loss_terms.png", "reports/exp_000.json",
    "reports/exp_001.json", "tables/accuracy_matrix.json", "tables/class_accuracy.json",
}  # fmt: skip
BY_STEP = {"train/loss", "train/loss_cross_entropy", "train/loss_kd_previous", "train/lr"}
"""Of all others the step is the experience."""
SECTIONS = {
    "acc_matrix", "acc_matrix_task_aware", "class_acc", "compute", "memory", "memory_classes", "model", "report",
    "speed", "stream", "time", "train",
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """The folder with the store and the run, trained once."""
    home = tmp_path_factory.mktemp("layout")
    shutil.copy(empty_store, home / "mlflow.db")
    tracking = {**SCENARIO["tracking"], "uri": f"sqlite:///{home}/mlflow.db"}
    (home / "tiny.yaml").write_text(to_yaml({**SCENARIO, "tracking": tracking, "output": str(home / "run")}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parent)  # in a repository, perhaps
        patch.setenv("CLKD_CACHE", str(home))
        execute(RunRequest(scenario=home / "tiny.yaml", quiet=True), load_plugins())
    return home


@pytest.fixture
def client(home: Path) -> Any:
    return store.open_client(f"sqlite:///{home}/mlflow.db")


@pytest.fixture
def parent(client: Any) -> Any:
    experiment = client.get_experiment_by_name("tiny").experiment_id
    (run,) = [r for r in client.search_runs([experiment]) if "mlflow.parentRunId" not in r.data.tags]
    return run


@pytest.fixture
def children(client: Any, parent: Any) -> list[Any]:
    below = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    found = client.search_runs([parent.info.experiment_id], below)
    return sorted(found, key=lambda run: str(run.info.run_name))


def files(client: Any, run_id: str, path: str | None = None) -> set[str]:
    items = client.list_artifacts(run_id, path)
    return {file for item in items for file in (files(client, run_id, item.path) if item.is_dir else {item.path})}


def content(client: Any, parent: Any, name: str) -> str:
    return Path(client.download_artifacts(parent.info.run_id, name)).read_text()


def test_the_experiment_says_what_the_scenario_is(client: Any, home: Path) -> None:
    experiment = client.get_experiment_by_name("tiny")
    assert experiment.artifact_location == (home / "mlartifacts" / "tiny").as_uri()
    assert experiment.tags["clkd.schema"] == "1"
    note = experiment.tags["mlflow.note.content"]
    assert note.startswith("**tiny**\n")
    for line in ("- stream: ", "- student: mlp", "- loss: 1·CrossEntropy(student) + ", "- memory: reservoir, 20 rows"):
        assert line in note


def test_names_tags_and_parameters(parent: Any, home: Path) -> None:
    assert (parent.info.run_name, parent.info.status) == ("tiny s4", "FINISHED")
    git = {"clkd.git_dirty", "mlflow.source.git.commit"}
    assert {name for name in parent.data.tags if name != "mlflow.user"} | git == TAGS
    assert parent.data.tags["clkd.status_detail"] == "finished"
    resolved = yaml.safe_load((home / "run" / "resolved.yaml").read_text())
    assert parent.data.params["train.epochs"] == str(resolved["train"]["epochs"]) == "3"
    assert parent.data.params["losses.1.kind"] == "kd"
    assert parent.data.params["device"] == "cpu"
    assert not any("/" in key or len(text) > 6000 for key, text in parent.data.params.items())


def test_the_description_shows_the_matrix_and_what_was_run(client: Any, parent: Any) -> None:
    note = parent.data.tags["mlflow.note.content"]
    matrix = json.loads(content(client, parent, "accuracy_matrix.json"))["accuracy_matrix"]
    assert f"| 1 | {100 * matrix[1][0]:.1f} | {100 * matrix[1][1]:.1f} |" in note
    assert "- average accuracy: " in note
    assert "- loss: 1·CrossEntropy(student) + " in note


def test_every_metric_has_its_section_and_one_axis(client: Any, parent: Any) -> None:
    keys = set(parent.data.metrics)
    assert {key.partition("/")[0] for key in keys} == SECTIONS
    assert keys >= BY_STEP
    per_epoch = {key for key in keys if key.startswith("train/")}
    for key in keys:
        steps = [point.step for point in client.get_metric_history(parent.info.run_id, key)]
        assert len(steps) == len(set(steps)), key
        if key.startswith("model/"):
            assert steps == [0]
        elif key not in per_epoch:
            assert set(steps) <= {0, 1}, key
    rows = client.get_metric_history(parent.info.run_id, "train/loss")
    assert len(rows) == 6
    assert {key for key in keys if key.startswith("acc_matrix/")} == {"acc_matrix/exp_00", "acc_matrix/exp_01"}
    assert {f"class_acc/{c}" for c in range(10)} <= keys
    assert {"time/train_s", "time/evaluate_s", "time/export_s", "time/tracking_s"} <= keys
    assert {"stream/forgetting", "report/previous/agreement", "memory/rows", "model/student_parameters"} <= keys


def test_artifacts_figures_and_tables(client: Any, parent: Any) -> None:
    assert files(client, parent.info.run_id) == ARTIFACTS
    shown = json.loads(parent.data.tags["mlflow.loggedArtifacts"])
    assert {each["path"] for each in shown} == {name for name in ARTIFACTS if name.startswith("tables/")}
    table = json.loads(content(client, parent, "tables/class_accuracy.json"))
    assert table["columns"] == ["class", "exp_00", "exp_01"]
    for name, *after in table["data"]:
        last = [value for value in after if value is not None][-1]
        assert last == parent.data.metrics[f"class_acc/{name}"]
    matrix = json.loads(content(client, parent, "accuracy_matrix.json"))["accuracy_matrix"]
    triangle = json.loads(content(client, parent, "tables/accuracy_matrix.json"))
    assert triangle["columns"] == ["after", "on exp_00", "on exp_01"]
    assert triangle["data"] == [["exp_00", matrix[0][0], None], ["exp_01", *matrix[1]]]
    assert triangle["data"][1][1:] == matrix[1]


def test_mlflow_reads_the_tables(parent: Any, home: Path) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{home}/mlflow.db")
    try:
        experiment, runs = parent.info.experiment_id, [parent.info.run_id]
        frame = mlflow.MlflowClient().load_table(experiment, "tables/accuracy_matrix.json", runs)
    finally:
        mlflow.set_tracking_uri(None)
    assert list(frame.columns) == ["after", "on exp_00", "on exp_01"]


def test_the_data_of_each_experience_has_its_digest(parent: Any, children: list[Any], home: Path) -> None:
    lines = map(json.loads, (home / "run" / "metrics.jsonl").read_text().splitlines())
    digests = {line["experience"]: line["digest"][:36] for line in lines if line["event"] == "experience"}
    assert len(set(digests.values())) == 2
    found = {each.dataset.name: each for each in parent.inputs.dataset_inputs}
    assert {name: each.dataset.digest for name, each in found.items()} == {
        f"digits/exp_{i:02d}": digest for i, digest in digests.items()
    }
    tags = {tag.key: tag.value for tag in found["digits/exp_01"].tags}
    assert tags == {"mlflow.data.context": "train", "classes": "5, 6, 7, 8, 9"}
    for i, child in enumerate(children):
        assert [each.dataset.digest for each in child.inputs.dataset_inputs] == [digests[i]]


def test_children_one_level_below(parent: Any, children: list[Any]) -> None:
    assert [child.info.run_name for child in children] == ["exp_00 [0, 1, 2, 3, 4]", "exp_01 [5, 6, 7, 8, 9]"]
    assert {child.info.status for child in children} == {"FINISHED"}
    for i, child in enumerate(children):
        assert child.data.tags["clkd.experience"] == str(i)
        assert child.data.metrics["stream/average_accuracy"] is not None
    last = children[1].data.metrics
    assert all(parent.data.metrics[key] == value for key, value in last.items())


def test_the_model(client: Any, parent: Any, children: list[Any]) -> None:
    (output,) = client.get_run(parent.info.run_id).outputs.model_outputs
    assert output.step == 1
    assert client.get_run(children[1].info.run_id).outputs.model_outputs[0].model_id == output.model_id
    model = client.get_logged_model(output.model_id)
    assert client.get_model_version_by_alias("tiny", "champion").source == model.artifact_location
