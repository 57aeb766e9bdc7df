"""Two real processes under the real torchrun learn what one learns, and write what one writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from addresses import HERE, free_port

from clkd import checkpoint
from clkd.engine.execute import execute
from clkd.errors import UserError
from clkd.plugins import load_plugins
from clkd.ranks import Ranks
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest
from clkd.signals import Batch

pytestmark = pytest.mark.timeout(600)
"""Real processes, on machines that may be busy."""

# Neither batch size divides them, and 20 + 11 rows divide unevenly over two ranks.
SCENARIO: dict[str, Any] = {
    "name": "two",
    "stream": {
        "dataset": {"name": "digits", "rows_per_class": 30},
        "split": {"by": "class", "experiences": 3, "validation": 0.1},
    },
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "teachers": {"previous": "previous", "big": {"kind": "fit", "model": {"kind": "mlp", "hidden": [24]}, "epochs": 1}},
    "losses": [
        "cross_entropy",
        {"kind": "kd", "between": ["student", "previous"], "weight": "old_fraction"},
        {"kind": "kd", "name": "kd_replay", "between": ["student@replay", "big"], "weight": 0.5},
        {"kind": "features", "between": ["student.penultimate", "big.penultimate"], "align": "linear", "weight": 0.1},
    ],
    "memory": {"kind": "reservoir", "size": 40},
    "train": {
        "epochs": 2,
        "batch_size": 20,
        "replay_batch_size": 11,
        "clip_norm": 2.0,
        "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9},
        "keep_optimizer": True,
    },
}
EQUAL = {"rel": 1e-4, "abs": 1e-5}


def torchrun(*program: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *program],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def two(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    """Under torchrun: its exit code, stdout and stderr."""
    process = torchrun("-m", "clkd", "run", *arguments, cwd=cwd)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def pair(*arguments: str, cwd: Path, code: int = 0) -> tuple[str, str]:
    """Two processes with the environment that torchrun gives them, without its seconds; their stdout and stderr."""
    place = {"MASTER_ADDR": HERE, "MASTER_PORT": str(free_port())}
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", **place}
    ranks = [processes.start("run", *arguments, cwd=cwd, RANK=r, LOCAL_RANK=r, **shared) for r in ("0", "1")]
    try:
        out, err = ("".join(said) for said in zip(*(rank.communicate() for rank in ranks), strict=True))
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [code, code], err
    return out, err


def write(home: Path, name: str, **changes: Any) -> Path:
    path = home / f"{name}.yaml"
    path.write_text(to_yaml({**SCENARIO, **changes, "output": str(home / name)}))
    return path


def one(**request: Any) -> None:
    execute(RunRequest(quiet=True, tracking="offline", **request), load_plugins())


def epochs(home: Path, name: str) -> list[dict[str, float]]:
    lines = map(json.loads, (home / name / "metrics.jsonl").read_text().splitlines())
    return [line["metrics"] for line in lines if line["event"] == "epoch"]


def assert_equal_runs(home: Path, a: str, b: str) -> None:
    """The same losses in every epoch, the same accuracies, and the same rows in memory."""
    for ours, theirs in zip(epochs(home, a), epochs(home, b), strict=True):
        assert ours == pytest.approx(theirs, **EQUAL)
    results = [json.loads((home / name / "result.json").read_text()) for name in (a, b)]
    for key in ("status", "accuracy_matrix"):
        assert results[0][key] == results[1][key]
    kept = [checkpoint.load(checkpoint.latest(home / name / "checkpoints"))["memory"] for name in (a, b)]
    if "table" in kept[0]:
        assert torch.equal(kept[0]["table"]["sample_id"], kept[1]["table"]["sample_id"])
    else:  # a generator: it learns from the rows alone, not from the student
        assert all(torch.equal(kept[0]["vae"][name], kept[1]["vae"][name]) for name in kept[0]["vae"])


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_and_leave_one_run(tmp_path: Path) -> None:
    one(scenario=write(tmp_path, "alone"))
    out, err = pair(str(write(tmp_path, "both")), "--json", "--tracking", "offline", cwd=tmp_path)
    assert json.loads(out)["status"] == "finished", "one object on stdout, though two processes ran"
    assert_equal_runs(tmp_path, "alone", "both")
    assert epochs(tmp_path, "both")[-1].keys() >= {"train/loss_kd_replay", "train/loss_features_big"}
    assert "Warning" not in err
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"alone", "both"}


@pytest.mark.slow
def test_so_it_is_under_torchrun(tmp_path: Path) -> None:
    one(scenario=write(tmp_path, "alone"))
    code, out, err = two(str(write(tmp_path, "both")), "--json", "--tracking", "offline", cwd=tmp_path)
    assert code == 0, err
    assert json.loads(out)["status"] == "finished"
    assert_equal_runs(tmp_path, "alone", "both")
    assert "Warning" not in err


@pytest.mark.slow
def test_saved_by_two_it_goes_on_alone(tmp_path: Path) -> None:
    one(scenario=write(tmp_path, "whole"))
    path = write(tmp_path, "cut")
    pair(str(path), "--limit-experiences", "1", "--tracking", "offline", cwd=tmp_path)
    one(resume=str(tmp_path / "cut"))
    assert_equal_runs(tmp_path, "whole", "cut")


MISTAKE = "--set memory.size=-1: memory.size: give more than 0; got -1"


@pytest.mark.slow
def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    said = pair(str(write(tmp_path, "wrong")), "--set", "memory.size=-1", cwd=tmp_path, code=2)
    assert said == ("", f"{MISTAKE}\n")
    assert not (tmp_path / "wrong").exists()


@pytest.mark.slow
def test_a_mistake_is_one_line_under_torchrun(tmp_path: Path) -> None:
    code, out, err = two(str(write(tmp_path, "wrong")), "--set", "memory.size=-1", cwd=tmp_path)
    assert (code != 0, out) == (True, "")
    assert [line for line in err.splitlines() if "memory" in line] == [MISTAKE]
    assert "exitcode  : 2" in err, "torchrun's own report"


@pytest.mark.slow
def test_parameters_are_held_and_gradients_projected_as_in_one_process(tmp_path: Path) -> None:
    held = [{"kind": "ewc", "weight": 20}, {"kind": "si", "weight": 2}, {"kind": "mas", "weight": 0.1}, "rwalk"]
    kd = {"kind": "kd", "between": ["student", "previous"]}
    for policy in ("agem", "gem"):
        changes = {
            "teachers": {"previous": "previous"},
            "losses": ["cross_entropy", kd, *held],
            "train": {**SCENARIO["train"], "gradient": policy},
        }
        one(scenario=write(tmp_path, f"alone_{policy}", **changes))
        path = write(tmp_path, f"both_{policy}", **changes)
        pair(str(path), "--tracking", "offline", cwd=tmp_path)
        assert_equal_runs(tmp_path, f"alone_{policy}", f"both_{policy}")
        names = [tmp_path / f"{name}_{policy}" / "checkpoints" for name in ("alone", "both")]
        ours, theirs = (checkpoint.load(checkpoint.latest(name))["terms"]["ewc"]["state"] for name in names)
        for name, importance in ours["_extra_state"]["kept"]["importance"].items():
            other = theirs["_extra_state"]["kept"]["importance"][name]
            torch.testing.assert_close(importance, other, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_saved_alone_it_goes_on_as_two(tmp_path: Path) -> None:
    one(scenario=write(tmp_path, "whole"))
    one(scenario=write(tmp_path, "cut"), limit_experiences=1)
    pair("--resume", str(tmp_path / "cut"), "--tracking", "mlflow", "--tracking-uri", "sqlite:///m.db", cwd=tmp_path)
    assert_equal_runs(tmp_path, "whole", "cut")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/m.db")
    found = [client.search_runs([e.experiment_id]) for e in client.search_experiments()]
    assert len([run for runs in found for run in runs if "mlflow.parentRunId" not in run.data.tags]) == 1


VIEWS = {"crop": 1, "flip": True, "views": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "views": {"stream": {**SCENARIO["stream"], "augment": VIEWS}},
    "fresh views": {"stream": {**SCENARIO["stream"], "augment": {**VIEWS, "views": None}}},
    "class balanced": {"memory": {"kind": "class_balanced", "size": 25}},
    "herding": {"memory": {"kind": "herding", "size": 25}},
    "gss, told the task": {
        "stream": {**SCENARIO["stream"], "split": {**SCENARIO["stream"]["split"], "by": "task"}},
        "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "multi"},
        "memory": {"kind": "gss", "size": 25},
    },
    "loss aware, retrieved by interference": {
        "memory": {"kind": "loss_aware", "size": 40, "retrieval": {"kind": "mir", "candidates": 20}},
    },
    "ring": {"memory": {"kind": "ring", "size": 25}},
    "generator": {"memory": {"kind": "generator", "hidden": [20], "latent": 5}},
    "phases": {
        "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "bias_corrected"},
        "teachers": {},
        "losses": ["cross_entropy"],
        "phases": [
            {"name": "even", "rows": "balanced", "trains": "head", "optimizer": {"kind": "sgd", "lr": 0.05}},
            {"name": "bias", "rows": "held_out", "trains": "bias", "optimizer": {"kind": "sgd", "lr": 0.05}},
        ],
    },
    "nearest class means": {
        "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "ncm"},
        "teachers": {"previous": "previous"},
        "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "previous"]}],
    },
    "ema": {
        "teachers": {"slow": {"kind": "ema", "decay": 0.9}},
        "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "slow"]}],
        "train": {**SCENARIO["train"], "optimizer": {"kind": "sgd", "lr": 0.05}},
    },
    "stored logits, two draws, and a teacher that is asked about replayed rows alone": {
        "teachers": {"stored": "stored", "previous": {"kind": "previous", "recall": False}},
        "losses": [
            "cross_entropy",
            {"kind": "kd", "name": "past", "between": ["student@replay", "previous"], "weight": 0.5},
            {"kind": "kd", "between": ["student@replay1", "stored"], "weight": 0.5},
            {"kind": "cross_entropy", "name": "again", "between": ["student@replay2"], "weight": 0.5},
        ],
        "memory": {"kind": "reservoir", "size": 40, "store": ["logits"]},
        "train": {**SCENARIO["train"], "replay_draws": 2},
    },
    "mutual": {
        "peers": {"mate": {"model": {"kind": "mlp", "hidden": [12]}, "head": "linear"}},
        "teachers": {"both": {"kind": "ensemble", "members": ["student", "mate"], "by": "least_loss"}},
        "losses": [
            "cross_entropy",
            {"kind": "cross_entropy", "between": ["mate"]},
            {"kind": "kd", "between": ["student", "mate"]},
            {"kind": "kd", "between": ["mate", "both"]},
        ],
    },
    "batches smaller than two rows a rank": {"train": {**SCENARIO["train"], "batch_size": 3, "replay_batch_size": 2}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_so_it_is_for_other_parts(tmp_path: Path, name: str) -> None:
    one(scenario=write(tmp_path, "alone", **VARIANTS[name]))
    pair(str(write(tmp_path, "both", **VARIANTS[name])), "--tracking", "offline", cwd=tmp_path)
    assert_equal_runs(tmp_path, "alone", "both")


@pytest.mark.slow
def test_two_processes_report_what_one_reports(tmp_path: Path) -> None:
    """Counts may differ by a row that is undecided to the last bit."""
    report = {"rows": 300, "cka": ["penultimate", "stage1"]}
    one(scenario=write(tmp_path, "alone", report=report))
    pair(str(write(tmp_path, "both", report=report)), "--tracking", "offline", cwd=tmp_path)
    for i in range(3):
        ours, theirs = (
            json.loads((tmp_path / name / f"reports/exp_{i:03d}.json").read_text()) for name in ("alone", "both")
        )
        assert ours["student"]["rows"] == theirs["student"]["rows"]
        for name, told in ours["teachers"].items():
            other = theirs["teachers"][name]
            assert told.keys() == other.keys()
            for key in set(told) - {"classes", "skipped"}:
                assert (told[key] is None) == (other[key] is None)
                assert told[key] is None or told[key] == pytest.approx(
                    other[key], rel=0.02, abs=1 if isinstance(told[key], int) else 0
                )
        for a, b in zip(ours["cka"]["values"], theirs["cka"]["values"], strict=True):
            assert a == pytest.approx(b, rel=1e-3)


@pytest.mark.slow
def test_what_only_compares_a_ranks_own_rows_still_ends_with_equal_students(tmp_path: Path) -> None:
    """Batch norm on the CPU, dropout, coral and classes told apart in two views: other numbers than one process gives,
    but the same on both."""
    changes = {
        "stream": {**SCENARIO["stream"], "augment": {**VIEWS, "views": None}},
        "student": {"model": "resnet8", "head": "linear"},
        "teachers": {"slow": "ema"},
        "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "slow"]}, {"kind": "supcon", "weight": 0.1}],
        "transfer": {"kind": "coral", "weight": 0.1},
        "train": {"epochs": 1, "batch_size": 32, "optimizer": {"kind": "sgd", "lr": 0.05}},
    }
    _, err = pair(str(write(tmp_path, "norm", **changes)), "--tracking", "offline", cwd=tmp_path)
    assert err.count("batch norm sees each process's rows by themselves") == 1


@pytest.mark.slow
def test_what_all_were_trained_on_whole_is_kept_as_one_said_it(tmp_path: Path) -> None:
    """A batch that is too small to be shared out: dropout drops other numbers in each process, and both have to let the
    same rows win."""
    changes = {
        "student": {"model": {"kind": "mlp", "hidden": [16], "dropout": 0.2}, "head": "linear"},
        "teachers": {},
        "losses": ["cross_entropy"],
        "memory": {"kind": "gss", "size": 25},
        "train": {"epochs": 2, "batch_size": 3, "optimizer": {"kind": "sgd", "lr": 0.05}},
        "checkpoint": {"every_minutes": None},
    }
    pair(str(write(tmp_path, "run", **changes)), "--tracking", "offline", cwd=tmp_path)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_batches_of_kept_rows_alone_train_as_in_one_process(tmp_path: Path) -> None:
    """Memory is mixed in: in a batch without a new row, the learned weight of a loss about new rows has no gradient."""
    changes = {
        "teachers": {},
        "losses": [
            {"kind": "cross_entropy", "between": ["student@new"], "weight": "uncertainty"},
            {"kind": "cross_entropy", "name": "old", "between": ["student@replay"]},
        ],
        "memory": {"kind": "herding", "size": 40},
        "train": {"epochs": 3, "batch_size": 4, "mix_memory": True, "optimizer": {"kind": "sgd", "lr": 0.02}},
    }
    one(scenario=write(tmp_path, "alone", **changes))
    pair(str(write(tmp_path, "both", **changes)), "--tracking", "offline", cwd=tmp_path)
    assert_equal_runs(tmp_path, "alone", "both")


@pytest.mark.slow
def test_a_learned_weight_is_that_of_one_process_where_a_rank_has_no_label(tmp_path: Path) -> None:
    """Few rows have one: in many steps all of them are with one rank, and none in others."""
    changes = {
        "stream": {**SCENARIO["stream"], "labelled": 0.15},
        "teachers": {"previous": "previous"},
        "losses": [
            {"kind": "cross_entropy", "weight": "uncertainty"},
            {"kind": "kd", "between": ["student", "previous"], "weight": {"kind": "uncertainty", "value": 0.5}},
        ],
        "train": {**SCENARIO["train"], "batch_size": 8, "replay_batch_size": 4, "epochs": 3},
    }
    one(scenario=write(tmp_path, "alone", **changes))
    pair(str(write(tmp_path, "both", **changes)), "--tracking", "offline", cwd=tmp_path)
    assert_equal_runs(tmp_path, "alone", "both")
    terms = [checkpoint.load(checkpoint.latest(tmp_path / name / "checkpoints"))["terms"] for name in ("alone", "both")]
    for name in ("cross_entropy", "kd_previous"):
        ours, theirs = (each[name]["weight"]["log_variance"].item() for each in terms)
        assert ours == pytest.approx(theirs, rel=1e-3)
        assert abs(ours) > 0.05, "it has learned something"


CORRUPTS = """
import os
from typing import ClassVar
import torch
from clkd import Loss, Options, hookimpl

