"""A new run from a finished experience of another one: what is carried over, what may change, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from addresses import nobody
from states import assert_same, state
from webpage import Page

from clkd.cli.main import main
from clkd.engine.execute import execute
from clkd.engine.origin import open_fork, pinned, split
from clkd.engine.saver import Saver
from clkd.errors import StorageError, TrackingError, UserError
from clkd.page.document import document
from clkd.page.story import Story
from clkd.plugins import Plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

KD = {"kind": "kd", "between": ["student", "previous"], "weight": "old_fraction"}
BASE: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 20}, "split": {"by": "class", "experiences": 4}},
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "teachers": {"previous": "previous", "slow": {"kind": "ema", "decay": 0.9}},
    "losses": [
        "cross_entropy",
        KD,
        {"kind": "kd", "between": ["student", "slow"]},
        {"kind": "features", "between": ["student.penultimate", "previous.penultimate"], "align": "linear"},
    ],
    "memory": {"kind": "reservoir", "size": 30},
    "train": {"batch_size": 16, "optimizer": {"kind": "adam", "lr": 0.01}, "keep_optimizer": True},
    "tracking": {"mode": "offline"},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def origin(plugins: Plugins, home: Path) -> Path:
    """A finished run, made once."""
    if not (home / "origin").exists():
        (home / "origin.yaml").write_text(to_yaml({**BASE, "output": str(home / "origin")}))
        execute(RunRequest(scenario=home / "origin.yaml", quiet=True), plugins)
    return home / "origin"


def fork(plugins: Plugins, origin: object, place: Path, *settings: str, **request: Any) -> dict[str, Any]:
    overrides = (f"output={place}", *settings)
    return execute(RunRequest(origin=str(origin), overrides=overrides, quiet=True, **request), plugins)


def events(run: Path, event: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == event]


def test_without_changes_it_ends_as_its_origin_did(plugins: Plugins, origin: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in origin.rglob("*") if path.is_file()}
    forked = fork(plugins, f"{origin}@1", tmp_path / "fork")
    whole = json.loads((origin / "result.json").read_text())
    assert (forked["metrics"], forked["accuracy_matrix"]) == (whole["metrics"], whole["accuracy_matrix"])
    assert_same(state(tmp_path / "fork"), state(origin))
    assert before == {path: path.read_bytes() for path in origin.rglob("*") if path.is_file()}
    assert forked["run_id"] != whole["run_id"]
    manifest = json.loads((tmp_path / "fork" / "run.json").read_text())
    assert manifest["origin"] == forked["origin"] == {"run": whole["run_id"], "experience": 1, "mlflow": None}
    ours, theirs = events(tmp_path / "fork", "experience"), events(origin, "experience")
    assert [line.get("carried", False) for line in ours] == [True, True, False, False]
    for mine, its in zip(ours, theirs, strict=True):
        shown = {name for name in mine["metrics"] if name.startswith(("stream/", "acc_matrix"))}
        assert shown >= {"stream/average_accuracy", "acc_matrix/exp_00"}
        assert {name: mine["metrics"][name] for name in shown} == {name: its["metrics"][name] for name in shown}


@pytest.mark.slow
def test_statistics_of_each_domain_go_on_in_a_fork_and_in_an_extension(plugins: Plugins, tmp_path: Path) -> None:
    stream = {**BASE["stream"], "split": {"by": "domain", "transform": "rotated", "angles": [0, 40, 80]}}
    student, losses = {"model": {"kind": "resnet8", "width": 2}, "head": "linear"}, BASE["losses"][:3]
    transfer = {"kind": "dsbn", "by": "domain"}
    scenario = {**BASE, "stream": stream, "student": student, "losses": losses, "transfer": transfer}
    (tmp_path / "dsbn.yaml").write_text(to_yaml({**scenario, "output": str(tmp_path / "dsbn")}))
    execute(RunRequest(scenario=tmp_path / "dsbn.yaml", quiet=True), plugins)
    fork(plugins, f"{tmp_path}/dsbn@1", tmp_path / "fork")
    assert_same(state(tmp_path / "fork"), state(tmp_path / "dsbn"))
    more = "{dataset: {name: digits, rows_per_class: 10}, split: {by: data, experiences: 1}, new_domain: true}"
    fork(plugins, tmp_path / "dsbn", tmp_path / "more", f"stream.extensions=[{more}]")
    known = state(tmp_path / "more")["student"]["state"]["backbone.stem.1.known"]
    assert known.tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"backbone\.stem\.1\..* there and .* here"):
        fork(plugins, f"{tmp_path}/dsbn@1", tmp_path / "other", "transfer=none")


def test_what_the_origin_took_is_not_the_first_own_experiences_time(
    plugins: Plugins, origin: Path, tmp_path: Path
) -> None:
    before = {name: value for name, value in events(origin, "experience")[1]["metrics"].items() if "time/" in name}
    fork(plugins, f"{origin}@1", tmp_path / "fork")
    metrics = [line["metrics"] for line in events(tmp_path / "fork", "experience")]
    assert not any("time/" in name for name in metrics[0])
    for name in ("time/train_s", "time/evaluate_s", "time/teachers_s"):
        assert metrics[1][name] == before[name]
    lines = Page(document([Story.read(tmp_path / "fork")])).table("Wall time of each experience")
    spent = [sum(each[f"time/{p}_s"] for p in ("train", "evaluate", "teachers")) for each in metrics[1:]]
    times = [0.0, spent[0], spent[1] - spent[0], spent[2] - spent[1]]
    assert [float(line[2]) for line in lines] == pytest.approx(times, abs=0.0051)


def test_it_outlives_its_origin(plugins: Plugins, origin: Path, tmp_path: Path) -> None:
    shutil.copytree(origin, tmp_path / "origin")
    first = fork(plugins, f"{tmp_path / 'origin'}@0", tmp_path / "fork", limit_experiences=1)
    assert first["status"] == "stopped"
    shutil.rmtree(tmp_path / "origin")
    again = execute(RunRequest(resume=str(tmp_path / "fork"), quiet=True), plugins)
    assert again["origin"]["experience"] == 0
    assert_same(state(tmp_path / "fork"), state(origin))


CHANGES: dict[str, tuple[str, ...]] = {
    "weight": ("losses.2.weight=2",),
    "temperature": ("losses.1.temperature=4",),
    "rate, epochs and batches": ("train.optimizer.lr=0.001", "train.epochs=2", "train.batch_size=8"),
    "another optimizer": ("train.optimizer={kind: sgd, lr: 0.1, momentum: 0.9}",),
    "amsgrad": ("train.optimizer.amsgrad=true",),
    "no state kept": ("train.keep_optimizer=false",),
    "fewer losses": (
        "losses=[cross_entropy, {kind: kd, between: [student, previous]}]",
        "teachers={previous: previous}",
    ),
    "more losses": (
        "teachers.big={kind: previous}",
        "losses=[cross_entropy, {kind: relation, between: [student, previous]}, {kind: kd, between: [student, slow]}, "
        "{kind: kd, between: [student, big]}]",
    ),
    "held parameters": ("losses=[cross_entropy, {kind: ewc, weight: 50}, {kind: si}]", "teachers={}"),
    "a gradient policy": ("train.gradient=agem",),
    "another projector": ("losses.3.align=none",),
    "other layers": ("losses.3={kind: features, between: [student, previous], layers: [penultimate], align: linear}",),
    "another kind of classes": ("losses.1.standardize=true",),
    "a loss that the first experience was too small for": (
        "losses=[cross_entropy, {kind: kd, between: [student, previous]}, {kind: logit_margin}]",
        "teachers={previous: previous}",
    ),
    "larger memory": ("memory.size=100",),
    "smaller memory": ("memory.size=10",),
    "no memory": ("memory=none",),
    "transfer": ("transfer={kind: coral, weight: 0.1}",),
    "augmentation": ("stream.augment={crop: 1}",),
    "seed": ("seed=3",),
    "later split": ("stream.split={by: class, classes: [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]}",),
    "metrics": ("metrics=[average_accuracy]",),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_what_may_change(plugins: Plugins, origin: Path, tmp_path: Path, change: str) -> None:
    """It begins where the origin stood, ends elsewhere, and can be resumed as any run."""
    forked = fork(plugins, f"{origin}@1", tmp_path / "fork", *CHANGES[change], limit_experiences=3)
    theirs, ours = state(origin, "exp_001"), state(tmp_path / "fork", "exp_001")
    assert_same(ours["student"], theirs["student"])
    assert ours["run"]["step"] == theirs["run"]["step"]
    for i, row in enumerate(theirs["run"]["record"]["class_incremental"][:2]):
        assert forked["accuracy_matrix"][i][: i + 1] == row[: i + 1]
    again = fork(plugins, f"{origin}@1", tmp_path / "again", *CHANGES[change])
    resumed = execute(RunRequest(resume=str(tmp_path / "fork"), quiet=True), plugins)
    assert resumed["accuracy_matrix"] == again["accuracy_matrix"]
    assert_same(state(tmp_path / "fork"), state(tmp_path / "again"))
    differs = [
        name
        for name, value in state(tmp_path / "fork")["student"]["state"].items()
        if not torch.equal(value, state(origin)["student"]["state"][name])
    ]
    assert bool(differs) == (change not in ("metrics",))


def test_what_the_optimizer_knew_is_carried(plugins: Plugins, origin: Path, tmp_path: Path) -> None:
    theirs = state(origin, "exp_001")["optimizer"]["state"]
    changes = {
        "rate": ("train.optimizer.lr=0.001",),
        "fewer": CHANGES["fewer losses"],
        "fused": ("train.optimizer.fused=true",),
        "foreach": ("train.optimizer.foreach=true",),
    }
    for name, settings in changes.items():
        fork(plugins, f"{origin}@1", tmp_path / name, *settings, limit_experiences=2)
        ours = state(tmp_path / name, "exp_001")["optimizer"]
        assert_same(ours["state"], {place: theirs[place] for place in ours["state"]})
        assert len(ours["state"]) == {"fewer": 4}.get(name, len(theirs))
    fork(plugins, f"{origin}@1", tmp_path / "sgd", *CHANGES["another optimizer"], limit_experiences=2)
    assert state(tmp_path / "sgd", "exp_001")["optimizer"] is None


def test_a_backbone_that_stood_still_goes_on_standing_still(plugins: Plugins, tmp_path: Path) -> None:
    slda = {**BASE["student"], "head": "slda"}
    changed = {**BASE, "student": slda, "teachers": {}, "losses": ["cross_entropy"]}
    (tmp_path / "first.yaml").write_text(to_yaml({**changed, "output": str(tmp_path / "first")}))
    execute(RunRequest(scenario=tmp_path / "first.yaml", quiet=True), plugins)
    fork(plugins, f"{tmp_path / 'first'}@1", tmp_path / "fork")
    assert_same(state(tmp_path / "fork"), state(tmp_path / "first"))


def test_a_new_previous_teacher_is_the_student_as_it_stood(plugins: Plugins, origin: Path, tmp_path: Path) -> None:
    fork(plugins, f"{origin}@1", tmp_path / "fork", *CHANGES["more losses"], limit_experiences=2)
    ours = state(tmp_path / "fork", "exp_001")
    assert_same(ours["teachers"]["big"]["state"], ours["student"]["state"])


def test_a_smaller_memory_keeps_some_of_the_rows_and_a_larger_one_all(
    plugins: Plugins, origin: Path, tmp_path: Path
) -> None:
    kept = set(state(origin, "exp_001")["memory"]["table"]["sample_id"].tolist())
    for size in (10, 100):
        fork(plugins, f"{origin}@1", tmp_path / str(size), f"memory.size={size}", limit_experiences=2)
        ours = set(state(tmp_path / str(size), "exp_001")["memory"]["table"]["sample_id"].tolist())
        assert ours <= kept
        assert len(ours) == min(size, len(kept))


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "another model": (("student.model={kind: mlp, hidden: [32]}",), "student: the origin's is another one .* is "),
    "another head": (("student.head=cosine",), "student: the origin's is another one"),
    "another split": (("stream.split.experiences=5",), r"experience 0 \(\[0, 1, 2\]\) was trained with other rows"),
    "other data": (("stream.dataset.rows_per_class=10",), "digits is not the data that was trained on"),
    "other statistics": (("stream.normalize=first",), "stream.normalize: cannot change"),
    "another memory": (("memory={kind: class_balanced, size: 30}",), "memory: the origin's is 'reservoir'"),
    "another key": (("losses.0.wieght=2",), "losses.0.wieght: unknown key"),
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_may_not_change_is_told_before_training(
    plugins: Plugins, origin: Path, tmp_path: Path, change: str
) -> None:
    settings, said = REFUSED[change]
    with pytest.raises(UserError, match=said):
        fork(plugins, f"{origin}@1", tmp_path / "fork", *settings)
    assert not (tmp_path / "fork").exists(), "a mistake leaves no directory"


def test_another_scenario_file_goes_on_from_a_run(plugins: Plugins, origin: Path, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(
        to_yaml({**BASE, "losses": ["cross_entropy"], "teachers": {}, "name": "other"})
    )
    forked = fork(plugins, f"{origin}@2", tmp_path / "fork", scenario=tmp_path / "other.yaml")
    assert (forked["scenario"], forked["status"]) == ("other", "finished")
    assert (
        forked["accuracy_matrix"][2][:3] == json.loads((origin / "result.json").read_text())["accuracy_matrix"][2][:3]
    )


def test_a_run_is_named_by_its_id_or_how_that_begins(
    plugins: Plugins, origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(origin, tmp_path / "runs" / "mine")
    name = json.loads((origin / "run.json").read_text())["id"]
    assert fork(plugins, f"{name[:5]}@3", tmp_path / "fork")["origin"]["run"] == name
    with pytest.raises(UserError, match="--from nope: no such run here"):
        fork(plugins, "nope@3", tmp_path / "other")
    with pytest.raises(UserError, match=r"no checkpoint of experience 7 \(allowed: 0, 1, 2, 3"):
        fork(plugins, f"{name}@7", tmp_path / "other")
    assert split("a@b@3") == ("a@b", 3)
    assert split("me@home") == ("me@home", None)


@pytest.mark.slow
def test_in_mlflow_it_is_linked_and_has_the_origins_rows(plugins: Plugins, tmp_path: Path, empty_store: Path) -> None:
    from mlflow import MlflowClient

    shutil.copy(empty_store, tmp_path / "m.db")
    tracking = {"mode": "mlflow", "uri": f"sqlite:///{tmp_path}/m.db", "child_runs": False}
    (tmp_path / "s.yaml").write_text(to_yaml({**BASE, "tracking": tracking, "output": str(tmp_path / "origin")}))
    execute(RunRequest(scenario=tmp_path / "s.yaml", quiet=True, limit_experiences=2), plugins)
    fork(plugins, tmp_path / "origin", tmp_path / "fork", limit_experiences=3)
    first, second = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("origin", "fork"))
    client = MlflowClient(str(tracking["uri"]))
    identity = first["tracking"]["mlflow"]["run_id"]
    found = client.get_run(second["tracking"]["mlflow"]["run_id"])
    assert found.info.run_id != identity
    tags = {name: found.data.tags[f"clkd.forked_{name}"] for name in ("from", "at", "from_mlflow")}
    assert tags == {"from": first["id"], "at": "1", "from_mlflow": identity}
    for name in ("acc_matrix/exp_00", "stream/forgetting"):
        theirs, ours = (client.get_metric_history(run, name) for run in (identity, found.info.run_id))
        assert [point.step for point in ours] == [0, 1, 2]
        assert [point.value for point in ours][:2] == [point.value for point in theirs]


def test_a_learned_weight_is_carried_over_and_a_new_one_starts_afresh(plugins: Plugins, tmp_path: Path) -> None:
    losses = [{"kind": "cross_entropy", "weight": "uncertainty"}, KD]
    scenario = tmp_path / "learned.yaml"
    scenario.write_text(to_yaml({**BASE, "teachers": {"previous": "previous"}, "losses": losses}))
    request = RunRequest(scenario=scenario, overrides=(f"output={tmp_path / 'first'}",), quiet=True)
    execute(request, plugins)
    fork(plugins, f"{tmp_path / 'first'}@1", tmp_path / "second", "losses.1.weight={kind: uncertainty}")
    before, begun = (state(tmp_path / name, "exp_001")["terms"] for name in ("first", "second"))
    learned = before["cross_entropy"]["weight"]["log_variance"]
    assert learned != 0
    assert torch.equal(begun["cross_entropy"]["weight"]["log_variance"], learned)
    assert begun["kd_previous"]["weight"]["log_variance"] == 0
    assert state(tmp_path / "second")["terms"]["kd_previous"]["weight"]["log_variance"] != 0


def test_one_that_never_took_over_is_not_gone_on_with(
    plugins: Plugins, origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has nothing of what the origin learned, and would train from scratch."""

    def full(*_: object) -> None:
        raise StorageError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Saver, "end", full)
        with pytest.raises(StorageError):
            fork(plugins, f"{origin}@1", tmp_path / "fork")
    name = json.loads((origin / "run.json").read_text())["id"]
    with pytest.raises(UserError, match=rf"before it had taken over .* --from {name}@1"):
        execute(RunRequest(resume=str(tmp_path / "fork"), quiet=True), plugins)


