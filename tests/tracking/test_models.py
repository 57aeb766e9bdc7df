"""Students that are logged: loaded without clkd, they predict what clkd says, and the newest has the alias."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from clkd.cli.main import main
from clkd.engine.compose import Composer
from clkd.engine.execute import execute
from clkd.models.deployed import Deployed
from clkd.models.student import Student
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load
from clkd.scenario.request import RunRequest
from clkd.tracking import models, store

pytestmark = pytest.mark.filterwarnings("ignore:.*")  # MLflow's own, when it loads a model

SCENARIO: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 12}, "split": {"by": "class", "experiences": 2}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
    "train": {"epochs": 1, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.1, "momentum": 0.9}},
}
LONGER: dict[str, Any] = {**SCENARIO["train"], "epochs": 10}


@pytest.fixture(autouse=True)
def here(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory holds a fresh store."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


def train_in(home: Path, name: str = "run", **sections: Any) -> Path:
    """Train the scenario with some sections changed: its directory."""
    path = home / f"{name}.yaml"
    path.write_text(to_yaml({**SCENARIO, "output": str(home / name), **sections}))
    execute(RunRequest(scenario=path, quiet=True), load_plugins())
    return home / name


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Path]:
    return partial(train_in, tmp_path)


@pytest.fixture(scope="module")
def home(empty_store: Path, session_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that has logged a student after each of two experiences."""
    home = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):
        patch.chdir(home)
        patch.setenv("CLKD_CACHE", str(session_cache))
        shutil.copy(empty_store, home / "mlflow.db")
        train_in(home, tracking={"log_model": "each"}, train=LONGER)
    return home