class CorruptsOptions(Options):
    sides: ClassVar[int] = 1

class Corrupts(Loss):
    sides = 1
    def forward(self, batch, a, b=None):
        return a.logits.sum() * 0
    def end(self, experience, student):
        with torch.no_grad():
            student.head.weight.add_(float(os.environ["RANK"]))

@hookimpl
def clkd_register_losses(register):
    register("corrupts", Corrupts, config=CorruptsOptions, summary="makes ranks differ")
"""


@pytest.mark.slow
def test_ranks_that_do_not_hold_the_same_are_told(tmp_path: Path) -> None:
    """Else the tests above, whose ranks end equal, would prove nothing."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "corrupts.py").write_text(CORRUPTS)
    run = write(tmp_path, "run", losses=["cross_entropy", "corrupts"], teachers={})
    _, err = pair(str(run), "--plugins-dir", "plugins", "--tracking", "offline", cwd=tmp_path, code=1)
    assert "what was trained" in err
    assert "Traceback" not in err


def domains(by: str) -> dict[str, Any]:
    """Three domains, one of which comes back; batches are shared out, but the last one, of a single new row, is not."""
    return {
        "stream": {
            "dataset": {"name": "digits", "rows_per_class": 10},
            "split": {"by": "domain", "domains": ["clean", {"kind": "contrast", "severity": 5}, "clean"]},
            "labelled": [1, 0.5, 0],
        },
        "student": {"model": {"kind": "resnet8", "width": 2}, "head": "linear"},
        "teachers": {"slow": {"kind": "ema", "decay": 0.9}, "previous": "previous"},
        "losses": [
            "cross_entropy",
            *({"kind": "kd", "between": ["student", name], "weight": 0.5} for name in ("slow", "previous")),
        ],
        "memory": {"kind": "domain_balanced", "size": 30},
        "transfer": [{"kind": "dsbn", "by": by}, {"kind": "adabn", "share": 0.5}],
        "train": {**SCENARIO["train"], "epochs": 1, "batch_size": 33, "replay_batch_size": 5},
    }


