"""Nothing that is only data is ever run, and no name in it leads out of the run's own directory."""

from __future__ import annotations

import ast
import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import clkd as package
from clkd import checkpoint
from clkd.scenario.document import to_yaml

SCENARIO = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 6}, "split": {"by": "class", "experiences": 2}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
    "train": {"batch_size": 8, "optimizer": {"kind": "sgd", "lr": 0.05}},
    "tracking": {"mode": "off"},
}


class Evil:
    """What is unpickled of it makes the file `pwned` in the current directory."""

    def __reduce__(self):
        return (Path.touch, (Path.cwd() / "pwned",))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(**sections):
    Path("s.yaml").write_text(to_yaml({**SCENARIO, "output": "run", **sections}))
    return "s.yaml"


def taught(teacher):
    return write(teachers={"t": teacher}, losses=["cross_entropy", {"kind": "kd", "between": ["student", "t"]}])


MLP = {"kind": "mlp", "hidden": [8]}


@pytest.mark.parametrize("save", [torch.save, lambda value, path: Path(path).write_bytes(pickle.dumps(value))])
def test_a_pickle_of_weights_is_not_run(save, here, clkd):
    save({"head.weight": Evil()}, "w.pt")
    done = clkd("run", taught({"kind": "checkpoint", "path": "w.pt", "model": MLP}), "-q")
    assert done.code == 2
    assert "w.pt cannot be read as a state dict: " in done.line
    model = {"kind": "torchvision", "model": "squeezenet1_1", "weights": "w.pt"}
    stream = {
        "dataset": {"name": "digits", "size": 32, "channels": 3, "rows_per_class": 2},
        "split": SCENARIO["stream"]["split"],
    }
    done = clkd("run", write(student={"model": model, "head": "linear"}, stream=stream), "-q")
    assert done.code == 2
    assert "w.pt cannot be read as a state dict" in done.line
    assert not Path("pwned").exists()


def test_a_pickle_among_arrays_is_not_run(here, clkd):
    np.savez("a.npz", x=np.array([Evil()], dtype=object), y=np.arange(1))
    done = clkd(
        "run",
        write(stream={"dataset": {"name": "arrays", "path": "a.npz"}, "split": {"by": "class", "experiences": 1}}),
    )
    assert done.code == 2
    assert "a.npz cannot be read as an npz file of plain arrays: " in done.err.splitlines()[-1]
    assert not Path("pwned").exists()


@pytest.mark.filterwarnings("ignore:.*")  # mlflow's own
def test_a_pickled_model_of_mlflow_is_run_only_if_it_is_trusted(here, clkd, monkeypatch, empty_store):
    import mlflow

    shutil.copy(empty_store, here / "mlflow.db")

    class Model(torch.nn.Linear):
        def __reduce__(self):
            return (Path.touch, (here / "pwned",))

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db")
    with mlflow.start_run(experiment_id=mlflow.create_experiment("theirs", (here / "theirs").as_uri())):
        info = mlflow.pytorch.log_model(
            Model(64, 10), name="m", serialization_format="pickle", pip_requirements=["torch"]
        )
    done = clkd("run", taught({"kind": "mlflow", "uri": info.model_uri}), "-q")
    assert done.code == 2
    assert "`trust: true` allows it" in done.err.splitlines()[-1]
    assert not Path("pwned").exists()
    assert "MLFLOW_ALLOW_PICKLE_DESERIALIZATION" not in os.environ
    with pytest.raises(AttributeError):  # what the pickle made is no model, but by then it was run
        clkd("run", taught({"kind": "mlflow", "uri": info.model_uri, "trust": True}), "-q")
    assert Path("pwned").exists()


