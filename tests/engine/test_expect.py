"""Who asks for what is known to be forgotten is told so at the start, and nobody else."""

import json
from pathlib import Path

import pytest

from clkd.scenario.document import to_yaml

CLASS = {"by": "class", "experiences": 5}
FITTED = {"kind": "fit", "model": "mlp", "epochs": 1}


def scenario(split=CLASS, head="linear", **more):
    return {
        "name": "told",
        "stream": {"dataset": "digits", "split": split},
        "student": {"model": "mlp", "head": head},
        "train": {"epochs": 1, "batch_size": 32, "optimizer": {"kind": "sgd", "lr": 0.1}},
        "tracking": {"mode": "off"},
        **more,
    }


FORGETS = {
    "fine-tuning": scenario(losses=["cross_entropy"]),
    "lwf": scenario(method="lwf"),
    "ewc": scenario(losses=["cross_entropy", {"kind": "ewc"}]),
    "past selves": scenario(
        teachers={"past": "snapshot"}, losses=["cross_entropy", {"kind": "kd", "between": ["student", "past"]}]
    ),
}
KEEPS = {
    "replay": scenario(losses=["cross_entropy"], memory={"kind": "reservoir", "size": 50}),
    "the task is told": scenario({"by": "task", "experiences": 5}, losses=["cross_entropy"]),
    "domains": scenario({"by": "domain", "transform": "rotated", "experiences": 2}, losses=["cross_entropy"]),
    "classes that come again": scenario(
        {"by": "repeated", "experiences": 10, "repetition": 0.9, "first_occurrence": 0.9}, losses=["cross_entropy"]
    ),
    "one experience": scenario({"by": "class", "experiences": 1}, losses=["cross_entropy"]),
    "class means": {**scenario(method="slda"), "student": {"model": "mlp"}},
    "a teacher that knows all": scenario(
        teachers={"big": FITTED}, losses=["cross_entropy", {"kind": "kd", "between": ["student", "big"]}]
    ),
}


