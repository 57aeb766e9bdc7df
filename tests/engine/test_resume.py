"""A run that was stopped and resumed ends with the same bits as one that was not: for every kind of part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from states import assert_same, state
from streams_cut import COMES_AGAIN, NO_BOUNDARIES

from clkd import hookimpl
from clkd.engine.execute import execute
from clkd.engine.run import Run
from clkd.errors import ClkdError, UserError
from clkd.experience import Experience
from clkd.page.story import Story
from clkd.plugins import Plugins, load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.methods import der, eeil, fdr, xder
from clkd.scenario.request import RunRequest

BASE: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 20}, "split": {"by": "class", "experiences": 3}},
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "losses": ["cross_entropy"],
    "train": {"epochs": 2, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9}},
    "tracking": {"mode": "off"},
}
KD = {"kind": "kd", "between": ["student", "previous"], "weight": "old_fraction"}
XDER = xder()
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "previous": {"teachers": {"previous": "previous"}, "losses": ["cross_entropy", KD]},
    "ema": {
        "teachers": {"slow": {"kind": "ema", "decay": 0.9}},
        "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "slow"]}],
    },
    "projector": {
        "teachers": {"big": {"kind": "fit", "model": {"kind": "mlp", "hidden": [24]}, "epochs": 1}},
        "losses": [
            "cross_entropy",
            {"kind": "features", "between": ["student.penultimate", "big.penultimate"], "align": "linear"},
        ],
    },
    "ensemble": {
        "teachers": {
            "previous": "previous",
            "slow": "ema",
            "both": {"kind": "ensemble", "members": ["previous", "slow"]},
        },
        "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "both"]}],
    },
    "snapshots": {
        "teachers": {"past": {"kind": "snapshot", "last": 2}},
        "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "past"]}],
    },
    "relation": {
        "teachers": {"previous": "previous"},
        "losses": ["cross_entropy", {"kind": "relation", "between": ["student", "previous"]}],
    },
    "bf16": {
        "teachers": {"previous": "previous"},
        "losses": ["cross_entropy", KD],
        "train": {**BASE["train"], "precision": "bf16"},
    },
    "reservoir": {"memory": {"kind": "reservoir", "size": 30}},
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
    "xder": {
        "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "fixed"},
        "teachers": XDER["teachers"],
        "losses": XDER["losses"],
        "memory": {**XDER["memory"], "size": 30},
        "train": {**BASE["train"], **XDER["train"]},
    },
    "xder in further views": {
        "stream": {**BASE["stream"], "augment": {"crop": 1, "views": 3, "strong": {"rows": "none", "noise": 0.2}}},
        "student": {"model": {"kind": "resnet8", "width": 3}, "head": "fixed"},
        "teachers": XDER["teachers"],
        "losses": XDER["losses"],
        "memory": {**XDER["memory"], "size": 30},
        "train": {**BASE["train"], **XDER["train"], "epochs": 1},
    },
    "class_balanced": {"memory": {"kind": "class_balanced", "size": 25}},
    "mixed": {
        "memory": {"kind": "herding", "size": 25, "normalize": False},
        "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": {"kind": "ncm", "normalize": False}},
        "teachers": {"previous": "previous"},
        "losses": ["binary_cross_entropy", {"kind": "binary_kd", "between": ["student", "previous"]}],
        "train": {**BASE["train"], "mix_memory": True, "clip_value": 0.05, "gradient_noise": {"eta": 0.001}},
    },
    "fdr": {
        "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "fixed"},
        **{name: part for name, part in fdr().items() if name != "student"},
        "memory": {**fdr()["memory"], "size": 30},
    },
    "every epoch": {
        "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "fixed"},
        **{name: part for name, part in der().items() if name != "student"},
        "memory": {**der()["memory"], "size": 30},
    },
    "eeil": {**eeil(), "memory": {"kind": "herding", "size": 30}, "train": {**BASE["train"], "mix_memory": True}},
    "imprinted": {
        "student": {
            "model": {"kind": "mlp", "hidden": [16]},
            "head": {"kind": "split_cosine", "imprint": True, "fixed_old": True, "scale": 5},
        },
    },
    "positive": {"student": {"model": {"kind": "mlp", "hidden": [16]}, "head": {"kind": "linear", "positive": True}}},
    "coral": {"memory": {"kind": "reservoir", "size": 30}, "transfer": {"kind": "coral", "weight": 0.5}},
    "ewc": {"losses": ["cross_entropy", {"kind": "ewc", "weight": 50}]},
    "online ewc on some rows, sampled labels": {
        "losses": [
            "cross_entropy",
            {"kind": "ewc", "mode": "online", "gamma": 0.9, "fisher": "sampled", "rows": 30, "weight": 50},
        ]
    },
    "si": {"losses": ["cross_entropy", {"kind": "si", "weight": 2}]},
    "mas": {"losses": ["cross_entropy", {"kind": "mas", "weight": 0.1}]},
    "rwalk": {"losses": ["cross_entropy", {"kind": "rwalk", "every": 3, "weight": 2}]},
    "agem": {"memory": {"kind": "reservoir", "size": 30}, "train": {**BASE["train"], "gradient": "agem"}},
    "gem": {
        "memory": {"kind": "class_balanced", "size": 30},
        "train": {**BASE["train"], "gradient": {"kind": "gem", "margin": 0.1}},
    },
    "kept_adam": {"train": {**BASE["train"], "optimizer": {"kind": "adam", "lr": 0.01}, "keep_optimizer": True}},
    "learned": {  # a temperature and a weight with parameters of their own
        "teachers": {"previous": "previous"},
        "losses": [
            {"kind": "cross_entropy", "weight": "uncertainty"},
            {**KD, "weight": {"kind": "uncertainty", "value": 0.5}, "temperature": {"kind": "curriculum", "epochs": 1}},
        ],
        "train": {**BASE["train"], "keep_optimizer": True},
    },
    "adaptive": {
        "teachers": {"previous": "previous"},
        "losses": [
            {"kind": "cross_entropy", "weight": {"kind": "cosine", "start": 1.0, "end": 0.5}},
            {**KD, "weight": "confidence", "temperature": {"kind": "linear", "start": 4.0, "experiences": 3}},
        ],
    },
    "forgetting": {
        "stream": {**BASE["stream"], "split": {"by": "class", "experiences": 3, "validation": 0.25}},
        "teachers": {"previous": "previous"},
        "losses": ["cross_entropy", {**KD, "weight": {"kind": "forgetting", "gain": 9.0}}],
    },
    "scheduler": {"train": {**BASE["train"], "scheduler": {"kind": "cosine"}}},
    "cosine": {"student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "cosine"}},
    "ncm": {
        "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "ncm"},
        "memory": {"kind": "class_balanced", "size": 25},
        "teachers": {"previous": "previous"},
        "losses": ["cross_entropy", KD],
    },
    "slda": {"student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "slda"}},
    "kept slda": {  # whose backbone stands still from the second experience on, though that brings no class
        "stream": {**BASE["stream"], "split": {"by": "domain", "transform": "rotated", "experiences": 3}},
        "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "slda"},
        "train": {**BASE["train"], "keep_optimizer": True},
    },
    "aligned": {"student": {"model": {"kind": "mlp", "hidden": [16]}, "head": {"kind": "linear", "align": True}}},
    "proxies": {
        "student": {
            "model": {"kind": "mlp", "hidden": [16]},
            "head": {"kind": "split_cosine", "proxies": 3, "fixed_old": True},
        },
        "memory": {"kind": "reservoir", "size": 30},
        "losses": ["nca", "margin_ranking"],
        "train": {**BASE["train"], "optimizer": {"kind": "adam", "lr": 0.01}, "keep_optimizer": True},
    },
    "phases": {
        "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "bias_corrected"},
        "memory": {"kind": "class_balanced", "size": 25},
        "teachers": {"previous": "previous"},
        "losses": ["cross_entropy", KD],
        "phases": [
            {"name": "even", "rows": "balanced", "optimizer": {"kind": "sgd", "lr": 0.01}},
            {"name": "bias", "rows": "held_out", "trains": "bias", "optimizer": {"kind": "adam", "lr": 0.01}},
        ],
        "train": {**BASE["train"], "optimizer": {"kind": "adam", "lr": 0.01}, "keep_optimizer": True},
    },
    "multi": {
        "stream": {**BASE["stream"], "split": {"by": "task", "experiences": 3}},
        "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "multi"},
    },
    "dropout": {"student": {"model": {"kind": "mlp", "hidden": [16], "dropout": 0.5}, "head": "fixed"}},
    "streamed": {
        "stream": {**BASE["stream"], "resident": False},
        "teachers": {"previous": "previous"},
        "losses": ["cross_entropy", KD],
        "memory": {"kind": "reservoir", "size": 30},
    },
    "no boundaries": {
        "stream": {**BASE["stream"], **NO_BOUNDARIES},
        "teachers": {"slow": {"kind": "ema", "decay": 0.9}},
        "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "slow"]}],
        "memory": {"kind": "reservoir", "size": 20},
        "train": {**BASE["train"], "epochs": 1, "keep_optimizer": True},
    },
    "repeated": {
        "stream": {**BASE["stream"], **COMES_AGAIN},
        "teachers": {"previous": "previous"},
        "losses": ["cross_entropy", KD, {"kind": "ewc", "weight": 5}],
        "memory": {"kind": "herding", "size": 25},
    },
    "rotated": {
        "stream": {
            **BASE["stream"],
            "split": {"by": "domain", "transform": "rotated", "experiences": 3, "validation": 0.1},
        }
    },
}


def run(plugins: Plugins, home: Path, name: str, changes: dict[str, Any], limit: int | None = None) -> dict[str, Any]:
    scenario = home / f"{name}.yaml"
    scenario.write_text(to_yaml({**BASE, **changes, "output": str(home / name)}))
    return execute(RunRequest(scenario=scenario, limit_experiences=limit, quiet=True), plugins)


QUICK = ("plain", "previous", "derpp", "streamed")
"""The others are stopped within experiences, too, by `test_anywhere.py`, which is the harder proof."""
EACH = [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in VARIANTS]


@pytest.mark.parametrize("variant", EACH)
def test_resumed_equals_uninterrupted(plugins: Plugins, tmp_path: Path, variant: str) -> None:
    whole = run(plugins, tmp_path, "whole", VARIANTS[variant])
    first = run(plugins, tmp_path, "cut", VARIANTS[variant], limit=1)
    assert (whole["status"], first["status"]) == ("finished", "stopped")
    second = execute(RunRequest(resume=str(tmp_path / "cut"), limit_experiences=2, quiet=True), plugins)
    third = execute(RunRequest(resume=str(tmp_path / "cut"), quiet=True), plugins)
    assert (second["status"], third["status"]) == ("stopped", "finished")
    assert third["accuracy_matrix"] == whole["accuracy_matrix"]
    assert third["metrics"] == whole["metrics"]
    assert_same(state(tmp_path / "cut"), state(tmp_path / "whole"))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(plugins: Plugins, tmp_path: Path) -> None:
    changes = {**VARIANTS["coral"], **VARIANTS["previous"]}
    a, b = (run(plugins, tmp_path, name, changes) for name in ("a", "b"))
    c = run(plugins, tmp_path, "c", {**changes, "seed": 1})
    assert a["accuracy_matrix"] == b["accuracy_matrix"] != c["accuracy_matrix"]
    assert_same(state(tmp_path / "a"), state(tmp_path / "b"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # inductor's own
def test_so_it_is_for_a_compiled_run(plugins: Plugins, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    changes = {**VARIANTS["previous"], **VARIANTS["reservoir"], "train": {**BASE["train"], "compile": True}}
    a, b = (run(plugins, tmp_path, name, changes) for name in ("a", "b"))
    run(plugins, tmp_path, "cut", changes, limit=1)
    resumed = execute(RunRequest(resume=str(tmp_path / "cut"), quiet=True), plugins)
    assert "cannot be compiled" not in caplog.text
    assert a["accuracy_matrix"] == b["accuracy_matrix"] == resumed["accuracy_matrix"]
    assert_same(state(tmp_path / "a"), state(tmp_path / "b"))
    assert_same(state(tmp_path / "a"), state(tmp_path / "cut"))


def test_a_resumed_run_keeps_its_scenario(plugins: Plugins, tmp_path: Path) -> None:
    run(plugins, tmp_path, "cut", {}, limit=1)
    for change, said in [({"seed": 3}, "seed"), ({"overrides": ("train.epochs=9",)}, "train.epochs")]:
        with pytest.raises(UserError, match=f"--resume: {said} cannot change"):
            execute(RunRequest(resume=str(tmp_path / "cut"), **change), plugins)


def test_a_finished_run_has_nothing_left_to_do(plugins: Plugins, tmp_path: Path) -> None:
    whole = run(plugins, tmp_path, "whole", {})
    again = execute(RunRequest(resume=str(tmp_path / "whole"), quiet=True), plugins)
    assert again["metrics"] == whole["metrics"]
    assert again["status"] == "finished"


class Witness:
    """What the run's directory tells as each experience begins; the second one fails once."""

    def __init__(self) -> None:
        self.told: list[Story] = []

    @hookimpl
    def clkd_experience_start(self, run: Run, experience: Experience) -> None:
        self.told.append(Story.read(run.directory))
        if len(self.told) == 2:
            raise ClkdError("no luck")


