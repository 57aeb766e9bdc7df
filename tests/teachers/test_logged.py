"""Models out of MLflow as teachers: a logged student comes back, and its pupils go on without the store."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from addresses import nobody
from taught import SCENARIO, compose, composer, logits, rows_of

from clkd.engine.execute import execute
from clkd.errors import UserError
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest
from clkd.signals import Needs

pytestmark = pytest.mark.filterwarnings("ignore:.*")  # MLflow's own, when it loads a model

ORIGIN: dict[str, Any] = {
    "name": "student",
    "stream": SCENARIO["stream"],
    "student": {"model": {"kind": "mlp", "hidden": [12]}, "head": "cosine"},
    "train": {"epochs": 3, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.1}},
    "tracking": {"log_model": "each"},
}
ONCE = {**ORIGIN, "tracking": {"log_model": "final"}}
CHAMPION = {"kind": "mlflow", "uri": "models:/student@champion"}


def settle(home: Path, store: Path, patch: pytest.MonkeyPatch) -> Path:
    """The current directory becomes `home`, with a fresh store and a cache of its own."""
    patch.chdir(home)
    patch.setenv("CLKD_CACHE", str(home / "cache"))
    shutil.copy(store, home / "mlflow.db")
    return home


@pytest.fixture
def here(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of this test's own."""
    return settle(tmp_path, empty_store, monkeypatch)


def train(name: str, scenario: dict[str, Any], **request: Any) -> dict[str, Any]:
    path = Path(f"{name}.yaml")
    path.write_text(to_yaml({**scenario, "output": name}))
    return execute(RunRequest(scenario=path, quiet=True, **request), load_plugins())