@pytest.mark.parametrize("name", [*FORGETS, *KEEPS])
def test_what_will_be_forgotten_is_told(name, clkd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(to_yaml({**FORGETS, **KEEPS}[name]))
    code, out, err = clkd("run", "s.yaml", "--dry-run", "--json", "-q")
    assert code == 0, err
    assert ("much will be forgotten" in json.loads(out)["description"].get("expect", "")) == (name in FORGETS)


LATE = {"name": "late", "rows": "memory", "optimizer": {"kind": "sgd", "lr": 0.1}}
VALUES = {"kind": "per_experience", "values": [1, 2, 3, 4, 5, 6]}
SGD = {"kind": "sgd", "lr": 0.1}


def rate(kind, train=(), **options):
    """One epoch of 9 or 10 steps in each experience, unless `train` says more."""
    return {"train": {**scenario()["train"], **dict(train), "scheduler": {"kind": kind, **options}}}


def following(**options):
    return {"losses": [{"kind": "cross_entropy", "weight": options}]}


TWENTY = {"epochs": 20}
TEACHER = {"kind": "fit", "model": "mlp", "epochs": 2, "optimizer": SGD}
SIMKD = {"kind": "simkd", "between": ["student", "big"]}
HOLDING = {"phases": [{**LATE, "name": "bias", "rows": "held_out", "trains": "head"}]}
TOLD = {
    "each experience's classes among themselves": {"head": "multi"},
    "anytime accuracy counts its new classes as wrong": {
        "head": "ncm",
        "train": {**scenario()["train"], "evaluate_every": 5},
    },
    "until an experience ends, simkd_big trains no head": {
        "teachers": {"big": TEACHER},
        "losses": [SIMKD],
        "train": {**scenario()["train"], "evaluate_every": 5},
    },
    "phase late never comes: the last experience is 4": {"phases": [{**LATE, "from_experience": 5}]},
    "losses.0.weight has 6 values for 5 experiences": {"losses": [{"kind": "cross_entropy", "weight": VALUES}]},
    "train.scheduler never reaches milestones 20, 30: the longest experience is over after 20 epochs; give a smaller"
    " number or more epochs or steps instead": rate("multi_step", TWENTY, milestones=[10, 20, 30]),
    "train.scheduler never reaches step_size 1: the longest experience is over after 1 epoch; give more epochs or "
    "steps instead": rate("step", step_size=1),
    "train.scheduler never reaches total_iters 5": rate("linear"),
    "train.scheduler never reaches total_iters 20": rate("constant", TWENTY, total_iters=20),
    "train.scheduler never reaches T_max 13: the longest experience is over after 10 steps; give a smaller number"
    " or more epochs": rate("cosine", T_max=13, every="step"),
    "phases.0.scheduler never reaches step_size 3: phase late is over after 3 epochs": {
        "phases": [{**LATE, "epochs": 3, "scheduler": {"kind": "step", "step_size": 3}}]
    },
    "teachers.big.scheduler never reaches step_size 2: the fit is over after 2 epochs": {
        "teachers": {"big": {**TEACHER, "scheduler": {"kind": "step", "step_size": 2}}},
        "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "big"]}],
    },
    "losses.0.weight never reaches epochs 20": following(kind="warmup", epochs=20),
    "losses.0.weight never reaches steps 13": following(kind="linear", steps=13),
}
SILENT = [
    {"teachers": {"big": TEACHER}, "losses": [SIMKD]},
    {"head": "multi", "split": {"by": "task", "experiences": 5}},
    {"head": "ncm"},
    {"split": {"by": "domain", "transform": "rotated", "experiences": 2}, **HOLDING},
    {"train": {**scenario()["train"], "evaluate_every": 5}},
    {"phases": [{**LATE, "from_experience": 4}]},
    {"losses": [{"kind": "cross_entropy", "weight": {**VALUES, "values": [1, 2, 3, 4, 5]}}]},
    rate("multi_step", TWENTY, milestones=[10, 19]),
    rate("step", step_size=9, every="step"),
    rate("linear", TWENTY, total_iters=20),
    rate("constant", TWENTY, total_iters=19),
    rate("cosine"),
    rate("one_cycle", max_lr=0.1, every="step"),
    rate("exponential", gamma=0.9),
    rate("step", {"min_steps": 30}, step_size=2),
    rate("step", {"mix_memory": True}, step_size=12, every="step"),
    following(kind="warmup"),
    following(kind="linear", epochs=1),
    following(kind="cosine", experiences=9),
]


@pytest.mark.parametrize("said", [*TOLD, *range(len(SILENT))])
def test_what_may_be_taken_for_something_else_is_told(said, clkd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = TOLD[said] if isinstance(said, str) else SILENT[said]
    Path("s.yaml").write_text(to_yaml(scenario(**{"memory": {"kind": "class_balanced", "size": 50}, **options})))
    code, out, err = clkd("run", "s.yaml", "--dry-run", "--json", "-q")
    assert code == 0, err
    told = json.loads(out)["description"].get("expect", "")
    assert said in told if isinstance(said, str) else not told


HEADLESS = """
from clkd import Loss, Needs, hookimpl

class Mine(Loss):
    needs = Needs(logits=False, features=("penultimate",))
    sides = 1
    writes_head = True

    def forward(self, batch, a, b=None):
        return a.features["penultimate"].square().mean(1)

@hookimpl
def clkd_register_losses(register):
    register("mine", Mine)
"""


@pytest.mark.parametrize(("losses", "told"), [(["mine"], True), (["mine", "cross_entropy"], False)])
def test_that_a_head_is_written_late_is_told_of_any_loss_that_says_so(losses, told, clkd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "headless.py").write_text(HEADLESS)
    train = {**scenario()["train"], "evaluate_every": 5}
    memory = {"kind": "class_balanced", "size": 50}
    Path("s.yaml").write_text(to_yaml(scenario(losses=losses, memory=memory, train=train)))
    code, out, err = clkd("run", "s.yaml", "--dry-run", "--json", "-q", "--plugins-dir", "mine")
    assert code == 0, err
    expected = json.loads(out)["description"].get("expect", "")
    assert ("until an experience ends, mine trains no head" in expected) == told