def test_a_tracker_that_refuses_leaves_nothing(plugins: Plugins, origin: Path, tmp_path: Path) -> None:
    with nobody() as address, pytest.raises(TrackingError, match="does not answer"):
        fork(plugins, f"{origin}@1", tmp_path / "fork", "tracking.mode=required", f"tracking.uri=http://{address}")
    assert not (tmp_path / "fork").exists()


def test_a_directory_whose_name_ends_like_an_experience_is_itself(
    plugins: Plugins, origin: Path, tmp_path: Path
) -> None:
    shutil.copytree(origin, tmp_path / "run@1")
    manifest = json.loads((tmp_path / "run@1" / "run.json").read_text())
    for name, experience in (("run@1", 3), ("run@1@0", 0)):
        found = open_fork(str(tmp_path / name), tmp_path)
        assert (found.origin["run"], found.experience) == (manifest["id"], experience)


DROPPED = ("memory=none", "teachers={}", "losses=[cross_entropy]")


def test_rows_that_were_stored_in_a_view_need_it(plugins: Plugins, tmp_path: Path) -> None:
    stream = {**BASE["stream"], "augment": {"crop": 1, "views": 4}}
    losses = ["cross_entropy", {"kind": "kd", "between": ["student@replay", "stored@replay"], "variant": "mse"}]
    memory = {"kind": "reservoir", "size": 30, "store": ["logits"], "epochs": "all"}
    changes = {"stream": stream, "teachers": {"stored": "stored"}, "losses": losses, "memory": memory}
    train = {**BASE["train"], "epochs": 4}
    (tmp_path / "s.yaml").write_text(to_yaml({**BASE, **changes, "train": train, "output": str(tmp_path / "origin")}))
    execute(RunRequest(scenario=tmp_path / "s.yaml", quiet=True, limit_experiences=1), plugins)
    with pytest.raises(UserError, match=r"stream.augment.views: 1 are too few"):
        fork(plugins, f"{tmp_path}/origin@0", tmp_path / "fork", "stream.augment.views=1")
    for change in ("crop=2", "flip=true"):  # the same number is another picture then
        key = change.partition("=")[0]
        with pytest.raises(UserError, match=rf"stream.augment.{key}: cannot change, since the rows that are kept"):
            fork(plugins, f"{tmp_path}/origin@0", tmp_path / "fork", f"stream.augment.{change}")
    fork(plugins, f"{tmp_path}/origin@0", tmp_path / "none", "stream.augment.crop=2", *DROPPED)
    assert fork(plugins, f"{tmp_path}/origin@0", tmp_path / "more", "stream.augment.views=5")["status"] == "finished"


