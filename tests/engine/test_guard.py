"""A loss or gradient that is no number stops the run at its step, with the state before; or the step is skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from states import assert_same
from torch import Tensor

from clkd import checkpoint
from clkd.engine.execute import execute
from clkd.engine.guard import NonFiniteError
from clkd.plugins import Plugins, load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

PLUGIN = """
import torch
from typing import ClassVar
from clkd import Loss, Options, hookimpl

class BreaksOptions(Options):
    sides: ClassVar[int] = 1
    value: str = "0"
    at: tuple[int, ...] = ()
    gradient: bool = False

class Breaks(Loss):
    sides = 1
    def __init__(self, value="0", at=(), gradient=False):
        super().__init__()
        self.value, self.at, self.gradient = float(value), at, gradient
    def forward(self, batch, a, b=None):
        x = a.logits.sum() * 0
        if self.progress.step + 1 not in self.at:
            return x
        return (x.square() - x.square()).sqrt() if self.gradient else x + self.value

@hookimpl
def clkd_register_losses(register):
    register("breaks", Breaks, config=BreaksOptions, summary="becomes no number at some steps")
"""
BASE: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 20}, "split": {"by": "class", "experiences": 2}},
    "student": {"model": {"kind": "mlp", "hidden": [16], "dropout": 0.1}, "head": "linear"},
    "memory": {"kind": "reservoir", "size": 30},
    "teachers": {"slow": "ema"},
    "train": {"epochs": 2, "batch_size": 8, "optimizer": {"kind": "adam", "lr": 0.001}},
    "tracking": {"mode": "offline"},
}
STEPS = 12
"""In an epoch, without the batch that is not full."""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "breaks.py").write_text(PLUGIN)
    return load_plugins([folder])


def scenario(
    home: Path,
    name: str,
    train: dict[str, Any] | None = None,
    model: Any = None,
    split: dict[str, Any] | None = None,
    **breaks: Any,
) -> Path:
    path = home / f"{name}.yaml"
    losses = ["cross_entropy", {"kind": "kd", "between": ["student", "slow"]}, {"kind": "breaks", **breaks}]
    changed = {**BASE, "losses": losses, "train": {**BASE["train"], **(train or {})}, "output": str(home / name)}
    if split is not None:
        changed["stream"] = {**BASE["stream"], "split": split}
    if model is not None:
        changed["student"] = {"model": model, "head": "linear"}
    path.write_text(to_yaml(changed))
    return path


def start(plugins: Plugins, path: Path) -> dict[str, Any]:
    return execute(RunRequest(scenario=path, quiet=True), plugins)


def newest(home: Path, name: str) -> dict[str, Any]:
    last = checkpoint.latest(home / name / "checkpoints")
    assert last is not None
    return checkpoint.load(last)


def weights(state: dict[str, Any]) -> dict[str, Tensor]:
    return state["student"]["state"]


@pytest.mark.parametrize(
    ("at", "breaks", "said"),
    [
        (
            7,
            {"value": "nan"},
            "the loss term 'breaks' became NaN or infinite in experience 0, epoch 0, at step 7",
        ),
        (13, {"gradient": True}, "the gradient of the loss term 'breaks' .* experience 0, epoch 0, at step 13"),
        (
            30,
            {"value": "inf"},
            "the loss term 'breaks' became NaN or infinite in experience 1, epoch 0, at step 30",
        ),
        (52, {"gradient": True}, "the gradient of the loss term 'breaks' .* experience 1, epoch 1, at step 52"),
    ],
)
def test_it_stops_with_the_term_the_step_and_the_state_before(
    plugins: Plugins, tmp_path: Path, at: int, breaks: dict[str, Any], said: str
) -> None:
    with pytest.raises(NonFiniteError, match=said):
        start(plugins, scenario(tmp_path, "broken", at=[at], **breaks))
    state = newest(tmp_path, "broken")
    assert state["run"]["step"] == at - 1
    assert "state before it is in" in json.loads((tmp_path / "broken" / "run.json").read_text())["error"]
    with pytest.raises(NonFiniteError, match=f"at step {at}"):
        execute(RunRequest(resume=str(tmp_path / "broken"), quiet=True), plugins)
    # The same up to there, without what breaks it: the state before is what an unbroken run has at that step.
    request = RunRequest(resume=str(tmp_path / "broken"), quiet=True, overrides=("train.on_nan=skip",))
    assert execute(request, plugins)["status"] == "finished"
    start(plugins, scenario(tmp_path, "skipping", {"on_nan": "skip"}, at=[at], **breaks))
    a, b = (newest(tmp_path, name) for name in ("broken", "skipping"))
    assert all(torch.equal(weights(a)[name], weights(b)[name]) for name in weights(a))
    assert torch.equal(a["memory"]["table"]["sample_id"], b["memory"]["table"]["sample_id"])


@pytest.mark.parametrize("at", [7, 33])
def test_what_was_evaluated_before_the_step_is_in_the_state(plugins: Plugins, tmp_path: Path, at: int) -> None:
    """So that a run which goes on from there is told as one that had skipped the step."""
    split = {"by": "domain", "transform": "rotated", "experiences": 2}
    train = {"epochs": 1, "evaluate_every": 6}
    with pytest.raises(NonFiniteError, match=f"at step {at}:"):
        start(plugins, scenario(tmp_path, "broken", train, split=split, at=[at], value="nan"))
    assert newest(tmp_path, "broken")["run"]["seconds"].keys() >= {"total", "train", "evaluate"}
    request = RunRequest(resume=str(tmp_path / "broken"), quiet=True, overrides=("train.on_nan=skip",))
    resumed = execute(request, plugins)
    whole = start(
        plugins, scenario(tmp_path, "skipping", train | {"on_nan": "skip"}, split=split, at=[at], value="nan")
    )
    assert resumed["metrics"]["forward_transfer"] == resumed["metrics"]["forward_transfer"]  # it is a number
    assert resumed["metrics"] == whole["metrics"]
    records = [newest(tmp_path, name)["run"]["record"] for name in ("broken", "skipping")]
    assert_same(*records)
    assert records[0]["anytime"][0][1] == 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # inductor's own
def test_the_step_is_found_in_a_compiled_run(plugins: Plugins, tmp_path: Path) -> None:
    """The search keeps the graph of passes that were compiled for steps that do not."""
    path = scenario(tmp_path, "broken", {"compile": True, "epochs": 1}, at=[7], value="nan")
    with pytest.raises(NonFiniteError, match=r"the loss term 'breaks' .* at step 7"):
        start(plugins, path)
    assert newest(tmp_path, "broken")["run"]["step"] == 6


def test_a_search_that_fails_hides_nothing(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*arguments: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("clkd.engine.execute.retrace", fails)
    with pytest.raises(NonFiniteError, match="became NaN or infinite in experience 0") as told:
        start(plugins, scenario(tmp_path, "broken", at=[7], value="nan"))
    assert isinstance(told.value.__cause__, RuntimeError)
    assert "the step was not found: RuntimeError: out of memory" in caplog.text
    about = json.loads((tmp_path / "broken" / "run.json").read_text())
    assert about["status"] == "failed"
    assert about["error"] == str(told.value)


def test_a_skipped_step_leaves_no_trace_but_a_count(plugins: Plugins, tmp_path: Path) -> None:
    """As if the batch had not been there: its rows are the epoch's last here."""
    once, skip = {"epochs": 1, "drop_last": True}, {"on_nan": "skip"}
    path = scenario(tmp_path, "skipping", {**once, **skip}, "resnet8", at=[STEPS, 2 * STEPS], value="nan")
    start(plugins, path)
    path = scenario(tmp_path, "shorter", once, "resnet8")
    execute(RunRequest(scenario=path, quiet=True, limit_batches=STEPS - 1), plugins)
    a, b = (newest(tmp_path, name) for name in ("skipping", "shorter"))
    assert all(torch.equal(weights(a)[name], weights(b)[name]) for name in weights(a))
    slow = [state["teachers"]["slow"]["state"] for state in (a, b)]
    assert all(torch.equal(slow[0][name], slow[1][name]) for name in slow[0])
    assert torch.equal(a["memory"]["table"]["sample_id"], b["memory"]["table"]["sample_id"])
    assert a["memory"]["seen"] == b["memory"]["seen"] == 2 * 8 * (STEPS - 1)
    lines = map(json.loads, (tmp_path / "skipping" / "metrics.jsonl").read_text().splitlines())
    epochs = [line["metrics"] for line in lines if line["event"] == "epoch"]
    assert [metrics["train/skipped_steps"] for metrics in epochs] == [1, 1]
    assert all(metrics["train/loss"] is not None for metrics in epochs)


def test_it_gives_up_after_a_bound_and_is_saved_there(plugins: Plugins, tmp_path: Path) -> None:
    train = {"on_nan": "skip", "most_skips": 2}
    with pytest.raises(NonFiniteError, match="at step 9"):
        start(plugins, scenario(tmp_path, "many", train, at=[3, 5, 9], value="nan"))
    assert newest(tmp_path, "many")["run"]["step"] == 9
    assert newest(tmp_path, "many")["within"]["course"]["skipped"] == 3


def test_looking_at_each_step_changes_no_number(plugins: Plugins, tmp_path: Path) -> None:
    for name, on_nan in (("a", "stop"), ("b", "skip")):
        start(plugins, scenario(tmp_path, name, {"on_nan": on_nan, "epochs": 1}))
    a, b = (newest(tmp_path, name) for name in ("a", "b"))
    assert all(torch.equal(weights(a)[name], weights(b)[name]) for name in weights(a))