@pytest.fixture(scope="module")
def home(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a student, logged after each of two experiences."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):
        home = settle(tmp_path_factory.mktemp("logged"), empty_store, patch)
        patch.setenv("CLKD_OFFLINE", "1")
        train("origin", ORIGIN)
    return home


@pytest.fixture
def logged(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, for those who leave it as it is."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("CLKD_CACHE", str(home / "cache"))
    return home


def taught(**teacher: Any) -> dict[str, Any]:
    return {**SCENARIO, "name": "second", "teachers": {"big": {**CHAMPION, **teacher}}}


def run_id() -> str:
    from clkd.tracking import store

    client = store.open_client(store.resolve_uri(None))
    experiment = client.get_experiment_by_name("student").experiment_id
    found: str = client.search_runs([experiment], "tags.`clkd.run_id` != ''")[0].info.run_id
    return found


# What it says


def test_it_says_what_the_student_says_that_was_logged(logged: Path) -> None:
    """To the last bit: 8-bit pixels survive being normalised and back. However it is named, and in augmented views."""
    stream = {**SCENARIO["stream"], "augment": {"crop": 1, "flip": True}}
    same = compose(logged, {"kind": "run", "run": "origin"}, stream=stream)
    batch = same.parts.augment.look(same.stream[0].train.gather(torch.arange(40)), torch.Generator(), 0)
    expected = same.parts.teachers["big"].signals(batch, Needs()).logits
    for uri in ("models:/student@champion", "models:/student/2", f"runs:/{run_id()}/student", "origin/models/exp_001"):
        made = compose(logged, {"kind": "mlflow", "uri": uri}, stream=stream)
        said = made.parts.teachers["big"].signals(batch, Needs())
        assert said.logits is not None
        assert torch.equal(said.logits, expected), uri
        assert said.class_ids.tolist() == list(same.parts.teachers["big"].spec().class_ids)
    earlier = compose(logged, {"kind": "mlflow", "uri": "models:/student/1"}, stream=stream)
    assert earlier.parts.teachers["big"].spec().class_ids == (0, 1, 2, 3, 4)


def test_it_is_frozen_and_knows_the_rows_of_its_classes(logged: Path) -> None:
    made = compose(logged, {"kind": "mlflow", "uri": "models:/student/1"})
    teacher = made.parts.teachers["big"]
    module = teacher.module()
    assert module is not None
    assert not any(each.training for each in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    rows = made.stream[1].train.gather(torch.arange(4))
    valid = teacher.signals(rows.seen_as(made.parts.augment.plain(rows.x)), Needs()).valid
    assert valid is not None
    assert not valid.any(), "experience 1 brings classes that it has not learned"


def test_classes_are_matched_by_name_whatever_their_order(logged: Path) -> None:
    order = [5, 9, 0, 2, 1, 3, 8, 7, 6, 4]
    stream = {**SCENARIO["stream"], "split": {"by": "class", "experiences": 2, "order": order}}
    teacher = compose(logged, CHAMPION, stream=stream).parts.teachers["big"]
    assert sorted(teacher.spec().class_ids) == list(range(10))
    chosen = compose(logged, {**CHAMPION, "classes": [*range(9, 0, -1), None]}).parts.teachers["big"]
    assert chosen.spec().class_ids[:9] == tuple(range(9, 0, -1))
    assert chosen.spec().class_ids[9] >= 10


def test_rows_of_another_size_and_channels_are_brought_to_what_it_takes(logged: Path) -> None:
    """16 × 16 in three channels; it was trained on 8 × 8 in one."""
    wide = {**SCENARIO["stream"], "dataset": {"name": "digits", "rows_per_class": 12, "size": 16, "channels": 3}}
    made = compose(logged, CHAMPION, stream=wide)
    plain = compose(logged, CHAMPION)
    said, expected = logits(made, 50), logits(plain, 50)
    assert said.shape == expected.shape
    assert (said.argmax(1) == expected.argmax(1)).float().mean() > 0.7, "interpolated twice"
    with pytest.raises(UserError, match=r"view: this model normalises its rows by itself: leave mean and std out"):
        compose(logged, {**CHAMPION, "view": {"mean": [0.5], "std": [0.5]}})
    with pytest.raises(UserError, match=r"view: that model's rows are 1×8×8, and these would be 1×4×4"):
        compose(logged, {**CHAMPION, "view": {"size": 4}})


@pytest.mark.slow
def test_vectors_come_as_the_data_set_has_them(here: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 12)
    x = (7 * rng.normal(size=(48, 5)) + y[:, None]).astype("float32")
    np.savez("v.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    stream = {"dataset": {"name": "arrays", "path": "v.npz"}, "split": {"by": "class", "experiences": 2}}
    train("origin", {**ONCE, "stream": stream})
    same = compose(here, {"kind": "run", "run": "origin"}, stream=stream)
    made = compose(here, CHAMPION, stream=stream)
    torch.testing.assert_close(logits(made, 20), logits(same, 20), rtol=1e-4, atol=1e-5)


# Runs with it


@pytest.mark.slow
def test_its_answers_are_kept_and_found_by_its_weights(logged: Path) -> None:
    """The same student under another name is answered for; another student is not."""

    def identity(uri: str) -> Any:
        return compose(logged, {"kind": "mlflow", "uri": uri}).parts.teachers["big"].identity()

    assert identity("models:/student@champion") == identity("models:/student/2") == identity("origin/models/exp_001")
    assert identity("models:/student/1") != identity("models:/student/2")

    def hits(name: str) -> list[float]:
        lines = map(json.loads, Path(name, "metrics.jsonl").read_text().splitlines())
        return [line["metrics"]["teacher_cache/big/hit_rate"] for line in lines if line["event"] == "experience"]

    first, second = (train(name, taught()) for name in ("a", "b"))
    assert first["accuracy_matrix"] == second["accuracy_matrix"]
    assert hits("a")[0] < 1
    assert hits("b") == [1.0, 1.0]


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_copy_when_the_store_is_gone(here: Path) -> None:
    train("origin", ONCE)
    scenario = {**taught(), "tracking": {"mode": "off"}}
    whole = train("whole", scenario)
    train("cut", scenario, limit_experiences=1)
    (here / "mlflow.db").unlink()
    shutil.rmtree("mlartifacts")
    shutil.rmtree("origin")
    shutil.rmtree("cache")
    cut = execute(RunRequest(resume="cut", quiet=True), load_plugins())
    assert cut["accuracy_matrix"] == whole["accuracy_matrix"]
    about = json.loads(Path("cut/run.json").read_text())["teachers"]["big"]
    assert about["uri"] == "models:/student@champion"
    file = Path("cut/teachers", about["file"], "data/model.pt2")
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(UserError, match="there is no database"):
        execute(RunRequest(resume="cut", quiet=True), load_plugins())


@pytest.mark.slow
def test_a_run_stays_with_the_champion_that_it_began_with(here: Path) -> None:
    train("origin", ONCE)
    scenario = {**taught(), "tracking": {"mode": "off"}}
    whole = train("whole", scenario)
    train("cut", scenario, limit_experiences=1)
    train("other", {**ONCE, "seed": 7})
    assert execute(RunRequest(resume="cut", quiet=True), load_plugins())["accuracy_matrix"] == whole["accuracy_matrix"]
    assert train("new", scenario)["accuracy_matrix"] != whole["accuracy_matrix"]


# What is refused


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        (
            {"uri": "models:/nobody@champion"},
            "'models:/nobody@champion' cannot be loaded from MLflow sqlite:",
        ),
        ({"uri": "models:/student@nobody"}, "'models:/student@nobody' cannot be loaded from MLflow sqlite:"),
        ({"uri": "models:/student/9"}, "cannot be loaded from MLflow"),
        ({"uri": "runs:/0123456789abcdef0123456789abcdef/student"}, "cannot be loaded from MLflow"),
        ({"uri": "nowhere/at/all"}, "cannot be loaded from MLflow"),
        ({"classes": [0, 1]}, "'classes' names 2 classes, but the teacher has 10 outputs"),
    ],
)
def test_what_is_not_there_is_one_line(logged: Path, teacher: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        compose(logged, {**CHAMPION, **teacher})
    assert str(error.value).startswith("teachers.big: ")
    assert "\n" not in str(error.value)


def test_a_store_that_does_not_answer_or_is_not_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As chosen for tracking: by the scenario first, then by the environment."""
    with nobody() as address, pytest.raises(UserError, match=f"MLflow server http://{address} does not answer"):
        compose(here, CHAMPION, tracking={"uri": f"http://{address}"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///gone.db")
    with pytest.raises(UserError, match=r"there is no database .*gone\.db"):
        compose(here, CHAMPION)
    assert not Path("gone.db").exists()


def test_no_class_in_common_and_no_features(logged: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    names = np.array(["ant", "bee"])
    y = np.arange(40) % 2
    np.savez("other.npz", x_train=rows, y_train=y, x_test=rows, y_test=y, class_names=names)
    stream = {"dataset": {"name": "arrays", "path": "other.npz"}, "split": {"by": "class", "experiences": 1}}
    with pytest.raises(UserError, match=r"classes \(0, 1, 2, 3, 4, …\) and the stream's have no name in common"):
        compose(logged, CHAMPION, stream=stream)
    losses = ["cross_entropy", {"kind": "features", "between": ["student.penultimate", "big.penultimate"]}]
    with pytest.raises(UserError, match="this teacher gives logits only, so 'penultimate' cannot be read of it"):
        compose(logged, CHAMPION, losses=losses)


@pytest.fixture
def foreign() -> Callable[..., str]:
    """Logs somebody else's exported model, for normalised rows: its URI and itself."""
    import mlflow

    def log(model: torch.nn.Module) -> str:
        mlflow.set_tracking_uri(f"sqlite:///{Path.cwd()}/mlflow.db")  # one that is relative, MLflow opens only once
        example = torch.zeros(2, 1, 8, 8).numpy()
        experiment = mlflow.create_experiment("theirs", (Path.cwd() / "theirs").as_uri())
        with mlflow.start_run(experiment_id=experiment):
            uri: str = mlflow.pytorch.log_model(
                model, name="m", input_example=example, pip_requirements=["torch"]
            ).model_uri
        mlflow.set_tracking_uri(None)
        return uri

    return log


def test_anybodys_exported_model_is_copied_too(foreign: Callable[..., str], here: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    teacher = {"kind": "mlflow", "uri": foreign(model)}
    made = compose(here, teacher)
    with torch.no_grad():
        torch.testing.assert_close(logits(made, 4), model(rows_of(made, 4).x))
    about = made.parts.teachers["big"].keep(here / "kept")
    assert about is not None
    shutil.rmtree("theirs")
    made_again = composer(here, teacher)
    from dataclasses import replace

    again = replace(made_again, kept=(here / "kept",)).compose()
    torch.testing.assert_close(logits(again, 4), logits(made, 4))