def test_places_that_were_given_to_other_classes_are_other_rows(plugins: Plugins, tmp_path: Path) -> None:
    split = {"by": "class", "classes": [[0, 1], [2, 3]], "labels": "place"}
    scenario = {**BASE, "stream": {**BASE["stream"], "split": split}, "output": str(tmp_path / "origin")}
    (tmp_path / "places.yaml").write_text(to_yaml(scenario))
    execute(RunRequest(scenario=tmp_path / "places.yaml", quiet=True, limit_experiences=1), plugins)
    fork(plugins, f"{tmp_path}/origin@0", tmp_path / "same")
    with pytest.raises(UserError, match="was trained with other rows"):
        fork(plugins, f"{tmp_path}/origin@0", tmp_path / "fork", "stream.split.classes=[[1, 0], [3, 2]]")
    swapped = fork(plugins, f"{tmp_path}/origin@0", tmp_path / "later", "stream.split.classes=[[0, 1], [3, 2]]")
    assert swapped["status"] == "finished", "what is still to come may be another"


@pytest.mark.parametrize("head", ["linear", "multi"])
def test_columns_for_classes_to_come_are_a_fixed_heads_alone(plugins: Plugins, tmp_path: Path, head: str) -> None:
    split = {"by": "task", "experiences": 4}
    student = {**BASE["student"], "head": "fixed"}
    scenario = {**BASE, "stream": {**BASE["stream"], "split": split}, "student": student}
    (tmp_path / "s.yaml").write_text(to_yaml({**scenario, "output": str(tmp_path / "origin")}))
    execute(RunRequest(scenario=tmp_path / "s.yaml", quiet=True), plugins)
    with pytest.raises(UserError, match="student: the origin's head has columns for classes to come"):
        fork(plugins, f"{tmp_path}/origin@1", tmp_path / "fork", f"student.head={head}")
    more = "{dataset: {name: digits, rows_per_class: 10}, split: {by: data, experiences: 1}}"
    settings = ("student.head=linear", f"stream.extensions=[{more}]", "stream.split.by=class")
    assert fork(plugins, tmp_path / "origin", tmp_path / "all", *settings)["status"] == "finished", "all have come"