def test_how_an_earlier_process_ended_is_not_told_of_one_that_goes_on(tmp_path: Path) -> None:
    plugins, witness = load_plugins(), Witness()
    plugins.manager.register(witness)
    with pytest.raises(ClkdError, match="no luck"):
        run(plugins, tmp_path, "cut", {})
    failed = Story.read(tmp_path / "cut")
    assert (failed.summary.status, failed.manifest["error"]) == ("failed", "ClkdError: no luck")
    assert failed.summary.numbers["seconds.total"]
    execute(RunRequest(resume=str(tmp_path / "cut"), quiet=True), plugins)
    for story in witness.told[2:]:
        assert (story.summary.status, story.manifest["error"], story.summary.numbers) == ("unfinished", None, {})
        assert story.metrics["average_accuracy"] == story.latest["stream/average_accuracy"]
    assert len(witness.told[-1].told) == 2
    assert witness.told[-1].metrics["average_accuracy"] != failed.metrics["average_accuracy"]
    over = Story.read(tmp_path / "cut")
    assert (over.summary.status, over.manifest["error"]) == ("finished", None)
    assert over.metrics["average_accuracy"] == over.summary.numbers["average_accuracy"]


def test_a_run_is_found_by_its_id_by_last_and_not_by_a_typo(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scenario = tmp_path / "s.yaml"
    scenario.write_text(to_yaml(BASE))
    first = execute(RunRequest(scenario=scenario, limit_experiences=1, quiet=True), plugins)
    second = execute(RunRequest(scenario=scenario, limit_experiences=1, quiet=True), plugins)
    assert execute(RunRequest(resume="last", quiet=True), plugins)["run_id"] == second["run_id"]
    assert execute(RunRequest(resume=first["run_id"], quiet=True), plugins)["run_id"] == first["run_id"]
    with pytest.raises(UserError, match="no such run here"):
        execute(RunRequest(resume=first["run_id"][:-1] + "x", quiet=True), plugins)


def test_a_scenario_named_beside_resume_must_be_the_runs_own(plugins: Plugins, tmp_path: Path) -> None:
    run(plugins, tmp_path, "cut", {}, limit=1)
    scenario = tmp_path / "cut.yaml"
    request = RunRequest(scenario=scenario, resume=str(tmp_path / "cut"), quiet=True)
    assert execute(request, plugins)["status"] == "finished"
    scenario.write_text(to_yaml({**BASE, "train": {**BASE["train"], "epochs": 3}}))
    with pytest.raises(UserError, match="is not the scenario of that run"):
        execute(request, plugins)


def test_an_output_that_holds_a_run_is_refused(plugins: Plugins, tmp_path: Path) -> None:
    run(plugins, tmp_path, "whole", {}, limit=1)
    with pytest.raises(UserError, match="already holds a run"):
        run(plugins, tmp_path, "whole", {}, limit=1)
