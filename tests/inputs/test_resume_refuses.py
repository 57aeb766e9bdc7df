"""A run goes on from the newest checkpoint that is whole, with what it began with, or says in one line why not."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clkd import checkpoint
from clkd.cli.main import main
from clkd.scenario.document import to_yaml

SCENARIO = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 8}, "split": {"by": "class", "experiences": 3}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
    "memory": {"kind": "reservoir", "size": 12},
    "train": {"batch_size": 8, "optimizer": {"kind": "sgd", "lr": 0.05}},
    "tracking": {"mode": "off"},
}


@pytest.fixture(scope="module")
def homes(tmp_path_factory, request):
    """`whole` ran to its end, `cut` was stopped after two experiences, and so was `other`, with another seed."""
    home = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLKD_CACHE", str(home / "cache"))
        (home / "s.yaml").write_text(to_yaml(SCENARIO))
        for name, *more in (
            ["whole"],
            ["cut", "--limit-experiences", "2"],
            ["other", "--limit-experiences", "2", "--seed", "5"],
        ):
            assert main(["run", str(home / "s.yaml"), "-q", "--set", f"output={home / name}", *more]) == 0
    return home


@pytest.fixture
def cut(homes, tmp_path):
    """A copy of the stopped run, to be harmed."""
    return shutil.copytree(homes / "cut", tmp_path / "cut")


def weights(run):
    last = checkpoint.latest(run / "checkpoints")
    assert last is not None
    return checkpoint.load(last)["student"]["state"]


HARMS = {
    "flipped": lambda path: path.write_bytes(
        path.read_bytes()[:-3] + bytes([path.read_bytes()[-3] ^ 4]) + path.read_bytes()[-2:]
    ),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "emptied": lambda path: path.write_bytes(b""),
    "another type": lambda path: path.write_bytes(b"[1, 2]"),
    "bottomless": lambda path: path.write_bytes(b"[" * 100_000),
    "infinite": lambda path: path.write_bytes(b'{"number": 1e999, "tree": NaN}'),
    "gone": Path.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("file", [checkpoint.STATE, checkpoint.TENSORS])
def test_a_broken_checkpoint_is_named_and_the_older_one_is_used(homes, cut, file, harm, clkd):
    HARMS[harm](cut / "checkpoints" / "exp_001" / file)
    done = clkd("run", "--resume", cut, "-q")
    assert done.code == 0
    assert f"exp_001/{file}: " in done.line
    assert done.line.endswith("an older checkpoint is looked for")
    for name, tensor in weights(homes / "whole").items():
        assert torch.equal(tensor, weights(cut)[name])


def test_where_all_are_broken_nothing_is_trained_again_unasked(cut, clkd):
    for name in ("exp_000", "exp_001"):
        (cut / "checkpoints" / name / checkpoint.TENSORS).write_bytes(b"")
    before = sorted((cut / "checkpoints").rglob("*"))
    done = clkd("run", "--resume", cut, "-q")
    assert done.code == 2
    assert "checkpoints: no checkpoint in it is whole: bring one back from a copy" in done.err
    assert sorted((cut / "checkpoints").rglob("*")) == before


@pytest.mark.parametrize(
    ("schema", "way_out"),
    [
        (checkpoint.SCHEMA + 1, "upgrade clkd"),
        (1, "go on with that clkd"),
        (0, "go on with that clkd"),
        ("1", "go on with"),
    ],
)
def test_another_schema_is_refused_not_passed_over(cut, schema, way_out, clkd):
    path = cut / "checkpoints" / "exp_001" / checkpoint.STATE
    document = json.loads(path.read_text()) | {"schema": schema, "clkd": "0.0.7"}
    del document["sha256"]
    document["sha256"] = hashlib.sha256(json.dumps(document).encode()).hexdigest()
    path.write_text(json.dumps(document))
    done = clkd("run", "--resume", cut, "-q")
    assert done.code == 2
    assert f"exp_001/state.json: clkd 0.0.7 wrote it in schema {schema}" in done.line
    assert way_out in done.line


def test_sums_that_fit_around_nonsense(cut, clkd):
    path = cut / "checkpoints" / "exp_001" / checkpoint.STATE
    for tree in (
        {},
        {"run": 5},
        {"run": {"$": "tensor", "key": "nowhere"}},
        {"$": "dict", "pairs": [[{"$": "float"}]]},
    ):
        document = json.loads(path.read_text()) | {"tree": tree}
        del document["sha256"]
        document["sha256"] = hashlib.sha256(json.dumps(document).encode()).hexdigest()
        path.write_text(json.dumps(document))
        done = clkd("run", "--resume", cut, "-q")
        assert done.code == 2
        assert "exp_001" in done.line


def test_another_runs_checkpoint_is_refused(homes, cut, clkd):
    shutil.rmtree(cut / "checkpoints")
    shutil.copytree(homes / "other" / "checkpoints", cut / "checkpoints")
    done = clkd("run", "--resume", cut, "-q")
    assert done.code == 2
    assert "exp_001 is a checkpoint of run " in done.line


def test_a_scenario_that_was_altered_is_refused(cut, clkd):
    path = cut / "resolved.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    done = clkd("run", "--resume", cut, "-q")
    assert done.code == 2
    assert "resolved.yaml was altered since the run began" in done.line


@pytest.mark.parametrize("missing", ["resolved.yaml", "scenario.yaml"])
def test_a_file_that_is_gone_is_named(cut, missing, clkd):
    (cut / missing).unlink()
    done = clkd("run", "--resume", cut, "-q")
    assert done.code == 2
    assert f"{missing}: no such file" in done.line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "cannot be read"),
        ("{" * 100_000, "cannot be read"),
        ("[]", "was altered"),
        ('{"id": "../../x"}', "was altered"),
        ('{"id": "a\' OR 1"}', "was altered"),
        ('{"id": "abc"}', "is incomplete or was altered"),
        ('{"id": "abc", "base": 5, "limit_batches": null}', "is incomplete or was altered"),
        ('{"id": "abc", "base": ".", "limit_batches": null, "plugins": [1]}', "is incomplete or was altered"),
    ],
)
def test_a_run_that_does_not_know_itself(cut, content, said, clkd):
    (cut / "run.json").write_text(content)
    done = clkd("run", "--resume", cut, "-q")
    assert done.code == 2
    assert said in done.line
    assert "run.json" in done.line


def test_one_broken_run_does_not_hide_the_others(cut, clkd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shutil.move(cut, "runs/good")
    Path("runs/bad").mkdir()
    Path("runs/bad/run.json").write_text("{")
    done = clkd("run", "--resume", "last", "-q")
    assert done.code == 0
    assert "runs/bad/run.json cannot be read" in done.line


def test_data_that_changed_is_refused(tmp_path, clkd):
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(60, 4)), "y": np.arange(60) % 3}
    np.savez(tmp_path / "a.npz", **arrays)
    scenario = SCENARIO | {
        "stream": {"dataset": {"name": "arrays", "path": "a.npz"}, "split": {"by": "class", "experiences": 3}}
    }
    (tmp_path / "s.yaml").write_text(to_yaml(scenario))
    run = tmp_path / "run"
    assert clkd("run", tmp_path / "s.yaml", "-q", "--set", f"output={run}", "--limit-experiences", "1").code == 0
    np.savez(tmp_path / "a.npz", **arrays | {"x": arrays["x"] + 1})
    done = clkd("run", "--resume", run, "-q")
    assert done.code == 2
    assert "stream: arrays is not the data that was trained on (its content differs)" in done.err
    np.savez(tmp_path / "a.npz", **arrays)
    assert clkd("run", "--resume", run, "-q").code == 0


LOSS = """
from clkd import Loss, hookimpl
class Mine(Loss):
    sides = 1
    def forward(self, batch, a, b=None):
        return a.logits.square().mean(1)
