"""A stream cut in two by `clkd extend` ends as the uninterrupted one, to the last bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from processes import clkd
from sklearn.datasets import load_digits
from states import assert_same, state

from clkd import checkpoint
from clkd.engine.execute import execute
from clkd.engine.extend import _split, extension
from clkd.errors import UserError
from clkd.page.story import Story
from clkd.plugins import Plugins, load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BASE: dict[str, Any] = {
    "name": "tiny",
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "teachers": {"previous": "previous"},
    "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "previous"], "weight": "old_fraction"}],
    "memory": {"kind": "reservoir", "size": 30},
    "train": {"epochs": 2, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9}},
    "tracking": {"mode": "off"},
}
EMA = {
    "teachers": {"slow": {"kind": "ema", "decay": 0.9}},
    "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "slow"]}],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "lwf": {},
    "ema": {**EMA, "train": {**BASE["train"], "optimizer": {"kind": "adam", "lr": 0.01}, "keep_optimizer": True}},
    "held": {
        "teachers": {},
        "losses": [
            "cross_entropy",
            {"kind": "ewc", "weight": 20},
            {"kind": "si", "weight": 2},
            {"kind": "mas", "weight": 0.1},
            {"kind": "rwalk", "every": 3},
        ],
        "train": {**BASE["train"], "gradient": "gem"},
    },
    "class_balanced": {"memory": {"kind": "class_balanced", "size": 25}},
    "generator": {"memory": {"kind": "generator", "hidden": [20], "latent": 5}},
    "derpp": {
        "teachers": {"stored": "stored"},
        "losses": [
            {"kind": "cross_entropy", "between": ["student@new"]},
            {"kind": "kd", "between": ["student@replay1", "stored"], "variant": "mse"},
            {"kind": "cross_entropy", "name": "replayed", "between": ["student@replay2"]},
        ],
        "memory": {"kind": "reservoir", "size": 30, "store": ["logits"]},
        "train": {**BASE["train"], "replay_draws": 2},
    },
    "cosine": {"student": {**BASE["student"], "head": "cosine"}},
    "ncm": {"student": {**BASE["student"], "head": "ncm"}},
    "slda": {"student": {**BASE["student"], "head": "slda"}},
    "proxies": {"student": {**BASE["student"], "head": {"kind": "split_cosine", "proxies": 2, "fixed_old": True}}},
    "bias correction": {
        "student": {**BASE["student"], "head": "bias_corrected"},
        "phases": [{"name": "bias", "rows": "held_out", "trains": "bias", "optimizer": {"kind": "adam", "lr": 0.01}}],
    },
    "gdumb": {
        "memory": {"kind": "class_balanced", "size": 25},
        "phases": [{"name": "anew", "rows": "memory", "reset": True, "optimizer": {"kind": "sgd", "lr": 0.05}}],
    },
    "joint": {
        "teachers": {},
        "losses": ["cross_entropy"],
        "memory": {"kind": "random", "size": "all"},
        "train": {**BASE["train"], "mix_memory": True, "reset": True},
    },
    "views": {"augment": {"crop": 1, "views": 2}},
    "roomy": {"student": {**BASE["student"], "head": {"kind": "fixed", "classes": 10}}},
    "tasks": {"by": "task", "student": {**BASE["student"], "head": "multi"}},
    "validation": {"validation": 0.2},
    "mutual": {
        "peers": {"mate": {"model": {"kind": "mlp", "hidden": [12]}, "head": "linear"}},
        "teachers": {},
        "losses": [
            "cross_entropy",
            {"kind": "cross_entropy", "between": ["mate"]},
            {"kind": "kd", "between": ["student", "mate"]},
            {"kind": "kd", "between": ["mate", "student"]},
        ],
    },
}


def write(path: Path, classes: range, **columns: Any) -> None:
    """Digits of these classes, 20 rows to train on and 10 to test on of each."""
    digits = load_digits()
    images = (digits.images * 255 / 16).round().astype(np.uint8)
    of = [np.flatnonzero(digits.target == c)[:30] for c in classes]
    parts = {"train": np.concatenate([at[:20] for at in of]), "test": np.concatenate([at[20:] for at in of])}
    arrays: dict[str, Any] = {"class_names": np.array([NAMES[c] for c in classes])}
    for split, at in parts.items():
        arrays |= {f"x_{split}": images[at], f"y_{split}": digits.target[at] - classes[0]}
        arrays |= {f"{name}_{split}": np.full(len(at), value) for name, value in columns.items()}
    np.savez(path, **arrays)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, classes in (("whole", range(10)), ("old", range(5)), ("new", range(5, 10))):
        write(tmp_path / f"{name}.npz", classes)
    return tmp_path


def scenario(home: Path, name: str, data: str, classes: list[list[int]], changes: dict[str, Any]) -> Path:
    changes = dict(changes)
    cut = {"by": changes.pop("by", "class"), "classes": classes, "validation": changes.pop("validation", 0.0)}
    stream = {"dataset": {"name": "arrays", "path": data}, "split": cut, "normalize": "first"}
    stream |= {"augment": changes.pop("augment", "none")}
    path = home / f"{name}.yaml"
    path.write_text(to_yaml({**BASE, **changes, "stream": stream, "output": str(home / name)}))
    return path


def extend(plugins: Plugins, run: Path, data: Path | str, place: Path, *settings: str, **how: Any) -> dict[str, Any]:
    added = extension(str(run), str(data), plugins.registry, **how)
    overrides = (f"stream.extensions={json.dumps(added)}", f"output={place}", *settings)
    return execute(RunRequest(origin=str(run), overrides=overrides, quiet=True), plugins)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_new_classes(plugins: Plugins, data: Path, variant: str) -> None:
    changes = VARIANTS[variant]
    groups = [[0, 1, 2], [3, 4], [5, 6, 7], [8, 9]]
    whole = execute(RunRequest(scenario=scenario(data, "all", "whole.npz", groups, changes), quiet=True), plugins)
    execute(RunRequest(scenario=scenario(data, "cut", "old.npz", groups[:2], changes), quiet=True), plugins)
    settings = ("stream.extensions.0.split.validation=0.2",) if variant == "validation" else ()
    classes = ["five,six,seven", "eight, nine"]
    longer = extend(plugins, data / "cut", data / "new.npz", data / "longer", *settings, classes=classes)
    assert (longer["metrics"], longer["accuracy_matrix"]) == (whole["metrics"], whole["accuracy_matrix"])
    assert_same(state(data / "longer"), state(data / "all"))


def test_a_new_domain(plugins: Plugins, tmp_path: Path) -> None:
    """The head knows its classes already, so that coming experiences are looked at, and an untrained student too."""
    write(tmp_path / "old.npz", range(5), experience=0, domain=0)
    write(tmp_path / "new.npz", range(5))
    with np.load(tmp_path / "old.npz") as old, np.load(tmp_path / "new.npz") as new:
        dark = {name: 255 - column if name.startswith("x") else column for name, column in new.items()}
        np.savez(tmp_path / "new.npz", **dark)
        both = {name: np.concatenate([old[name], dark[name]]) for name in dark if name != "class_names"}
        count = {name: len(old[f"y_{name}"]) for name in ("train", "test")}
        told = {
            f"{column}_{name}": np.repeat([0, 1], n) for name, n in count.items() for column in ("experience", "domain")
        }
        np.savez(tmp_path / "whole.npz", **both, **told, class_names=old["class_names"])
    for name in ("whole", "old"):
        stream = {"dataset": {"name": "arrays", "path": f"{name}.npz"}, "split": "given", "normalize": "first"}
        place = tmp_path / f"{name}.yaml"
        place.write_text(to_yaml({**BASE, "stream": stream, "output": str(tmp_path / name)}))
        execute(RunRequest(scenario=place, quiet=True), plugins)
    extend(plugins, tmp_path / "old", tmp_path / "new.npz", tmp_path / "longer", by="domain")
    ours = state(tmp_path / "longer")
    assert_same(ours, state(tmp_path / "whole"))
    assert set(ours["memory"]["table"]["domain"].tolist()) == {0, 1}
    assert ours["run"]["record"]["baseline"][1] >= 0


def test_extended_twice_and_resumed(plugins: Plugins, data: Path) -> None:
    """The declared stream, the one that was extended once and the one that was extended twice are the same."""
    write(data / "last.npz", range(3, 6))
    groups = [[0, 1], [2, 3, 4]]
    execute(RunRequest(scenario=scenario(data, "cut", "old.npz", groups, {}), quiet=True), plugins)
    once = extend(plugins, data / "cut", data / "new.npz", data / "once", experiences=2)
    twice = extend(plugins, data / "once", data / "last.npz", data / "twice")
    assert [len(run["accuracy_matrix"]) for run in (once, twice)] == [4, 5]
    settings = (f"output={data}/all", f"stream.dataset.path={data}/old.npz")
    again = RunRequest(scenario=data / "twice" / "resolved.yaml", overrides=settings, quiet=True)
    declared = execute(again, plugins)
    assert declared["accuracy_matrix"] == twice["accuracy_matrix"]
    assert_same(state(data / "all"), state(data / "twice"))
    told, carried = (Story.read(data / name).told for name in ("all", "twice"))
    assert [(each.name, each.classes) for each in carried] == [(each.name, each.classes) for each in told]
    assert carried[2].classes == ["5", "6", "7"]
    shutil.rmtree(data / "once")
    resumed = execute(RunRequest(resume=str(data / "twice"), quiet=True), plugins)
    assert (resumed["status"], resumed["accuracy_matrix"]) == ("finished", twice["accuracy_matrix"])


def test_classes_are_known_by_their_name(plugins: Plugins, data: Path) -> None:
    """Rows of `three`, `four` and `five`: two old classes and a new one, whatever their numbers in the file."""
    write(data / "mixed.npz", range(3, 6))
    execute(RunRequest(scenario=scenario(data, "cut", "old.npz", [[4, 3], [2, 1, 0]], {}), quiet=True), plugins)
    extend(plugins, data / "cut", data / "mixed.npz", data / "longer")
    layout = state(data / "longer")["student"]["layout"]
    assert layout == {"class_ids": [4, 3, 2, 1, 0, 5], "born": [0, 0, 1, 1, 1, 2]}
    kept = set(state(data / "longer")["memory"]["table"]["y"].tolist())
    assert kept <= set(range(6))
    assert 5 in kept


def test_a_head_with_too_few_columns_gets_more(plugins: Plugins, data: Path) -> None:
    changes = {
        "student": {**BASE["student"], "head": "fixed"},
        **EMA,
        "train": {**BASE["train"], "keep_optimizer": True},
    }
    execute(RunRequest(scenario=scenario(data, "cut", "old.npz", [[0, 1, 2, 3, 4]], changes), quiet=True), plugins)
    before = state(data / "cut")["student"]["state"]
    extend(plugins, data / "cut", data / "new.npz", data / "longer")
    first = checkpoint.load(data / "longer" / "checkpoints" / "exp_000")["student"]
    assert first["layout"]["born"] == [0] * 5 + [-1] * 5
    assert torch.equal(first["state"]["head.weight"][:5], before["head.weight"])
    assert state(data / "longer")["student"]["layout"]["born"] == [0] * 5 + [1] * 5
    tight = ("student.head.classes=5",)
    with pytest.raises(UserError, match="the head 'fixed' has 5 classes"):
        extend(plugins, data / "cut", data / "new.npz", data / "tight", *tight)
    grown = extend(plugins, data / "cut", data / "new.npz", data / "grown", "student.head=linear")
    assert grown["status"] == "finished"


def test_elsewhere_months_later(plugins: Plugins, data: Path) -> None:
    """Another process, directory and cache, the run moved: first with the old data in its place, then without.

    Memory has room for all rows of the stream, also for those that are nowhere else any more.
    """
    groups, changes = [[0, 1, 2], [3, 4], [5, 6, 7, 8, 9]], {"memory": {"kind": "random", "size": "all"}}
    whole = execute(RunRequest(scenario=scenario(data, "all", "whole.npz", groups, changes), quiet=True), plugins)
    execute(RunRequest(scenario=scenario(data, "cut", "old.npz", groups[:2], changes), quiet=True), plugins)
    away = data / "away"
    away.mkdir()
    shutil.move(data / "cut", away / "moved")
    shutil.move(data / "new.npz", away / "new.npz")
    more = ("extend", "moved", "new.npz", "--json", "--quiet")
    done = clkd(*more, "--set", "output=with", cwd=away, CLKD_CACHE=str(away / "cache"))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["metrics"], result["accuracy_matrix"]) == (whole["metrics"], whole["accuracy_matrix"])
    assert_same(state(away / "with"), state(data / "all"))

    (data / "old.npz").unlink()
    done = clkd(*more, "--set", "output=without", cwd=away, CLKD_CACHE=str(away / "other"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("experiences 0 to 1 cannot be evaluated any more and show as null") == 1, done.stderr
    result = json.loads(done.stdout)
    assert result["accuracy_matrix"][:2] == whole["accuracy_matrix"][:2], "what was measured then stays"
    assert result["accuracy_matrix"][2] == [None, None, whole["accuracy_matrix"][2][2]]
    assert result["metrics"]["average_accuracy"] is None
    for part in ("student", "memory", "teachers", "terms"):
        assert_same(state(away / "without")[part], state(data / "all")[part], part)


def test_a_budget_and_a_teacher_outlive_the_data(plugins: Plugins, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows take what they took, and the run's copy of a teacher that was fitted on some of the labels is found."""
    changes = {
        "memory": {"kind": "reservoir", "size": "2kB"},
        "teachers": {"big": {"kind": "fit", "model": {"kind": "mlp", "hidden": [24]}, "epochs": 1}},
        "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "big"]}],
    }
    place = scenario(data, "cut", "old.npz", [[0, 1, 2], [3, 4]], changes)
    execute(RunRequest(scenario=place, overrides=("stream.labelled=0.5",), quiet=True), plugins)
    assert len(state(data / "cut")["memory"]["table"]["y"]) == 2000 // (64 + 32)
    (data / "old.npz").unlink()
    monkeypatch.setenv("CLKD_CACHE", str(data / "elsewhere"))
    assert extend(plugins, data / "cut", data / "new.npz", data / "longer")["status"] == "finished"
    assert len(state(data / "longer")["memory"]["table"]["y"]) == 2000 // (64 + 32)