@pytest.mark.slow
@pytest.mark.parametrize("by", ["nearest", "domain"])
def test_statistics_of_each_domain_are_those_of_all_ranks_rows(tmp_path: Path, by: str) -> None:
    one(scenario=write(tmp_path, "alone", **domains(by)))
    _, err = pair(str(write(tmp_path, "both", **domains(by))), "--tracking", "offline", cwd=tmp_path)
    assert "batch norm sees" not in err
    assert_equal_runs(tmp_path, "alone", "both")
    paths = [checkpoint.latest(tmp_path / name / "checkpoints") for name in ("alone", "both")]
    ours, theirs = (checkpoint.load(path)["student"]["state"] for path in paths)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4)
    cut = write(tmp_path, "cut", **domains(by))
    pair(str(cut), "--limit-experiences", "1", "--tracking", "offline", cwd=tmp_path)
    one(resume=str(tmp_path / "cut"), limit_experiences=1)
    pair("--resume", str(tmp_path / "cut"), "--tracking", "offline", cwd=tmp_path)
    assert_equal_runs(tmp_path, "alone", "cut")


@pytest.mark.slow
def test_what_could_wait_for_ever_is_refused(tmp_path: Path) -> None:
    """A term that one process has no row for, and whose gradient the other waits for."""
    path = write(tmp_path, "wrong", **domains("domain"))
    _, err = pair(str(path), "--set", "train.gradient_shares=2", cwd=tmp_path, code=2)
    assert "train.gradient_shares: with dsbn, all processes take part" in err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_both_and_is_recorded(tmp_path: Path, number: signal.Signals) -> None:
    path = write(tmp_path, "endless", train={**SCENARIO["train"], "epochs": 100000})
    process = torchrun("-m", "clkd", "run", str(path), "--tracking", "offline", "-q", cwd=tmp_path)
    metrics = tmp_path / "endless" / "metrics.jsonl"
    processes.wait_for(lambda: metrics.exists() and "train/loss" in metrics.read_text(), process, 300)  # both train
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert err.count("clkd: stopped by") == 1, err
    assert json.loads((tmp_path / "endless" / "run.json").read_text())["status"] == "killed"