@pytest.mark.filterwarnings("ignore:.*")
def test_a_model_of_mlflow_that_brings_code_needs_trust_as_well(here, clkd, monkeypatch, empty_store):
    import mlflow

    shutil.copy(empty_store, here / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db")
    (here / "beside").mkdir()
    (here / "beside" / "helper.py").write_text("x = 1\n")
    with mlflow.start_run(experiment_id=mlflow.create_experiment("theirs", (here / "theirs").as_uri())):
        info = mlflow.pytorch.log_model(
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval(), name="m",
            code_paths=["beside"], pip_requirements=["torch"], input_example=torch.zeros(2, 1, 8, 8).numpy(),
        )  # fmt: skip
    before = list(sys.path)
    done = clkd("run", taught({"kind": "mlflow", "uri": info.model_uri}), "-q")
    assert done.code == 2
    assert "brings code of its own: set `trust: true`" in done.err.splitlines()[-1]
    assert sys.path == before


HOSTILE = "import pathlib; pathlib.Path({here!r}, 'pwned-' + __name__).touch()\n"
SHADOWS = (
    "torch",
    "yaml",
    "click",
    "pluggy",
    "pydantic",
    "numpy",
    "clkd_evil",
    "sitecustomize",
    "usercustomize",
    "mlflow",
)


@pytest.fixture
def hostile(here):
    """A directory full of modules that would be taken for others, and of what looks like an installed plugin."""
    for name in SHADOWS:
        Path(f"{name}.py").write_text(HOSTILE.format(here=str(here)))
    info = Path("clkd_evil-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clkd-evil\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[clkd]\nevil = clkd_evil\n")
    write()
    return here


def commands():
    script = Path(sys.executable).with_name("clkd")
    return {"module": [sys.executable, "-m", "clkd"], **({"script": [str(script)]} if script.exists() else {})}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["module", "script"])
def test_no_code_of_the_current_directory_is_imported(how, hostile):
    if how not in commands():
        pytest.skip(reason="clkd is not installed as a script here")
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    for arguments in (["validate", "s.yaml"], ["run", "s.yaml", "-q"]):
        done = subprocess.run(
            [*commands()[how], *arguments], capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert [path.name for path in hostile.glob("pwned*")] == []
    listed = subprocess.run([*commands()[how], "plugins"], capture_output=True, text=True, check=False, env=environment)
    assert "clkd_evil" not in listed.stdout


def test_a_plugins_directory_is_read_only_if_it_is_named(here, clkd):
    Path("mine").mkdir()
    Path("mine/torch.py").write_text(HOSTILE.format(here=str(here)))
    write()
    assert clkd("run", "s.yaml", "-q").code == 0
    assert list(here.glob("pwned*")) == []
    assert clkd("validate", "s.yaml", "--plugins-dir", "mine").code == 0
    assert [path.name for path in here.glob("pwned*")] == ["pwned-clkd_plugins_dir_torch"], "as itself, not as torch"


def test_a_repository_around_the_run_runs_nothing(here, monkeypatch):
    from clkd.tracking.labels import git_tags

    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        if subprocess.run(["git", *command], capture_output=True, check=False).returncode:
            pytest.skip(reason="git cannot make a repository here")
    Path(".git/hooks").mkdir(exist_ok=True)
    for hook in ("evil", "hooks/post-index-change"):
        Path(".git", hook).write_text(f"#!/bin/sh\ntouch {here}/pwned\n")
        Path(".git", hook).chmod(0o755)
    subprocess.run(["git", "config", "core.fsmonitor", f"{here}/.git/evil"], check=True)
    assert git_tags()["clkd.git_dirty"] == "false"
    assert not Path("pwned").exists()


# Names that lead elsewhere


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../up"},
        {"name": "/up"},
        {"name": "a/b"},
        {"losses": [{"kind": "cross_entropy", "name": "../up"}]},
        {"teachers": {"../up": "ema"}, "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "../up"]}]},
    ],
)
def test_names_that_become_paths_are_checked(change, here, clkd):
    assert clkd("validate", write(**change)).code == 2