def test_folders_of_images(plugins: Plugins, tmp_path: Path) -> None:
    """Size and channels follow the run's own images; class names are those of the folders."""
    digits = load_digits()
    for name, classes in (("all", range(6)), ("first", range(3)), ("then", range(3, 6))):
        for c in classes:
            for split, at in (("train", slice(0, 12)), ("test", slice(12, 16))):
                folder = tmp_path / name / split / f"{c} {NAMES[c]}"
                folder.mkdir(parents=True)
                for i, image in enumerate(digits.images[digits.target == c][at]):
                    Image.fromarray((image * 255 / 16).astype(np.uint8)).save(folder / f"{i:02d}.png")
    for name, classes in (("all", [[0, 1, 2], [3, 4, 5]]), ("first", [[0, 1, 2]])):
        dataset = {"name": "image_folder", "path": name, "channels": 1}
        stream = {"dataset": dataset, "split": {"by": "class", "classes": classes}, "normalize": "first"}
        (tmp_path / f"{name}.yaml").write_text(
            to_yaml({**BASE, "stream": stream, "output": str(tmp_path / f"run {name}")})
        )
        execute(RunRequest(scenario=tmp_path / f"{name}.yaml", quiet=True), plugins)
    extend(plugins, tmp_path / "run first", tmp_path / "then", tmp_path / "longer")
    assert_same(state(tmp_path / "longer"), state(tmp_path / "run all"))