TALK = """
import torch
from torch import nn
from clkd.engine.meter import Meter
from clkd.errors import ClkdError
from clkd.ranks import joined
from clkd.schedules.base import Progress
from clkd.signals import Needs, Signals

with joined() as ranks:
    r, ids = ranks.rank, torch.arange(2)
    rows = torch.arange(14.0).view(7, 2)
    own = Signals(ranks.own(rows), ids, {"tap": ranks.own(rows[:, None].half())})
    told = ranks.whole(own, 7, Needs(features=("tap",)))
    assert torch.equal(told.logits, rows) and torch.equal(told.features["tap"], rows[:, None].half())
    assert ranks.whole(own, 7, None).logits is None, "what nobody needs is not sent"
    everybodys = Signals(rows + r, ids)
    assert torch.equal(ranks.whole(everybodys, 7, Needs()).logits, rows), "the first's of what was not shared out"
    assert torch.equal(everybodys.logits, rows + r)
    two = Signals(torch.cat([ranks.own(rows), ranks.own(-rows)]), ids)
    assert torch.equal(ranks.whole(two, (7, 7), Needs()).logits, torch.cat([rows, -rows])), "each kind by itself"
    assert ranks.first_told(torch.tensor([3, 4]) + r).tolist() == [3, 4]
    assert ranks.sum(torch.tensor([r + 1])).tolist() == [3]
    assert ranks.mean(torch.tensor([r + 1.0])).tolist() == [1.5]
    assert ranks.highest(10 * r) == 10
    assert ranks.tell({"rank": r}) == {"rank": 0}
    layer = nn.BatchNorm1d(2)
    layer.running_mean += r
    layer.weight.data += r
    ranks.settle(layer)
    ranks.follow(nn.ParameterList([layer.weight]))
    assert layer.running_mean.tolist() == [0.5, 0.5] and layer.weight.tolist() == [1.0, 1.0]
    ranks.agree("the sky", "blue")
    try:
        ranks.agree("the sky", "blue" if r == 0 else "red")
    except ClkdError as error:
        assert "the sky differs between rank 0 and rank 1" in str(error)
    else:
        raise AssertionError
    from pathlib import Path
    def work():
        assert Path("left").exists() == (r == 1)
        Path("left").touch()
        return r
    assert ranks.in_turn(work) == r
    for lost in (KeyError(r), KeyError(r)):
        def fail():
            raise lost
        try:
            ranks.in_turn(fail)
        except KeyError as error:
            assert error is lost and ranks.gather(r) == [0, 1], "whoever catches it is in step with the others"
        else:
            raise AssertionError
    meter = Meter(ranks)
    meter.add({"loss": torch.tensor(1.0)} | ({"rare": torch.tensor(4.0)} if r else {}))
    meter.add({"loss": torch.tensor(3.0), "aside": torch.tensor(8.0), "rare": torch.tensor(2.0)})
    assert meter.means(Progress()) == {"loss": 2.0, "aside": 8.0, "rare": 4.0 / 1.5}
    alone = Meter(ranks)
    alone.add({"loss": torch.tensor(1.0)} | ({"rare": torch.tensor(4.0)} if r else {}))
    assert alone.means(Progress()) == {"loss": 1.0, "rare": 4.0}
    print("fine")
"""