@hookimpl
def clkd_register_losses(register):
    register("mine", Mine)
"""


def installed(site: Path, dist: str, version: str) -> None:
    """As pip would leave it."""
    for old in site.glob("*.dist-info"):
        shutil.rmtree(old)
    info = site / f"{dist.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text("[clkd]\nmine = mine_parts\n")
    (site / "mine_parts.py").write_text(LOSS)


def test_another_version_of_a_plugin_is_warned_of_and_another_plugin_refused(tmp_path, monkeypatch, clkd):
    site, run = tmp_path / "site", tmp_path / "run"
    installed(site, "mine-losses", "1.0")
    monkeypatch.syspath_prepend(str(site))
    (tmp_path / "s.yaml").write_text(to_yaml(SCENARIO | {"losses": ["cross_entropy", "mine"]}))
    assert clkd("run", tmp_path / "s.yaml", "-q", "--set", f"output={run}", "--limit-experiences", "1").code == 0
    assert json.loads((run / "run.json").read_text())["plugins"] == {"mine": "mine-losses 1.0"}
    installed(site, "other-losses", "1.0")
    done = clkd("run", "--resume", run, "-q")
    assert done.code == 2
    assert "plugin 'mine' from mine-losses 1.0; now its parts come from other-losses 1.0" in done.line
    installed(site, "mine-losses", "2.0")
    done = clkd("run", "--resume", run, "-q")
    assert done.code == 0
    assert "plugin 'mine' is mine-losses 2.0, the run began with mine-losses 1.0: numbers may differ" in done.line
    sys.modules.pop("mine_parts", None)


def test_a_plugin_file_is_known_by_its_content(tmp_path, clkd):
    folder, run = tmp_path / "mine", tmp_path / "run"
    folder.mkdir()
    (folder / "my_loss.py").write_text(LOSS)
    (tmp_path / "s.yaml").write_text(to_yaml(SCENARIO | {"losses": ["cross_entropy", "mine"]}))
    begin = ["run", tmp_path / "s.yaml", "-q", "--set", f"output={run}", "--limit-experiences", "1"]
    assert clkd(*begin, "--plugins-dir", folder).code == 0
    done = clkd("run", "--resume", run, "-q")
    assert done.code == 2
    assert "loss 'mine' is not known" in done.line
    (folder / "my_loss.py").write_text(LOSS + "# another remark\n")
    done = clkd("run", "--resume", run, "-q", "--plugins-dir", folder)
    assert done.code == 0
    assert "plugin 'my_loss' is my_loss.py " in done.line


def test_a_state_that_no_longer_fits_is_one_line(tmp_path, clkd):
    """The plugin's new version keeps other parameters than the checkpoint has."""
    folder, run = tmp_path / "mine", tmp_path / "run"
    folder.mkdir()
    (folder / "my_loss.py").write_text(LOSS)
    (tmp_path / "s.yaml").write_text(to_yaml(SCENARIO | {"losses": ["cross_entropy", "mine"]}))
    begin = ["run", tmp_path / "s.yaml", "-q", "--set", f"output={run}", "--limit-experiences", "1"]
    assert clkd(*begin, "--plugins-dir", folder).code == 0
    grown = "class Mine(Loss):\n    def __init__(self):\n        super().__init__()\n        import torch\n"
    grown += "        self.w = torch.nn.Parameter(torch.ones(1))\n"
    (folder / "my_loss.py").write_text(LOSS.replace("class Mine(Loss):\n", grown))
    done = clkd("run", "--resume", run, "-q", "--plugins-dir", folder)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("clkd: --resume: the checkpoint does not fit this scenario's parts")