@pytest.mark.parametrize("name", ["../up", "/up", "a/b", "..", ".", "", ".hidden"])
def test_a_checkpoint_stays_in_its_directory(name, here):
    with pytest.raises(ValueError, match="no plain name"):
        checkpoint.save(here / "checkpoints", name, {})
    assert list(here.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*")  # mlflow's own
def test_class_names_and_experiments_cannot_lead_out(here, clkd, empty_store):
    """They become names of metrics, parameters and folders of artifacts."""
    names = ["../../../up", "/etc/up", "..\\up", "a/../../b"]
    np.savez("a.npz", x=np.random.default_rng(0).normal(size=(40, 4)), y=np.arange(40) % 4, class_names=names)
    inside = here / "inside"
    inside.mkdir()
    shutil.copy(empty_store, inside / "mlflow.db")
    stream = {"dataset": {"name": "arrays", "path": str(here / "a.npz")}, "split": {"by": "class", "experiences": 2}}
    tracking = {"mode": "mlflow", "experiment": "../../../up", "uri": f"sqlite:///{inside}/mlflow.db"}
    path = write(stream=stream, tracking=tracking, output=str(inside / "run"))
    done = clkd("run", path, "-q")
    assert (done.code, [line for line in done.err.splitlines() if "failed" in line]) == (0, [])
    assert sorted(entry.name for entry in here.iterdir()) == ["a.npz", "inside", "s.yaml"]
    assert {entry.name for entry in inside.iterdir()} == {".mlflow.db.lock", "mlartifacts", "mlflow.db", "run"}
    assert [entry.name for entry in (inside / "mlartifacts").iterdir()] == [".._.._.._up"]


def test_an_archive_writes_nowhere(here, clkd, monkeypatch):
    (here / "in" / "here").mkdir(parents=True)
    monkeypatch.chdir(here / "in" / "here")
    with tarfile.open("cifar-10-python.tar.xz", "w:xz") as tar:
        for name in ("../../up", "/up", "cifar-10-batches-py/../../data_batch_1", *(f"x/{name}" for name in BATCHES)):
            info = tarfile.TarInfo(name)
            info.size = 5
            tar.addfile(info, io.BytesIO(b"hello"))
        link = tarfile.TarInfo("cifar-10-batches-py")
        link.type, link.linkname = tarfile.SYMTYPE, "../.."
        tar.addfile(link)
    before = set(here.rglob("*"))
    done = clkd("run", write(stream={**SCENARIO["stream"], "dataset": {"name": "cifar10", "root": "."}}), "-q")
    assert done.code == 2
    assert "does not hold the published cifar10 (a checksum differs)" in done.err.splitlines()[-1]
    assert {path.name for path in set(here.rglob("*")) - before} <= {"s.yaml"}
    assert not Path("/up").exists()


BATCHES = ("batches.meta", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


def test_an_archive_that_unpacks_without_end_is_refused(here, clkd, monkeypatch):
    monkeypatch.setattr("clkd.data.cifar.MOST_UNPACKED", 1000)
    with tarfile.open("cifar10.tar.xz", "w:xz") as tar:
        info = tarfile.TarInfo("zeros")
        info.size = 10_000
        tar.addfile(info, io.BytesIO(bytes(10_000)))
    done = clkd("run", write(stream={**SCENARIO["stream"], "dataset": {"name": "cifar10", "root": "."}}), "-q")
    assert done.code == 2
    assert "cifar10.tar.xz unpacks to more than" in done.err.splitlines()[-1]


# The source itself

FORBIDDEN = (
    "pickle.load",
    "pickle.loads",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "eval",
    "exec",
    "os.system",
    "torch.jit.load",
)


def test_no_call_in_the_source_can_run_data():
    roots = [Path(package.__file__).parent, Path(package.__file__).parents[1] / "plugins"]
    files = [path for root in roots for path in root.rglob("*.py") if "build" not in path.parts]
    assert len(files) > 100
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            given = {each.arg: getattr(each.value, "value", None) for each in node.keywords}
            own = ast.unparse(node).startswith("pickle.loads(pickle.dumps(")  # what this very line wrote
            assert own or name not in FORBIDDEN, f"{path}:{node.lineno}"
            assert name != "torch.load" or given.get("weights_only") is True, f"{path}:{node.lineno}"
            assert name != "np.load" or given.get("allow_pickle") is False, f"{path}:{node.lineno}"
            assert not name.endswith(("extractall", ".extract")), f"{path}:{node.lineno}"
            assert given.get("shell") is not True, f"{path}:{node.lineno}"