@pytest.mark.slow
def test_what_ranks_tell_each_other(tmp_path: Path) -> None:
    (tmp_path / "talk.py").write_text(TALK)
    process = torchrun("talk.py", cwd=tmp_path)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out.count("fine")) == (0, 2), err


@pytest.mark.parametrize(("new", "replayed"), [(7, 0), (6, 7), (31, 9), (4, 5), (3, 8), (20, 1)])
@pytest.mark.parametrize("world", [2, 3])
def test_shares_are_a_partition_whose_scaled_means_have_the_whole_mean(new: int, replayed: int, world: int) -> None:
    i = torch.arange(new + replayed)
    batch = Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=new, extra={"key": i[new:]})
    values = torch.randn(len(i), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ranks = [Ranks(rank, world) for rank in range(world)]
    shares = [one.share(batch) for one in ranks]
    assert [one.size_of_share([new, replayed]) for one in ranks] == list(map(len, shares))
    for share in shares:
        assert torch.equal(share.y[share.new :], share.extra["key"])
        assert min(share.new, len(share) - share.new if replayed else 2) >= 2 or len(share) == len(batch)
    if min(new, replayed or new) >= 2 * world:
        assert torch.equal(torch.cat([share.y for share in shares]).sort().values, i)
    for start, stop in [(0, new), (new, len(i)), (0, len(i))]:
        if start == stop:
            continue
        parts = []
        for one, share in zip(ranks, shares, strict=True):
            own = share.y[(share.y >= start) & (share.y < stop)]
            parts.append(one.part(values[own].mean(), len(own), stop - start))
        torch.testing.assert_close(torch.stack(parts).mean(), values[start:stop].mean())


STOPS = """
import os, signal
from pathlib import Path
from typing import ClassVar
from clkd import Loss, Options, hookimpl

class StopsOptions(Options):
    sides: ClassVar[int] = 1

class Stops(Loss):
    sides = 1
    def forward(self, batch, a, b=None):
        if Path("stop").exists() and self.progress.step == int(Path("stop").read_text()):
            if os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGTERM)
        return a.logits.sum() * 0

@hookimpl
def clkd_register_losses(register):
    register("stops", Stops, config=StopsOptions, summary="asks the second rank to stop")
"""


@pytest.mark.slow
def test_stopped_within_an_experience_two_go_on_with_the_same_bits(tmp_path: Path) -> None:
    """Dropout draws, batch-norm statistics and sums are each rank's own."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "stops.py").write_text(STOPS)
    changes = {
        "student": {"model": "resnet8", "head": "linear"},
        "teachers": {"slow": "ema"},
        "losses": ["cross_entropy", "stops", {"kind": "kd", "between": ["student", "slow"]}],
    }
    extra = ("--plugins-dir", "plugins", "--tracking", "offline")
    for name, stop in (("whole", None), ("cut", "7")):  # in the second experience, whose epochs have five steps
        if stop:
            (tmp_path / "stop").write_text(stop)
        code, _, err = two(str(write(tmp_path, name, **changes)), *extra, cwd=tmp_path)
        assert (code == 0) == (stop is None), err
    (tmp_path / "stop").unlink()
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["status"] == "killed"
    saved = checkpoint.load(tmp_path / "cut" / "checkpoints" / "step")
    assert len(saved["within"]["course"]["ranks"]) == 2
    with pytest.raises(UserError, match=r"2 process\(es\) stopped within experience"):
        execute(RunRequest(resume=str(tmp_path / "cut"), quiet=True), load_plugins([tmp_path / "plugins"]))
    pair("--resume", str(tmp_path / "cut"), *extra, cwd=tmp_path)
    ends = [checkpoint.load(checkpoint.latest(tmp_path / name / "checkpoints")) for name in ("whole", "cut")]
    for part in ("student", "teachers", "memory"):
        assert flat(ends[0][part]) == flat(ends[1][part])
    assert epochs(tmp_path, "whole") == epochs(tmp_path, "cut")


def flat(tree: Any) -> Any:
    """Plain data, to be compared to the last bit."""
    if isinstance(tree, dict):
        return {key: flat(value) for key, value in tree.items()}
    return tree.tolist() if isinstance(tree, torch.Tensor) else tree