@pytest.fixture
def trained(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That run's directory, for those who leave it as it is; they are in the folder."""
    monkeypatch.chdir(home)
    return home / "run"


def client() -> Any:
    return store.open_client(store.resolve_uri(None))


def parent(name: str = "tiny") -> Any:
    experiment = client().get_experiment_by_name(name).experiment_id
    (run,) = [r for r in client().search_runs([experiment]) if "mlflow.parentRunId" not in r.data.tags]
    return run


def logged(run: Any) -> list[Any]:
    found = client().search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    return sorted(found, key=lambda model: int(model.tags["clkd.experience"]))


def load_from(model: Any) -> Any:
    """As whoever deploys it does."""
    import mlflow

    return mlflow.pyfunc.load_model(model.artifact_location)


def rows_of(directory: Path) -> list[tuple[np.ndarray[Any, Any], list[str]]]:
    """Stored test rows and class names of each experience."""
    registry = load_plugins().registry
    scenario = load(directory / "resolved.yaml", [], registry).scenario
    stream = Composer(scenario, registry, torch.device("cpu"), Path(os.environ["CLKD_CACHE"]), Path.cwd()).material()
    rows = [each.test.gather(torch.arange(len(each.test))) for each in stream.stream]
    names = stream.stream.class_names
    return [(each.x.numpy(), [names[c] for c in each.y.tolist()]) for each in rows]


def accuracy(model: Any, rows: np.ndarray[Any, Any], labels: list[str]) -> float:
    names = model.metadata.metadata["clkd"]["class_names"]
    said = [names[c] for c in model.predict(rows).argmax(1)]
    return float(np.mean([a == b for a, b in zip(said, labels, strict=True)]))


# What it predicts


@pytest.mark.slow
def test_each_student_predicts_what_clkd_evaluated(trained: Path) -> None:
    """Raw uint8 rows in; the accuracy on every experience is the matrix's entry, to the last row."""
    matrix = json.loads((trained / "result.json").read_text())["accuracy_matrix"]
    students, data = logged(parent()), rows_of(trained)
    assert len(students) == 2
    for i, student in enumerate(students):
        model = load_from(student)
        for j in range(i + 1):
            assert accuracy(model, *data[j]) == pytest.approx(matrix[i][j], abs=1e-9)
    assert matrix[1][1] > 0.3, "it has learned something that could be wrong"


@pytest.mark.slow
@pytest.mark.parametrize(
    "student",
    [
        {"model": {"kind": "resnet8"}, "head": "cosine"},
        {"model": {"kind": "lenet", "batch_norm": True}, "head": "ncm", "view": {"size": 16}},
        {"model": "mlp", "head": "slda"},
        {"model": "mlp", "head": "bias_corrected"},
        {"model": "mlp", "head": {"kind": "split_cosine", "proxies": 2}},
        {"model": "mlp", "head": "multi"},
        {"model": "mlp", "head": "fixed", "view": {"crop": 6, "rotate": 90}},
    ],
    ids=str,
)
def test_every_kind_of_student_answers_as_it_does_in_evaluation(
    train: Callable[..., Path], student: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows one by one, many at once, and none: the same logits as the student that is still in memory."""
    seen: list[tuple[Student, Any]] = []
    begin = Deployed.__init__

    def spy(self: Deployed, alive: Student, mean: torch.Tensor, std: torch.Tensor) -> None:
        seen.append((alive, (mean, std)))
        begin(self, alive, mean, std)

    monkeypatch.setattr(Deployed, "__init__", spy)
    train(tracking={"log_model": "final", "mode": "offline"}, student=student)
    ((alive, (mean, std)),) = seen
    import mlflow

    model = mlflow.pyfunc.load_model("run/models/exp_001")
    rows = torch.randint(0, 256, (9, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        expected = alive.eval()((rows / 255 - mean[:, None, None]) / std[:, None, None]).numpy()
    np.testing.assert_allclose(model.predict(rows.numpy()), expected, rtol=1e-5, atol=1e-5)
    for n in (1, 2, 0):
        np.testing.assert_allclose(model.predict(rows[:n].numpy()), expected[:n], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_student_that_has_statistics_of_each_domain_chooses_them_by_itself(train: Callable[..., Path]) -> None:
    """As in evaluation, where nobody tells it the domain either."""
    hazy = {"by": "domain", "domains": ["clean", {"kind": "haze", "severity": 4}]}
    directory = train(
        tracking={"log_model": "final"},
        stream={"dataset": {"name": "digits", "rows_per_class": 12}, "split": hazy},
        student={"model": {"kind": "resnet8", "width": 4}, "head": "linear"},
        transfer="dsbn",
        train={**SCENARIO["train"], "epochs": 3},
    )
    matrix = json.loads((directory / "result.json").read_text())["accuracy_matrix"]
    (student,) = logged(parent())
    model = load_from(student)
    assert [accuracy(model, *rows) for rows in rows_of(directory)] == pytest.approx(matrix[1], abs=1e-9)


def test_vectors_go_in_as_the_data_set_has_them(train: Callable[..., Path], here: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 12)
    x = rng.normal(size=(48, 5)).astype("float32") + y[:, None]
    np.savez(here / "v.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    stream = {"dataset": {"name": "arrays", "path": "v.npz"}, "split": {"by": "class", "experiences": 2}}
    directory = train(tracking={"log_model": "final"}, stream=stream, train=LONGER)
    matrix = json.loads((directory / "result.json").read_text())["accuracy_matrix"]
    (student,) = logged(parent())
    model = load_from(student)
    assert str(model.metadata.signature.inputs) == "[Tensor('float32', (-1, 5))]"
    assert [accuracy(model, *rows) for rows in rows_of(directory)] == pytest.approx(matrix[1], abs=1e-9)


@pytest.mark.slow  # starts Python and loads MLflow in it
def test_it_loads_where_there_is_no_clkd(trained: Path) -> None:
    """In a process that cannot import it; with the input example of its own folder."""
    code = (
        "import sys, json; sys.modules['clkd'] = None\n"
        "import mlflow, numpy as np\n"
        "model = mlflow.pyfunc.load_model('run/models/exp_001')\n"
        "rows = model.input_example\n"
        "assert rows.dtype == np.uint8 and len(rows) == 2, rows.dtype\n"
        "print(json.dumps(model.predict(rows).tolist()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    import mlflow

    model = mlflow.pyfunc.load_model("run/models/exp_001")
    expected = model.predict(model.input_example)
    np.testing.assert_array_equal(np.array(json.loads(done.stdout), dtype="float32"), expected)


@pytest.mark.slow  # starts Python twice, one of them to import MLflow's scoring
def test_the_command_line_predicts_the_same(train: Callable[..., Path], tmp_path: Path) -> None:
    train(tracking={"log_model": "final"})
    rows = rows_of(tmp_path / "run")[0][0][:3]
    (tmp_path / "rows.json").write_text(json.dumps({"inputs": rows.tolist()}))
    command = [sys.executable, "-m", "mlflow", "models", "predict", "--env-manager", "local"]
    command += ["-m", "models:/tiny@champion", "-i", "rows.json", "-o", "said.json"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "said.json").read_text())["predictions"]
    (student,) = logged(parent())
    np.testing.assert_allclose(said, load_from(student).predict(rows), rtol=1e-5)


def test_what_is_no_uint8_is_refused(trained: Path) -> None:
    """Pixels on another scale would be answered with nonsense."""
    from mlflow.exceptions import MlflowException

    student = logged(parent())[-1]
    with pytest.raises(MlflowException, match="uint8"):
        load_from(student).predict(np.zeros((2, 1, 8, 8), dtype="float32"))


# What MLflow is told of it


def test_it_is_linked_to_run_and_child_with_what_it_scored(trained: Path) -> None:
    run, at = parent(), client()
    students = logged(run)
    outputs = {output.step: output.model_id for output in at.get_run(run.info.run_id).outputs.model_outputs}
    assert outputs == {i: student.model_id for i, student in enumerate(students)}
    children = at.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    for child in children:
        index = int(child.data.tags["clkd.experience"])
        assert [output.model_id for output in child.outputs.model_outputs] == [students[index].model_id]
    scored = {metric.key: metric.value for metric in students[1].metrics}
    assert scored["stream/average_accuracy"] == run.data.metrics["stream/average_accuracy"]
    for key in run.data.metrics:
        steps = [point.step for point in at.get_metric_history(run.info.run_id, key)]
        assert len(steps) == len(set(steps)), f"{key} has a point twice"


def test_what_its_metadata_say(trained: Path) -> None:
    student = logged(parent())[1]
    assert (student.name, str(student.status)) == ("student", "READY")
    model = load_from(student)
    about = model.metadata.metadata["clkd"]
    assert about["class_names"] == [str(c) for c in range(10)]
    assert about["run_id"] == json.loads((trained / "run.json").read_text())["id"]
    assert (about["experience"], about["born"]) == (1, [0] * 5 + [1] * 5)
    assert model.metadata.run_id == parent().info.run_id
    assert model.metadata.model_id == student.model_id
    assert str(model.metadata.signature.inputs) == "[Tensor('uint8', (-1, 1, 8, 8))]"
    assert str(model.metadata.signature.outputs) == "[Tensor('float32', (-1, 10))]"
    requirements = (trained / "models/exp_001/requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in requirements} == {"mlflow", "torch", "numpy"}
    assert yaml.safe_load((trained / "models/exp_001/MLmodel").read_text())["flavors"]["pytorch"]["code"] is None


def assert_registered(name: str | None, version: str, alias: str | None) -> None:
    """The store holds one registered model, whose newest version is the run's last student."""
    found = client().search_registered_models()
    assert [each.name for each in found] == ([name] if name else [])
    if name:
        held = client().get_registered_model(name).aliases
        assert {key: str(version) for key, version in held.items()} == ({alias: version} if alias else {})
        newest = client().get_model_version(name, version)
        student = logged(parent())[-1]
        assert newest.source == student.artifact_location
        assert json.loads(student.tags["mlflow.modelVersions"]) == [{"name": name, "version": version}]
        assert newest.run_id == parent().info.run_id
        assert newest.tags["clkd.experience"] == "1"


def test_the_registry_has_every_student_and_an_alias_for_the_newest(trained: Path) -> None:
    assert_registered("tiny", "2", "champion")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tracking", "name", "alias"),
    [
        ({"register_as": "digits student", "alias": "next"}, "digits student", "next"),
        ({"register_as": "it's mine"}, "it's mine", "champion"),
        ({"alias": None}, "tiny", None),
        ({"register_as": False}, None, None),
    ],
)
def test_names_in_the_registry_are_chosen_or_left_out(
    train: Callable[..., Path], tracking: dict[str, Any], name: str | None, alias: str | None
) -> None:
    train(tracking={"log_model": "final", **tracking})
    assert_registered(name, "1", alias)


# When it comes there


@pytest.mark.slow
def test_an_offline_run_is_brought_in_later_and_takes_the_alias_from_none_that_is_newer(
    train: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    early = train("early", tracking={"log_model": "each", "mode": "offline"})
    train("late", tracking={"log_model": "final"})
    assert str(client().get_model_version_by_alias("tiny", "champion").version) == "1"
    assert main(["track", "sync", str(early)]) == 0
    assert "2 models, 2 versions" in capsys.readouterr().out
    assert str(client().get_model_version_by_alias("tiny", "champion").version) == "1"
    assert len(client().search_model_versions("name = 'tiny'")) == 3
    assert main(["track", "sync", str(early)]) == 0
    assert "nothing was missing" in capsys.readouterr().out


@pytest.mark.slow
def test_a_name_that_was_given_at_a_resume_goes_with_the_run_into_another_store(here: Path, empty_store: Path) -> None:
    path, directory = here / "s.yaml", here / "run"
    path.write_text(to_yaml({**SCENARIO, "output": str(directory), "tracking": {"log_model": "each"}}))
    execute(RunRequest(scenario=path, quiet=True, limit_experiences=1), load_plugins())
    again = ("tracking.register_as=digits", "tracking.alias=next", "tracking.tags={team: vision}")
    execute(RunRequest(resume=str(directory), quiet=True, overrides=again), load_plugins())
    shutil.copy(empty_store, here / "mlflow.db")
    assert main(["track", "sync", str(directory)]) == 0
    assert_registered("digits", "2", "next")
    assert parent().data.tags["team"] == "vision"


@pytest.mark.slow
def test_what_was_half_uploaded_is_uploaded_again(train: Callable[..., Path]) -> None:
    """A process that died between a model and its files leaves a pending one, which is no student."""
    directory = train(tracking={"log_model": "final"})
    run, at = parent(), client()
    (whole,) = logged(run)
    at.delete_logged_model(whole.model_id)
    tags = {"clkd.experience": "1"}
    torn = at.create_logged_model(run.info.experiment_id, "student", run.info.run_id, tags)
    assert main(["track", "sync", str(directory)]) == 0
    (again,) = logged(run)
    assert again.model_id not in (whole.model_id, torn.model_id)
    assert load_from(again).predict(np.zeros((1, 1, 8, 8), dtype="uint8")).shape == (1, 10)
    assert at.get_model_version_by_alias("tiny", "champion").source == again.artifact_location


def test_by_default_nothing_is_exported(train: Callable[..., Path]) -> None:
    directory = train(tracking={})
    assert not (directory / "models").exists()
    assert not logged(parent())
    events = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert "time/export_s" not in events[-2]["metrics"]


@pytest.mark.slow
def test_final_means_the_stream_is_over(train: Callable[..., Path], tmp_path: Path) -> None:
    """A run that is stopped early has no final student; once resumed, it has one."""
    path = tmp_path / "s.yaml"
    path.write_text(to_yaml({**SCENARIO, "output": str(tmp_path / "run"), "tracking": {"log_model": "final"}}))
    execute(RunRequest(scenario=path, quiet=True, limit_experiences=1), load_plugins())
    assert not models.folders(tmp_path / "run")
    execute(RunRequest(resume=str(tmp_path / "run"), quiet=True), load_plugins())
    assert list(models.folders(tmp_path / "run")) == [1]
    assert [student.tags["clkd.experience"] for student in logged(parent())] == ["1"]


def test_students_of_experiences_that_come_again_are_dropped(tmp_path: Path) -> None:
    for name in ("exp_000", "exp_001", "exp_002", ".exp_003.part", "exp_x"):
        (tmp_path / "models" / name).mkdir(parents=True)
    assert list(models.folders(tmp_path)) == [0, 1, 2]
    models.drop(tmp_path, trained=1)
    assert list(models.folders(tmp_path)) == [0]


@pytest.mark.slow
def test_exporting_changes_nothing_that_is_learned(train: Callable[..., Path]) -> None:
    student = {"model": {"kind": "resnet8", "width": 4}, "head": "linear"}
    with_models = train("a", tracking={"mode": "off", "log_model": "each"}, student=student, memory="reservoir")
    without = train("b", tracking={"mode": "off"}, student=student, memory="reservoir")
    one, other = (json.loads((d / "result.json").read_text()) for d in (with_models, without))
    assert one["accuracy_matrix"] == other["accuracy_matrix"]
    weights = [d / "checkpoints/exp_001/state.safetensors" for d in (with_models, without)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_student_that_cannot_be_exported_is_one_line(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its forward pass asks the rows what to do, which no graph can."""

    def moody(self: Deployed, x: torch.Tensor) -> torch.Tensor:
        return self.student(x.float()) if x.float().sum() > 0 else -self.student(x.float())

    monkeypatch.setattr(Deployed, "forward", moody)
    directory = train(tracking={"log_model": "final"})
    (line,) = [record.getMessage() for record in caplog.records if "log_model" in record.getMessage()]
    assert line.startswith("tracking.log_model: the student after experience 1 cannot be exported and is not logged: ")
    assert "\n" not in line
    assert not list((directory / "models").glob("*"))
    assert parent().info.status == "FINISHED"
    assert not logged(parent())


@pytest.mark.parametrize(
    ("key", "value"), [("register_as", "a/b"), ("register_as", ""), ("alias", "v1"), ("alias", "latest")]
)
def test_names_that_the_registry_refuses_are_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: str
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(to_yaml({**SCENARIO, "tracking": {"log_model": "final", key: value}}))
    assert main(["validate", str(path)]) == 2
    assert f"tracking.{key}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_run_gives_its_student_when_it_is_asked_for_later(
    train: Callable[..., Path], tmp_path: Path
) -> None:
    train("plain", tracking={})
    train("asked", tracking={"log_model": "final"})
    request = RunRequest(resume=str(tmp_path / "plain"), quiet=True, overrides=("tracking.log_model=final",))
    execute(request, load_plugins())
    assert list(models.folders(tmp_path / "plain")) == [1]
    rows, _ = rows_of(tmp_path / "plain")[1]
    said = [mlflow_model(tmp_path / name).predict(rows) for name in ("plain", "asked")]
    assert np.array_equal(*said)
    stamp = (tmp_path / "plain" / "models" / "exp_001").stat().st_mtime_ns
    execute(request, load_plugins())
    assert (tmp_path / "plain" / "models" / "exp_001").stat().st_mtime_ns == stamp, "once is enough"


def mlflow_model(directory: Path) -> Any:
    import mlflow

    return mlflow.pyfunc.load_model(str(models.folders(directory)[1]))


@pytest.mark.parametrize("off", [0.0, 0.5])
def test_a_class_that_nothing_is_known_of_is_no_scale_for_the_others(
    off: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its logit is huge, on both sides: what was written must be seen to answer otherwise beside it."""
    import mlflow.pyfunc as pyfunc  # `from mlflow` gives a lazy stand-in, which is another object

    class Unknowing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([torch.full_like(x[:, :1], -1e30), x[:, 1:]], 1)

    def predict(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        said: np.ndarray[Any, Any] = Unknowing()(torch.from_numpy(rows)).numpy()
        return said + np.float32(off)

    monkeypatch.setattr(pyfunc, "load_model", lambda path: SimpleNamespace(predict=predict))
    rows = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    if off:
        with pytest.raises(RuntimeError, match="says other things"):
            models._prove(tmp_path, Unknowing(), rows)
    else:
        models._prove(tmp_path, Unknowing(), rows)