def test_seeds_of_a_fork_all_go_on_from_the_run_that_was_named(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though `last` is the first seed's run, when the second one begins."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(to_yaml({**BASE, "tracking": {"mode": "off"}}))
    assert main(["run", "s.yaml", "-q", "--limit-experiences", "2"]) == 0
    (first,) = tmp_path.glob("runs/*")
    told = json.loads((first / "result.json").read_text())
    capsys.readouterr()
    for output in ("output=here", "output=~/here"):
        assert main(["run", "--from", "last", "--seed", "0", "1", "-q", "--set", output]) == 2
        assert "output: several seeds are several runs, and this names one place" in capsys.readouterr().err
    assert list(tmp_path.glob("runs/*")) == [first], "nothing was trained"
    assert main(["run", "--from", "last", "--seed", "0", "1", "--json", "-q"]) == 0
    forks = json.loads(capsys.readouterr().out)["runs"]
    assert [each["origin"]["run"] for each in forks] == [told["run_id"]] * 2
    assert [each["seed"] for each in forks] == [0, 1]
    assert all(each["compute"]["steps"] > told["compute"]["steps"] for each in forks)
    assert forks[0]["accuracy_matrix"] != forks[1]["accuracy_matrix"]


def test_a_run_beside_one_that_is_called_like_its_experience_is_itself(origin: Path, tmp_path: Path) -> None:
    """As a fork may be called: `runs/mine@3`, of experience 3 of `runs/mine`."""
    for name in ("run", "run@3"):
        shutil.copytree(origin, tmp_path / name)
    manifest = json.loads((tmp_path / "run@3" / "run.json").read_text())
    (tmp_path / "run@3" / "run.json").write_text(json.dumps({**manifest, "id": "another"}))
    found = open_fork(pinned(str(tmp_path / "run"), tmp_path), tmp_path)
    assert (found.origin["run"], found.experience) == (manifest["id"], 3)


def test_a_projector_of_another_layer_starts_afresh(
    plugins: Plugins, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Though it has the same shape, and the layers are named in `between`."""
    student = {"model": {"kind": "mlp", "hidden": [16, 16]}, "head": "linear"}
    losses = [*BASE["losses"][:3], {**BASE["losses"][3], "between": ["student.layers.0", "previous.layers.0"]}]
    scenario = {**BASE, "student": student, "losses": losses, "output": str(tmp_path / "origin")}
    (tmp_path / "s.yaml").write_text(to_yaml(scenario))
    execute(RunRequest(scenario=tmp_path / "s.yaml", quiet=True, limit_experiences=2), plugins)
    name = "losses.3.between=[student.layers.1, previous.layers.1]"
    with caplog.at_level("INFO", "clkd.engine"):
        fork(plugins, f"{tmp_path}/origin@1", tmp_path / "fork", name, limit_experiences=2)
    assert "features_previous starts afresh, since it compares something else now" in caplog.text
    kept, fresh = (state(tmp_path / each, "exp_001")["terms"]["features_previous"] for each in ("origin", "fork"))
    assert kept["state"]
    assert not fresh["state"] or not torch.equal(*(next(iter(each["state"].values())) for each in (kept, fresh)))
    same = fork(plugins, f"{tmp_path}/origin@1", tmp_path / "same", limit_experiences=2)
    assert same["status"] == "stopped"
    assert_same(state(tmp_path / "same", "exp_001")["terms"], state(tmp_path / "origin", "exp_001")["terms"])


def test_what_a_loss_could_not_be_bound_to_then_is_no_matter(plugins: Plugins, tmp_path: Path) -> None:
    """Layers that were not read, or classes that were too few."""
    losses = [
        "cross_entropy",
        {"kind": "features", "between": ["student", "previous"], "layers": ["penultimate"], "align": "linear"},
        {"kind": "kd", "between": ["student", "previous"]},
    ]
    scenario = {**BASE, "teachers": {"previous": "previous"}, "losses": losses, "output": str(tmp_path / "origin")}
    scenario["stream"] = {**BASE["stream"], "split": {"by": "class", "classes": [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]}}
    (tmp_path / "s.yaml").write_text(to_yaml(scenario))
    execute(RunRequest(scenario=tmp_path / "s.yaml", quiet=True, limit_experiences=2), plugins)
    layers = "losses.1.layers=[layers.0, penultimate]"
    assert fork(plugins, f"{tmp_path}/origin@1", tmp_path / "layers", layers)["status"] == "finished"
    standard = "losses.2.standardize=true"
    assert fork(plugins, f"{tmp_path}/origin@1", tmp_path / "kd", standard)["status"] == "finished"
