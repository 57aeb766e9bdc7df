"""A real MLflow store on SQLite: what a run leaves there, whole, resumed, failed and killed."""

import errno
import json
import logging
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from addresses import nobody

from clkd.errors import TrackingError
from clkd.tracking import artifacts, store
from clkd.tracking.group import Trackers
from clkd.tracking.jsonl import JsonlTracker
from clkd.tracking.mlflow import MlflowTracker
from clkd.tracking.sync import sync

# MLflow asks SQLAlchemy for a loader that the latest SQLAlchemy gives up; there is nothing we can call instead.


@pytest.fixture(autouse=True)
def here(empty_store, tmp_path, monkeypatch):
    """The current directory holds a fresh store."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


class recorded(Trackers):  # noqa: N801  # reads as what it is: `drive(recorded())`
    """MLflow as every run has it, behind its own JSON lines."""

    def __init__(self, *arguments, **options):
        self.mlflow = MlflowTracker(*arguments, **options)
        super().__init__([JsonlTracker(), self.mlflow])

    def settle(self):
        self.mlflow.settle()


def client(run):
    return store.open_client(run.tracking["mlflow"]["uri"])


def stored(run):
    return client(run).get_run(run.tracking["mlflow"]["run_id"])


def history(run, key, identity=None):
    identity = identity or run.tracking["mlflow"]["run_id"]
    return [(point.step, point.value) for point in client(run).get_metric_history(identity, key)]


def artifact(run, name):
    return Path(client(run).download_artifacts(run.tracking["mlflow"]["run_id"], name))


def all_points(run):
    """Every point of the parent and the children; a doubled one is seen, since these are lists."""
    at = client(run)
    runs = [run.tracking["mlflow"]["run_id"], *run.tracking["mlflow"]["children"].values()]
    return [
        {key: [step for step, _ in history(run, key, identity)] for key in at.get_run(identity).data.metrics}
        for identity in runs
    ]


# What a whole run leaves


@pytest.fixture(scope="module")
def whole(told, empty_store, tmp_path_factory):
    """Told once, for all who only read what the store has of it."""
    home = tmp_path_factory.mktemp("whole")
    shutil.copy(empty_store, home / "mlflow.db")
    return told(recorded(f"sqlite:///{home}/mlflow.db", tags={"who": "me", "clkd.seed": "forged"}))


def test_the_parent_says_which_run_it_is(whole):
    found = stored(whole)
    assert found.info.run_name == "tiny s3"
    assert found.info.status == "FINISHED"
    tags = found.data.tags
    expected = {
        "clkd.run_id": "tiny-1", "clkd.seed": "3", "clkd.dataset": "cifar10", "clkd.stand_in": "digits", "who": "me",
        "clkd.plugins": "clkd-extra==1.0", "clkd.status_detail": "finished", "mlflow.source.name": "clkd run tiny.yaml",
    }  # fmt: skip
    assert {name: tags[name] for name in expected} == expected
    assert tags["clkd.group"] == f"tiny-{tags['clkd.config_sha'][:8]}"
    assert "| 2 | 50.0 | 70.0 | 95.0 |" in tags["mlflow.note.content"]
    assert "average accuracy: 71.7 %" in tags["mlflow.note.content"]


def test_the_experiment_keeps_its_artifacts_beside_the_database_right_here(drive, here):
    run = drive(recorded(), experiences=0)
    assert run.tracking["mlflow"]["uri"] == f"sqlite:///{here}/mlflow.db"
    experiment = client(run).get_experiment(run.tracking["mlflow"]["experiment_id"])
    assert experiment.name == "tiny"
    assert experiment.tags["clkd.schema"] == "1"
    assert experiment.artifact_location == (here / "mlartifacts" / "tiny").as_uri()
    assert not (here / "mlruns").exists()


def test_parameters_are_the_resolved_scenario(whole):
    params = stored(whole).data.params
    assert params["losses.1.kind"] == "kd"
    assert params["losses.1.between"] == '["student", "previous"]'
    assert params["groups"] == "[[0, 1], [2, 3]]"
    assert params["train.clip_norm"] == "null"
    assert params["seed"] == "3"
    assert params["more119"] == "119"
    assert params["long"] == "x" * 6000
    assert len(yaml.safe_load(artifact(whole, "config.resolved.yaml").read_text())["long"]) == 9000


def test_a_class_keeps_its_name_whoever_comes_before_it(drive, make_run):
    run, tracker = make_run(id="apart"), recorded()
    tracker.start(run)
    for i, classes in enumerate(({"c#": 0.1}, {"c+": 0.9, "c#": 0.2})):
        drive.train(tracker, run, i)
        drive.finish(tracker, run, i, per_class=classes)
    tracker.end(run, drive.outcome(run))
    assert history(run, "class_acc/c_") == [(0, 0.1), (1, 0.2)]
    assert history(run, "class_acc/c__") == [(1, 0.9)]


def test_metrics_have_their_names_and_steps(whole):
    assert [step for step, _ in history(whole, "train/loss")] == [10, 20, 30, 40, 50, 60]
    assert history(whole, "train/loss_kd__0_") == [(10 * i, 0.5) for i in range(1, 7)]
    assert history(whole, "acc_matrix/exp_00") == [(0, 0.9), (1, 0.6), (2, 0.5)]
    assert history(whole, "acc_matrix/exp_01") == [(1, 0.8), (2, 0.7)]
    assert history(whole, "acc_matrix_task_aware/exp_02") == [(2, pytest.approx(0.99))]
    assert history(whole, "class_acc/class 2") == [(1, 0.25)]
    assert [step for step, _ in history(whole, "class_acc/a/b _1")] == [0, 1, 2]
    assert history(whole, "model/student_parameters") == [(0, 1234)]
    assert [step for step, _ in history(whole, "time/train_s")] == [0, 1, 2]
    (first, *rest) = history(whole, "stream/forgetting")
    assert math.isnan(first[1])
    assert rest == [(1, 0.1), (2, 0.1)]


def test_each_experience_has_a_child_with_its_row_and_data(whole):
    parent = whole.tracking["mlflow"]["run_id"]
    at = client(whole)
    children = [at.get_run(whole.tracking["mlflow"]["children"][str(i)]) for i in range(3)]
    assert [child.info.run_name for child in children] == ["exp_00 [0, 1]", "exp_01 [2, 3]", "exp_02 [4, 5]"]
    assert {child.info.status for child in children} == {"FINISHED"}
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent}
    assert history(whole, "acc_matrix/exp_01", children[2].info.run_id) == [(2, 0.7)]
    (data,) = children[1].inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits/exp_01", "digest1")
    assert len(at.search_runs([whole.tracking["mlflow"]["experiment_id"]])) == 4


def test_artifacts(whole):
    assert artifact(whole, "scenario.yaml").read_text() == whole.source
    assert "torch==" in artifact(whole, "environment.txt").read_text()
    assert len(artifact(whole, "metrics.jsonl").read_text().splitlines()) == 11  # the end is among them
    assert artifact(whole, "accuracy_matrix.csv").read_text() == (
        "after,exp_00,exp_01,exp_02\nexp_00,0.9,,\nexp_01,0.6,0.8,\nexp_02,0.5,0.7,0.95\n"
    )
    assert json.loads(artifact(whole, "accuracy_matrix.json").read_text())["accuracy_matrix"][2] == [0.5, 0.7, 0.95]
    assert json.loads(artifact(whole, "result.json").read_text())["run_id"] == "tiny-1"
    for figure in ("accuracy_matrix", "forgetting"):
        assert artifact(whole, f"figures/{figure}.png").read_bytes().startswith(b"\x89PNG")


def test_without_child_runs_there_is_one_run(drive):
    run = drive(recorded(child_runs=False, experiment="another one"), experiences=1)
    assert len(client(run).search_runs([run.tracking["mlflow"]["experiment_id"]])) == 1
    assert client(run).get_experiment_by_name("another one")


def test_seeds_share_a_group_and_methods_do_not(drive, make_run):
    def group(name, **config):
        run = make_run(id=name)
        resolved = {**run.scenario.model_dump("json"), **config}
        run.scenario.model_dump = lambda mode, **how: resolved
        return stored(drive(recorded(), run, experiences=0)).data.tags["clkd.group"]

    assert group("a", seed=1, output="x") == group("b", seed=2, tracking={"mode": "off"})
    assert group("c") != group("d", train={"epochs": 3})


def test_the_commit_of_the_current_directory(drive, here, make_run):
    assert "mlflow.source.git.commit" not in stored(drive(recorded(), experiences=0)).data.tags

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *who, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    (here / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-m", "first")
    tags = stored(drive(recorded(), make_run(id="clean"), experiences=0)).data.tags
    assert tags["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
    assert tags["clkd.git_dirty"] == "false"
    (here / "code.py").write_text("2")
    assert stored(drive(recorded(), make_run(id="dirty"), experiences=0)).data.tags["clkd.git_dirty"] == "true"


def test_without_git_a_run_has_no_commit(drive, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert stored(drive(recorded(), experiences=0)).info.status == "FINISHED"


# How it ends


@pytest.mark.parametrize(
    ("status", "shown"), [("finished", "FINISHED"), ("stopped", "FINISHED"), ("failed", "FAILED"), ("killed", "KILLED")]
)
def test_the_status_is_set(drive, status, shown):
    found = stored(drive(recorded(), status=status, error="why" if status == "failed" else None, experiences=0))
    assert found.info.status == shown
    assert found.info.end_time
    assert found.data.tags["clkd.status_detail"] == status
    assert found.data.tags.get("clkd.error") == ("why" if status == "failed" else None)


def test_tags_are_there_under_names_that_mlflow_accepts(drive):
    tags = {"team": "x", "issue #12": "a", "issue (12": "b", "clkd.seed/": "forged", "": "nameless", "x" * 300: "long"}
    found = stored(drive(recorded(tags=tags), experiences=1))
    assert found.info.status == "FINISHED"
    shown = {name: found.data.tags[name] for name in ("team", "issue _12", "issue _12_", "clkd.seed", "_", "x" * 250)}
    assert list(shown.values()) == ["x", "a", "b", "3", "nameless", "long"]


def test_the_status_is_set_even_where_artifacts_cannot_be_written(drive, make_run, here, caplog):
    run = make_run()
    tracker = recorded()
    tracker.start(run)
    drive.finish(tracker, run, 0)
    tracker.settle()
    shutil.rmtree(here / "mlartifacts")
    (here / "mlartifacts").write_text("in the way")
    tracker.end(run, drive.outcome(run, "killed"))
    assert stored(run).info.status == "KILLED"
    assert "MLflow lacks some of this run's artifacts" in caplog.text


def test_the_status_is_set_even_where_the_record_does_not_say_it(drive, make_run, monkeypatch, caplog):
    def full(*about):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(JsonlTracker, "end", full)
    found = stored(drive(recorded(), make_run(), status="failed", error="disk full", experiences=1))
    assert (found.info.status, found.data.tags["clkd.error"]) == ("FAILED", "disk full")
    assert "tracker 'jsonl' failed" in caplog.text


# Going on


@pytest.mark.parametrize("remembered", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_same_run_with_no_point_twice(drive, make_run, remembered):
    """The process dies in experience 2 after the checkpoint of experience 0: 1 is trained and told a second time."""
    run = make_run()
    tracker = recorded()
    tracker.start(run)
    for i in range(2):
        drive.train(tracker, run, i)
        drive.finish(tracker, run, i)
    drive.train(tracker, run, 2, epochs=1)
    tracker.settle()
    first = dict(run.tracking["mlflow"])
    tracker.end(run, drive.outcome(run, "failed", "out of memory"))

    state = {"mlflow": {**first, "children": {}}} if remembered else {}
    resumed = make_run(trained=1, tracking=state)
    tracker = recorded()
    tracker.start(resumed)
    tracker.settle()
    assert stored(resumed).info.status == "RUNNING"
    assert "clkd.error" not in stored(resumed).data.tags
    for i in range(1, 3):
        drive.train(tracker, resumed, i)
        drive.finish(tracker, resumed, i)
    tracker.end(resumed, drive.outcome(resumed))

    assert resumed.tracking["mlflow"]["run_id"] == first["run_id"]
    assert stored(resumed).info.status == "FINISHED"
    assert len(client(resumed).search_runs([first["experiment_id"]])) == 4
    whole = drive(recorded(), make_run(id="whole"))
    assert all_points(resumed) == all_points(whole)


@pytest.mark.slow
def test_artifacts_of_an_earlier_end_are_replaced_later_where_the_last_end_could_not(drive, make_run, monkeypatch):
    def full(*about):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = drive(recorded(), make_run(), experiences=1, status="killed")
    resumed = make_run(trained=1, tracking=run.tracking)
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "log", full)
        drive(recorded(), resumed)
    assert stored(resumed).info.status == "FINISHED"
    first = sync(resumed.directory, resumed.tracking["mlflow"]["uri"])
    assert first.brought["artifacts"]
    for name in ("metrics.jsonl", "result.json"):
        assert artifact(resumed, name).read_text() == (resumed.directory / name).read_text()
    assert artifact(resumed, "accuracy_matrix.csv").read_text().count("\n") == 4
    assert not sync(resumed.directory, resumed.tracking["mlflow"]["uri"]).brought


@pytest.mark.slow
def test_a_resume_from_elsewhere_finds_the_store_it_began_in(drive, make_run, here, monkeypatch):
    run = drive(recorded(), experiences=1, status="killed")
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    again = drive(recorded(), make_run(trained=1, tracking=run.tracking))
    assert again.tracking["mlflow"]["uri"] == f"sqlite:///{here}/mlflow.db"
    assert list(elsewhere.iterdir()) == []


@pytest.mark.slow
def test_a_run_deleted_in_mlflow_is_recorded_afresh(drive, make_run):
    run = drive(recorded(), experiences=1, status="killed")
    old = run.tracking["mlflow"]["run_id"]
    client(run).delete_run(old)
    again = drive(recorded(), make_run(trained=1, tracking=run.tracking))
    assert again.tracking["mlflow"]["run_id"] != old
    assert history(again, "acc_matrix/exp_00") == [(0, 0.9), (1, 0.6), (2, 0.5)], "with what the old one had"


def test_a_changed_parameter_does_not_break_a_resume(drive, make_run):
    run = drive(recorded(), experiences=1, status="killed")
    again = make_run(trained=1, tracking=run.tracking, device="cuda")
    assert stored(drive(recorded(), again)).data.params["device"] == "cpu"


# Numbers that are none, and many


def test_infinity_is_told_and_shown_as_no_number(drive, make_run, caplog):
    run = make_run()
    tracker = recorded()
    tracker.start(run)
    tracker.epoch(run, drive.experience(0), {"train/loss": math.inf})
    run.step = 1
    tracker.epoch(run, drive.experience(0), {"train/loss": -math.inf})
    tracker.settle()
    assert all(math.isnan(value) for _, value in history(run, "train/loss"))
    assert caplog.text.count("'train/loss' is infinite") == 1


def test_any_name_is_accepted_and_stays_another_than_all_others(drive, make_run):
    names = ["a[3]", "@#", "/lead", "../up", "a//b", "ünï", "x" * 300, "a\nb", " ", ""]
    names += [name + "?" for name in names]
    run = make_run()
    tracker = recorded()
    tracker.start(run)
    tracker.epoch(run, drive.experience(0), {name: float(i) for i, name in enumerate(names)})
    tracker.settle()
    values = [value for key, value in stored(run).data.metrics.items() if key != "model/student_parameters"]
    assert sorted(values) == list(range(len(names)))


def test_more_numbers_than_one_request_takes(drive, make_run):
    run = make_run()
    tracker = recorded()
    tracker.start(run)
    drive.finish(tracker, run, 0, per_class={f"class {i}": i / 1500 for i in range(1500)})
    tracker.settle()
    assert stored(run).data.metrics["class_acc/class 1499"] == 1499 / 1500


# Stores that are not there


def test_a_file_store_is_refused_with_the_way_out(drive, make_run, caplog):
    for uri in ["file:./mlruns", "./mlruns"]:
        with pytest.raises(TrackingError, match=r"file store.*give sqlite:///"):
            MlflowTracker(uri).start(make_run())
    drive(recorded("file:./mlruns"))
    assert "is a file store" in caplog.text


def test_a_database_that_is_none_is_named_at_once(drive, make_run, here, caplog):
    (here / "text.db").write_text("not a database at all, but long enough to be looked at " * 99)
    (here / "in the way").write_text("")
    for uri, why in (("text.db", "is not a database"), ("in the way/m.db", "File exists")):
        caplog.clear()
        drive(recorded(f"sqlite:///{here}/{uri}"), make_run(id=uri[:4]), experiences=0)
        assert f"MLflow's database {here}/{uri} cannot be opened" in caplog.text
        assert why in caplog.text
        assert "MLflow lacks 2 of this run's 2 records" in caplog.text


def test_the_environment_names_the_store(drive, here, monkeypatch, empty_store):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///sub/other.db")
    (here / "sub").mkdir()
    shutil.copy(empty_store, here / "sub" / "other.db")
    run = drive(recorded(), experiences=1)
    assert run.tracking["mlflow"]["uri"] == f"sqlite:///{here}/sub/other.db"
    assert (here / "sub" / "mlartifacts" / "tiny").is_dir()


@pytest.mark.slow
def test_a_resumed_run_is_recorded_anew_in_another_store_that_the_environment_names(
    drive, make_run, here, monkeypatch, empty_store
):
    run = drive(recorded(), experiences=1, status="killed")
    (here / "sub").mkdir()
    shutil.copy(empty_store, here / "sub" / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///sub/other.db")
    again = drive(recorded(), make_run(trained=1, tracking=dict(run.tracking)))
    assert again.tracking["mlflow"]["uri"] == f"sqlite:///{here}/sub/other.db"
    assert history(again, "acc_matrix/exp_00") == [(0, 0.9), (1, 0.6), (2, 0.5)], "with what came before"
    assert stored(run).info.status == "KILLED"


def test_a_leftover_file_store_does_not_matter(drive, here):
    (here / "mlruns" / "0").mkdir(parents=True)
    (here / "mlruns" / "0" / "meta.yaml").write_text("name: Default\n")
    assert stored(drive(recorded(), experiences=0)).info.status == "FINISHED"


def test_a_deleted_experiment_is_named_with_the_way_out(drive, make_run):
    run = drive(recorded(), experiences=0)
    client(run).delete_experiment(run.tracking["mlflow"]["experiment_id"])
    again = recorded()
    again.start(make_run(id="another"))
    with pytest.raises(TrackingError, match="mlflow experiments restore --experiment-id"):
        again.settle()


def test_a_server_that_is_down_costs_no_time(drive, caplog):
    with nobody() as address:
        begin = time.perf_counter()
        drive(recorded(f"http://{address}"))
        assert time.perf_counter() - begin < 20, "MLflow itself would try for minutes, and clkd waits for two here"
    assert caplog.text.count("tracker 'mlflow' failed") <= 1
    assert "MLflow lacks 11 of this run's 11 records" in caplog.text
    assert "clkd track sync runs/tiny-1" in caplog.text


def test_another_store_that_never_answers_is_not_said_to_have_the_run(drive, make_run):
    """Of a resumed run: the numbers that the first store gave mean nothing there."""
    run = drive(recorded(), experiences=1)
    assert run.tracking["mlflow"]["run_id"]
    with nobody() as address:
        again = drive(recorded(f"http://{address}"), make_run(id="again", tracking=dict(run.tracking)), experiences=0)
    noted = again.tracking["mlflow"]
    assert noted["uri"] == f"http://{address}"
    assert not noted.keys() & {"experiment_id", "run_id", "children"}


def test_a_server_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(store, "PATIENCE_SECONDS", 0.2)
    begin = time.perf_counter()
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TrackingError, match="timed out"):
        store.check_reachable(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert time.perf_counter() - begin < 20


def test_mlflows_own_patience_is_put_back(monkeypatch):
    monkeypatch.setenv(store.RETRIES, "5")
    monkeypatch.delenv(store.TIMEOUT, raising=False)
    with store.impatient("sqlite:///m.db"):
        assert os.environ[store.RETRIES] == "5", "nobody is asked over the network"
    with store.impatient("http://here"):
        with store.impatient("http://here"):
            pass
        assert (os.environ[store.RETRIES], os.environ[store.TIMEOUT]) == ("0", "10")
    assert os.environ[store.RETRIES] == "5"
    assert store.TIMEOUT not in os.environ
    monkeypatch.setenv(store.TIMEOUT, "60")
    with store.impatient("http://here"):
        assert os.environ[store.TIMEOUT] == "60", "who has a slow server says so"


# Manners


@pytest.mark.slow
def test_mlflow_keeps_quiet_and_our_warnings_do_not(tmp_path):
    """A first use makes the schema, with hundreds of lines if one lets it."""
    code = """
import logging
from clkd.tracking import store
uri = store.resolve_uri("sqlite:///fresh.db")
client = store.open_client(uri)
run = client.create_run(store.find_experiment(client, "x", uri))
client.set_terminated(run.info.run_id, "FINISHED")
logging.getLogger("clkd.tracking").warning("this is ours")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == ""
    assert done.stderr.splitlines() == ["this is ours"]


def test_levels_the_user_chose_stay(monkeypatch):
    logger = logging.getLogger("alembic")
    before = logger.level
    logger.setLevel(logging.ERROR)
    store.open_client(store.resolve_uri(None))
    assert logger.level == logging.ERROR
    logger.setLevel(before)


def test_the_front_door_and_the_tracker_load_neither_torch_nor_mlflow():
    code = (
        "import sys, clkd.tracking, clkd.tracking.mlflow, clkd.tracking.console, clkd.tracking.group\n"
        "print(sorted({'torch', 'mlflow', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