def test_mistakes(plugins: Plugins, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    place = scenario(data, "cut", "old.npz", [[0, 1], [2, 3, 4]], {})
    execute(RunRequest(scenario=place, quiet=True, limit_experiences=1), plugins)

    def said(run: str, given: str, **how: Any) -> str:
        with pytest.raises(UserError) as error:
            extension(run, given, plugins.registry, **how)
        return str(error.value)

    assert "only 1 of 2 experiences are trained" in said("cut", "new.npz")
    execute(RunRequest(resume="cut", quiet=True), plugins)
    assert "did you mean 'digits'?" in said("cut", "digit")
    assert "neither a folder, an .npz file" in said("cut", "nowhere/new.npz")
    assert "neither a folder, an .npz file" in said("cut", "~nobody-here/new.npz")
    shutil.copy(data / "new.npz", data / "~new.npz")
    assert extension("cut", "~new.npz", plugins.registry)[0]["dataset"]["path"] == str(data / "~new.npz")
    assert "write NAME:key=value" in said("cut", "digits:size")
    assert "RUN nope: no such run here" in said("nope", "new.npz")
    (data / "notes.txt").write_text("")
    assert "give a folder of images" in said("cut", "notes.txt")
    np.savez(data / "vectors.npz", x=np.zeros((10, 3)), y=np.arange(10) % 2)
    with pytest.raises(UserError, match="its rows are 3 float32, those of the stream are 1×8×8 uint8"):
        extend(
            plugins,
            data / "cut",
            "vectors.npz",
            data / "longer",
            "stream.extensions.0.dataset={name: arrays, path: vectors.npz}",
        )
    with pytest.raises(UserError, match="class 'ten' does not exist"):
        extend(plugins, data / "cut", "new.npz", data / "longer", classes=["ten"])
    assert not (data / "longer").exists()


def test_a_data_set_by_name_with_options() -> None:
    from clkd.engine.extend import dataset

    registry = load_plugins().registry
    got = dataset("mnist:rows_per_class=100,size=8", registry)
    assert got == {"name": "mnist", "rows_per_class": 100, "size": 8}


@pytest.mark.parametrize(
    ("by", "own", "classes", "cut"),
    [
        (None, "given", (), {"by": "given"}),
        ("given", "class", (), {"by": "given"}),
        (None, "given", ("five",), {"by": "class", "classes": [["five"]]}),
        ("class", "given", (), {"by": "class", "experiences": 1}),
        (None, "repeated", (), {"by": "class", "experiences": 1}),
        (None, "domain", (), {"by": "data", "experiences": 1}),
        (None, "task", (), {"by": "task", "experiences": 1}),
    ],
)
def test_new_data_is_cut_as_the_run_was(
    by: str | None, own: str, classes: tuple[str, ...], cut: dict[str, Any]
) -> None:
    assert _split(by, own, None, classes) == cut


@pytest.mark.parametrize("by", [None, "given"])
def test_data_that_says_its_experiences_is_not_split_further(by: str | None) -> None:
    with pytest.raises(UserError, match="--experiences 2: the data's own `experience` column says it"):
        _split(by, "given", 2, ())


def test_places_stay_places(plugins: Plugins, data: Path) -> None:
    """More classes of a run that calls them by their place are one domain more, and no class more."""
    told = {"stream": {"dataset": {"name": "arrays", "path": "old.npz"}}}
    split = {"by": "class", "classes": [[0, 1], [2, 3]], "labels": "place"}
    made = {**BASE, **told, "memory": {"kind": "random", "size": 30}, "output": str(data / "cut")}
    made["stream"]["split"] = split
    (data / "places.yaml").write_text(to_yaml(made))
    execute(RunRequest(scenario=data / "places.yaml", quiet=True), plugins)
    write(data / "pair.npz", range(5, 7))
    extend(plugins, data / "cut", data / "pair.npz", data / "longer")
    layout = state(data / "longer")["student"]["layout"]
    assert layout == {"class_ids": [0, 1], "born": [0, 0]}
    assert set(state(data / "longer")["memory"]["table"]["domain"].tolist()) == {0, 1, 2}
