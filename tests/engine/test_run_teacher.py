"""The student of a finished run as a teacher, and runs that go on although what made their teachers is gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file, save_file
from sklearn.datasets import load_digits
from states import assert_same, state
from taught import compose, composer, rows_of
from torch import Tensor

from clkd import checkpoint
from clkd.cli.main import main
from clkd.engine.compose import Composition
from clkd.engine.execute import execute
from clkd.engine.extend import extension
from clkd.errors import UserError
from clkd.plugins import Plugins, load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest
from clkd.signals import Needs

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TRAIN: dict[str, Any] = {"epochs": 2, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05}}
ORIGIN: dict[str, Any] = {
    "name": "first",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 20}, "split": {"by": "class", "experiences": 2}},
    "student": {"model": {"kind": "mlp", "hidden": [20]}, "head": "cosine"},
    "losses": ["cross_entropy"],
    "memory": {"kind": "reservoir", "size": 30},
    "train": TRAIN,
    "tracking": {"mode": "off"},
}
TAUGHT: dict[str, Any] = {
    **ORIGIN,
    "name": "second",
    "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
    "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "big"]}],
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's own, so that nothing is found by chance."""
    monkeypatch.setenv("CLKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def train(plugins: Plugins, home: Path, name: str, scenario: dict[str, Any], **request: Any) -> dict[str, Any]:
    path = home / f"{name}.yaml"
    path.write_text(to_yaml({**scenario, "output": str(home / name)}))
    return execute(RunRequest(scenario=path, quiet=True, **request), plugins)


def taught_by(run: str, **options: Any) -> dict[str, Any]:
    return {**TAUGHT, "teachers": {"big": {"kind": "run", "run": run, **options}}}


def student_of(home: Path, run: str, experience: str = "exp_001") -> torch.nn.Module:
    """By hand: the network that the run's scenario composes, with the weights in its checkpoint."""
    saved = checkpoint.load(home / run / "checkpoints" / experience)["student"]
    sections = {key: ORIGIN[key] for key in ("stream", "student", "train")}
    student = composer(home, {"kind": "fit", "model": "mlp"}, **sections).compose(teach=False).parts.student
    student.lay_out(saved["layout"])
    student.load_state_dict(saved["state"])
    return student.eval()


def said(made: Composition, n: int = 60) -> Tensor:
    found = made.parts.teachers["big"].signals(rows_of(made, n), Needs()).logits
    assert found is not None
    return found


@pytest.mark.parametrize(("name", "experience"), [("first", "exp_001"), ("first@0", "exp_000")])
def test_it_says_exactly_what_that_runs_student_says(
    plugins: Plugins, tmp_path: Path, cache: Path, name: str, experience: str
) -> None:
    """To the last bit, found by its directory beside the scenario, with its own head and classes."""
    train(plugins, tmp_path, "first", ORIGIN)
    made = compose(tmp_path, {"kind": "run", "run": name}, stream=ORIGIN["stream"])
    theirs = student_of(tmp_path, "first", experience)
    with torch.no_grad():
        assert torch.equal(said(made), theirs(rows_of(made, 60).x))
    teacher = made.parts.teachers["big"]
    assert teacher.spec().class_ids == theirs.class_ids
    assert len(teacher.spec().class_ids) == (10 if experience == "exp_001" else 5)


def test_statistics_of_each_domain_teach_by_likeness(plugins: Plugins, tmp_path: Path, cache: Path) -> None:
    """Domains of that run's stream are not those of this one, even where they have the same numbers."""
    stream = {**ORIGIN["stream"], "split": {"by": "domain", "domains": ["clean", {"kind": "contrast", "severity": 5}]}}
    changes = {
        "stream": stream,
        "student": {"model": {"kind": "resnet8", "width": 2}, "head": "linear"},
        "transfer": [{"kind": "dsbn", "by": "domain"}, "mcc"],
    }
    train(plugins, tmp_path, "first", {**ORIGIN, **changes})
    teacher = {"kind": "run", "run": "first"}
    composed = compose(tmp_path, teacher, stream=stream)
    rows = rows_of(composed)
    said = composed.parts.teachers["big"].signals(replace(rows, domain=torch.ones_like(rows.domain)), Needs()).logits
    saved = checkpoint.load(tmp_path / "first" / "checkpoints" / "exp_001")["student"]
    student = compose(tmp_path, {"kind": "fit", "model": "mlp", "epochs": 1}, **changes).parts.student
    student.lay_out(saved["layout"])
    student.load_state_dict(saved["state"])
    assert torch.equal(said, student.eval()(rows.x))
    assert not torch.equal(said, student(rows.x, torch.ones_like(rows.domain)))
    train(plugins, tmp_path, "second", {**taught_by("first"), "stream": stream}, limit_experiences=1)
    shutil.rmtree(tmp_path / "first")
    execute(RunRequest(resume=str(tmp_path / "second"), quiet=True), plugins)  # by the copy that the run keeps


def test_it_is_found_by_its_id_and_its_answers_are_kept(
    plugins: Plugins, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_id = train(plugins, tmp_path, "first", ORIGIN)["run_id"]
    by_id = train(plugins, tmp_path, "second", taught_by(run_id[:6]))
    by_path = train(plugins, tmp_path, "third", taught_by("first"))
    assert by_id["accuracy_matrix"] == by_path["accuracy_matrix"]
    hits = [hit_rates(tmp_path / name) for name in ("second", "third")]
    assert hits[0][0] < 1
    assert hits[1] == [1.0, 1.0], "its weights are what an answer is known by, not how it is named"
    manifest = json.loads((tmp_path / "second" / "run.json").read_text())
    assert (manifest["teachers"]["big"]["run"], manifest["teachers"]["big"]["experience"]) == (run_id, 1)
    assert main(["cache", "verify", "--rows", "50"]) == 0
    shutil.rmtree(tmp_path / "first")
    assert main(["cache", "verify", "--rows", "50"]) == 1, "it cannot be asked again"


def hit_rates(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["metrics"]["teacher_cache/big/hit_rate"] for line in lines if line["event"] == "experience"]


def test_a_run_goes_on_when_its_teachers_run_is_gone(plugins: Plugins, tmp_path: Path, cache: Path) -> None:
    """Resumed and forked, with the bits of the run that nothing happened to."""
    train(plugins, tmp_path, "first", ORIGIN)
    scenario = taught_by("first")
    train(plugins, tmp_path, "whole", scenario)
    train(plugins, tmp_path, "cut", scenario, limit_experiences=1)
    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(cache)
    (tmp_path / "cut").rename(tmp_path / "moved")
    settings = (f"output={tmp_path / 'fork'}",)
    execute(RunRequest(origin=str(tmp_path / "moved"), overrides=settings, quiet=True), plugins)
    shutil.move(tmp_path / "whole", tmp_path / "kept")
    execute(RunRequest(resume=str(tmp_path / "moved"), quiet=True), plugins)
    for name in ("moved", "fork"):
        assert_same(state(tmp_path / name), state(tmp_path / "kept"))
    shutil.rmtree(tmp_path / "moved")
    settings = (f"output={tmp_path / 'again'}",)
    execute(RunRequest(origin=f"{tmp_path / 'fork'}@0", overrides=settings, quiet=True), plugins)
    assert_same(state(tmp_path / "again"), state(tmp_path / "kept"))
    with pytest.raises(UserError, match="no such run here"):
        train(plugins, tmp_path, "new", scenario)


def test_a_damaged_copy_is_told_of_and_replaced(
    plugins: Plugins, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(plugins, tmp_path, "first", ORIGIN)
    train(plugins, tmp_path, "whole", taught_by("first"))
    train(plugins, tmp_path, "cut", taught_by("first"), limit_experiences=1)
    (copy,) = (tmp_path / "cut" / "teachers").iterdir()
    good = copy.read_bytes()
    copy.write_bytes(good[:-2] + bytes([good[-2] ^ 1]) + good[-1:])
    with caplog.at_level("WARNING", "clkd"):
        execute(RunRequest(resume=str(tmp_path / "cut"), quiet=True), plugins)
    assert f"{copy} is damaged (its checksum differs)" in caplog.text
    assert_same(load_file(copy), load(good))
    assert_same(state(tmp_path / "cut"), state(tmp_path / "whole"))


def refused(plugins: Plugins, home: Path, scenario: dict[str, Any]) -> str:
    with pytest.raises(UserError) as error:
        train(plugins, home, "refused", scenario)
    assert not (home / "refused").exists(), "nothing is left of a run that never began"
    said = str(error.value)
    assert len(said.splitlines()) == 1
    return said


def test_what_is_no_finished_run(plugins: Plugins, tmp_path: Path, cache: Path) -> None:
    train(plugins, tmp_path, "first", ORIGIN)
    train(plugins, tmp_path, "half", ORIGIN, limit_experiences=1)
    (tmp_path / "empty").mkdir()
    cases = {
        "nowhere": "teachers.big: run nowhere: no such run here: give a run's directory, or its id (allowed: ",
        str(tmp_path / "empty"): "this directory holds no run (run.json is missing)",
        "half": "teachers.big: run half: only 1 of 2 experiences are trained: finish it, or say which one is to teach, "
        "as in run: half@0",
        "half@1": "no checkpoint of experience 1 (",
        "last": "teachers.big.run: 'last' is another run tomorrow: give a run's directory or id",
    }
    for name, why in cases.items():
        assert why in refused(plugins, tmp_path, taught_by(name)), name
    resolved = tmp_path / "first" / "resolved.yaml"
    resolved.write_text(resolved.read_text() + "# mine\n")
    assert "resolved.yaml was altered since the run began" in refused(plugins, tmp_path, taught_by("first"))


def write(path: Path, classes: list[int], names: bool = True, colours: int = 1) -> None:
    """Digits of these classes: 20 rows to train on and 10 to test on of each."""
    digits = load_digits()
    images = (digits.images * 255 / 16).round().astype(np.uint8)
    of = [np.flatnonzero(digits.target == c)[:30] for c in classes]
    arrays: dict[str, Any] = {"class_names": np.array([NAMES[c] for c in classes])} if names else {}
    for split, cut in (("train", slice(20)), ("test", slice(20, 30))):
        at = np.concatenate([each[cut] for each in of])
        x = images[at] if colours == 1 else np.stack([images[at] // (c + 1) for c in range(colours)], 3)
        arrays |= {f"x_{split}": x, f"y_{split}": np.array([classes.index(c) for c in digits.target[at]])}
    np.savez(path, **arrays)


Data = Callable[..., dict[str, Any]]


@pytest.fixture
def data(tmp_path: Path) -> Data:
    def make(name: str, classes: list[int], experiences: int = 1, **how: Any) -> dict[str, Any]:
        write(tmp_path / f"{name}.npz", classes, **how)
        dataset = {"name": "arrays", "path": f"{name}.npz"}
        return {"dataset": dataset, "split": {"by": "class", "experiences": experiences}, "augment": "none"}

    return make


def test_classes_are_matched_by_name(plugins: Plugins, tmp_path: Path, cache: Path, data: Data) -> None:
    """Overlapping label sets whose ids differ: strangers on both sides take no part."""
    train(plugins, tmp_path, "first", {**ORIGIN, "stream": data("a", [3, 8, 5, 1], 2)})
    stream = data("b", [1, 2, 3])
    made = compose(tmp_path, {"kind": "run", "run": "first"}, stream=stream)
    columns = checkpoint.load(tmp_path / "first" / "checkpoints" / "exp_001")["student"]["layout"]["class_ids"]
    theirs, ours = [["three", "eight", "five", "one"][c] for c in columns], ["one", "two", "three"]
    ids = made.parts.teachers["big"].spec().class_ids
    assert [ours[i] if i < 3 else None for i in ids] == [name if name in ours else None for name in theirs]
    kd = made.parts.terms[1].loss
    made.parts.begin(made.stream[0], 0)
    pairs = zip(kd.a_columns.tolist(), kd.b_columns.tolist(), strict=True)
    assert sorted(ours[made.parts.student.class_ids[a]] for a, _ in pairs) == ["one", "three"]
    told = compose(tmp_path, {"kind": "run", "run": "first", "classes": {"eight": "two", "one": None}}, stream=stream)
    ids = told.parts.teachers["big"].spec().class_ids
    assert [ids[theirs.index(name)] for name in ("three", "eight")] == [2, 1]
    assert ids[theirs.index("one")] >= 3


def test_disjoint_classes_unknown_ones_and_doubles_are_refused(
    plugins: Plugins, tmp_path: Path, cache: Path, data: Data
) -> None:
    train(plugins, tmp_path, "first", {**ORIGIN, "stream": data("a", [3, 8, 5, 1])})
    stream = data("b", [0, 2, 4])
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "(three, eight, five, one) and the stream's (zero, two, four) have no name in common: say which is which, "
         "as in classes: {three: zero}"),
        ({"classes": {"tree": "zero"}}, "that run has no class 'tree', did you mean 'three'?"),
        ({"classes": {"three": "fuor"}}, "the stream has no class 'fuor', did you mean 'four'?"),
        ({"classes": {"three": "two", 1: "two"}}, "are both the stream's class 'two'"),
        ({"classes": {"three": "two"}}, "softmax over a single class is always 1"),
    ]  # fmt: skip
    for options, why in cases:
        assert why in refused(plugins, tmp_path, {**taught_by("first", **options), "stream": stream})
    both = {"three": 0, "eight": "four"}
    assert train(plugins, tmp_path, "second", {**taught_by("first", classes=both), "stream": stream})


def test_a_class_that_had_not_come_is_none_of_its_own(plugins: Plugins, tmp_path: Path, cache: Path) -> None:
    head = {**ORIGIN, "student": {**ORIGIN["student"], "head": "fixed"}}
    train(plugins, tmp_path, "first", head)
    made = compose(tmp_path, {"kind": "run", "run": "first@0"}, stream=ORIGIN["stream"])
    ids = made.parts.teachers["big"].spec().class_ids
    assert [c for c in ids if c < 10] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("theirs", "ours", "seen"), [(3, 1, "rgb"), (1, 3, "gray")])
def test_rows_become_what_they_were_in_that_run(
    plugins: Plugins, tmp_path: Path, cache: Path, theirs: int, ours: int, seen: str
) -> None:
    """Another number of channels, another size, other statistics: nothing of it has to be said."""
    there = {"name": "digits", "rows_per_class": 20, "channels": theirs, "size": 12}
    train(
        plugins, tmp_path, "first", {**ORIGIN, "stream": {**ORIGIN["stream"], "dataset": there, "normalize": "first"}}
    )
    here = {"name": "digits", "rows_per_class": 20, "channels": ours}
    made = compose(tmp_path, {"kind": "run", "run": "first"}, stream={**ORIGIN["stream"], "dataset": here})
    (view,) = made.parts.teachers["big"].views()  # type: ignore[attr-defined]
    assert (view.channels, view.size) == (seen, 12)
    facts = json.loads((tmp_path / "first" / "run.json").read_text())["stream"][0]
    x = made.stream[0].train.gather(torch.arange(60)).x[:, :1].float() / 255  # gray has three channels that are alike
    x = torch.nn.functional.interpolate(x, size=(12, 12), mode="bilinear", antialias=True)
    shape = (1, -1, 1, 1)
    wanted = (x - torch.tensor(facts["mean"]).view(shape)) / torch.tensor(facts["std"]).view(shape)
    network = made.parts.teachers["big"].module()
    assert network is not None
    torch.testing.assert_close(said(made), network(wanted), rtol=1e-3, atol=1e-4)


def test_rows_that_cannot_become_it_are_refused_until_it_is_said(
    plugins: Plugins, tmp_path: Path, cache: Path, data: Data
) -> None:
    train(plugins, tmp_path, "first", {**ORIGIN, "stream": data("a", [0, 1, 2])})
    wide = data("b", [0, 1, 2], colours=3)
    wide["dataset"]["path"] = "b.npz"
    two = {**taught_by("first", view={"channels": [0, 1]}), "stream": wide}
    assert "that run's rows are 1×8×8, and these would be 2×8×8 of 3×8×8" in refused(plugins, tmp_path, two)
    assert train(plugins, tmp_path, "second", {**taught_by("first", view={"channels": [1]}), "stream": wide})


def test_a_student_with_a_view_keeps_it_as_a_teacher(plugins: Plugins, tmp_path: Path, cache: Path) -> None:
    colours = {**ORIGIN["stream"], "dataset": {**ORIGIN["stream"]["dataset"], "channels": 3}}
    seeing = {**ORIGIN["student"], "view": {"channels": [1], "rotate": 90}}
    train(plugins, tmp_path, "first", {**ORIGIN, "stream": colours, "student": seeing})
    made = compose(tmp_path, {"kind": "run", "run": "first"}, stream=colours)
    (view,) = made.parts.teachers["big"].views()  # type: ignore[attr-defined]
    assert (view.channels, view.rotate) == ((1,), 90)
    saved = checkpoint.load(tmp_path / "first" / "checkpoints" / "exp_001")["student"]["state"]
    x = rows_of(made, 60).x[:, [1]].rot90(1, (-2, -1)).flatten(1)
    hidden = torch.relu(x @ saved["backbone.layers.0.linear.weight"].T + saved["backbone.layers.0.linear.bias"])
    normal = torch.nn.functional.normalize
    wanted = saved["head.scale"] * normal(hidden) @ normal(saved["head.weight"]).T
    torch.testing.assert_close(said(made), wanted, rtol=1e-4, atol=1e-5)


FITTED = {"kind": "fit", "model": {"kind": "mlp", "hidden": [24]}, "epochs": 2}
GONE: dict[str, dict[str, Any]] = {
    "fit": FITTED,
    "a chain": {**FITTED, "model": {"kind": "mlp", "hidden": [12]}, "teacher": FITTED},
    "born again": {**FITTED, "kind": "born_again", "generations": 2, "speak": "all"},
    "checkpoint": {"kind": "checkpoint", "path": "big.safetensors", "model": {"kind": "mlp", "hidden": [24]}},
}


@pytest.mark.parametrize("kind", GONE)
def test_extend_works_elsewhere_when_data_cache_and_files_are_gone(
    plugins: Plugins,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    data: Data,
) -> None:
    """And ends as where all of it is still there."""
    monkeypatch.setenv("CLKD_CACHE", str(tmp_path / "cache"))
    stream = {**data("old", [0, 1, 2, 3], 2), "normalize": "first"}
    write(tmp_path / "new.npz", [4, 5])
    scenario = {**TAUGHT, "teachers": {"big": GONE[kind]}, "stream": stream}
    if kind == "checkpoint":
        made = compose(tmp_path, FITTED, stream=stream)
        network = made.parts.teachers["big"].module()
        assert network is not None
        save_file(network.state_dict(), tmp_path / "big.safetensors")
    train(plugins, tmp_path, "first", scenario)

    def extend(run: str, place: str) -> None:
        added = extension(str(tmp_path / run), str(tmp_path / "new.npz"), plugins.registry)
        settings = (f"stream.extensions={json.dumps(added)}", f"output={tmp_path / place}")
        execute(RunRequest(origin=str(tmp_path / run), overrides=settings, quiet=True), plugins)

    extend("first", "here")
    shutil.move(tmp_path / "first", tmp_path / "moved")
    (tmp_path / "big.safetensors").unlink(missing_ok=True)
    shutil.rmtree(tmp_path / "cache")
    with caplog.at_level("INFO", "clkd"):
        extend("moved", "there")
        (tmp_path / "old.npz").unlink()
        shutil.rmtree(tmp_path / "cache")
        extend("moved", "without")
    assert "fitting" not in caplog.text
    assert_same(state(tmp_path / "there"), state(tmp_path / "here"))
    for part in ("student", "memory", "terms", "teachers"):
        assert_same(state(tmp_path / "without")[part], state(tmp_path / "here")[part])


def test_a_fork_with_another_teacher_fits_that_one(
    plugins: Plugins, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(plugins, tmp_path, "first", {**TAUGHT, "teachers": {"big": FITTED}})
    with caplog.at_level("INFO", "clkd"):
        settings = ("teachers.big.epochs=3", f"output={tmp_path / 'fork'}")
        execute(RunRequest(origin=f"{tmp_path / 'first'}@0", overrides=settings, quiet=True), plugins)
    assert caplog.text.count("teacher: fitting mlp for 3 epochs") == 1
    files = [{path.name for path in (tmp_path / run / "teachers").iterdir()} for run in ("first", "fork")]
    assert files[0] != files[1]
    assert [len(each) for each in files] == [1, 1]


def test_a_head_that_answers_by_what_it_gathered_does_so_as_a_teacher(
    plugins: Plugins, tmp_path: Path, cache: Path
) -> None:
    scenario = {**ORIGIN, "method": "slda", "student": {"model": {"kind": "mlp", "hidden": [20]}}, "memory": "none"}
    train(plugins, tmp_path, "first", scenario)
    made = compose(tmp_path, {"kind": "run", "run": "first"}, stream=ORIGIN["stream"])
    rows, classes = rows_of(made, 100), torch.tensor(made.parts.teachers["big"].spec().class_ids)
    right = (classes[said(made, 100).argmax(1)] == rows.y).float().mean()
    told = json.loads((tmp_path / "first" / "result.json").read_text())["accuracy_matrix"][-1][0]
    assert right > 0.8 * told > 0.4, "the linear layer has forgotten the first classes"


@pytest.mark.slow
def test_weights_that_the_other_run_began_with_are_not_looked_for(
    plugins: Plugins, tmp_path: Path, cache: Path
) -> None:
    """Neither beside this scenario, nor where they were."""
    from clkd.models.backbones.vision import vision

    there = tmp_path / "there"
    there.mkdir()
    (there / "cache").mkdir()
    shape = (3, 32, 32)
    model = {"kind": "torchvision", "model": "squeezenet1_1", "weights": "w.pt"}
    torch.save(vision(shape, "squeezenet1_1").state_dict(), there / "w.pt")
    stream = {"dataset": {"name": "digits", "rows_per_class": 4, "channels": 3, "size": 32},
              "split": {"by": "class", "experiences": 2}}  # fmt: skip
    changes = {"stream": stream, "train": {**TRAIN, "epochs": 1}}
    train(plugins, there, "first", {**ORIGIN, **changes, "student": {"model": model, "head": "linear"}})
    (there / "w.pt").unlink()
    train(plugins, tmp_path, "second", {**taught_by(str(there / "first")), **changes}, limit_experiences=1)
    shutil.rmtree(there)
    execute(RunRequest(resume=str(tmp_path / "second"), quiet=True), plugins)


EXCHANGES = """
from clkd import Transfer, hookimpl

class Exchanges(Transfer):
    \"\"\"Lets the student hear what the run told it.\"\"\"
    def __init__(self, experiences, task_labels):
        super().__init__()
        self.told = task_labels
    def prepare(self, student):
        student.told = self.told

@hookimpl
def clkd_register_transfers(register):
    register("exchanges", Exchanges, summary="hears")
"""


def test_a_plugins_strategy_is_built_for_a_teacher_as_for_the_run(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "exchanges.py").write_text(EXCHANGES)
    own = load_plugins([tmp_path / "plugins"])
    train(own, tmp_path, "first", {**ORIGIN, "transfer": "exchanges"})
    train(own, tmp_path, "second", taught_by("first"), limit_experiences=1)
