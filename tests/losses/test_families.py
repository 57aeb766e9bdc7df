"""Every loss between layers and rows trains a tiny network on real digits; and the bugs that peers have.

The bugs are those of torchdistill, mdistiller and others that concern these losses; each test names whose it is.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from states import assert_same

from clkd import checkpoint
from clkd.engine.execute import execute
from clkd.errors import UserError
from clkd.losses.feature_options import FEATURE_LOSSES
from clkd.losses.relation_options import RELATION_LOSSES
from clkd.losses.vid import VID
from clkd.models.backbones.mlp import MLP
from clkd.models.heads import Linear
from clkd.models.student import Student
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest
from clkd.signals import Spec

PLUGINS = load_plugins()
SCENARIO: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 12}, "split": {"by": "class", "experiences": 5}},
    "student": {"model": {"kind": "resnet8", "width": 3}, "head": "linear"},
    "teachers": {"big": {"kind": "fit", "model": {"kind": "resnet8", "width": 4}, "epochs": 1}},
    "memory": {"kind": "reservoir", "size": 20},
    "train": {"batch_size": 8, "optimizer": {"kind": "sgd", "lr": 0.01}},
    "tracking": {"mode": "off"},
}
LAYER = ["student.stage2", "big.stage2"]
WHOLE = ["student", "big"]
LOSSES: dict[str, dict[str, Any]] = {
    "features": {"between": WHOLE, "layers": ["stage1", "stage3"], "layer_weights": [0.5, 1]},
    "fitnet": {"between": LAYER},
    "attention": {"between": WHOLE, "layers": ["stage1", "stage2", "stage3"]},
    "nst": {"between": LAYER},
    "vid": {"between": LAYER, "align": "mlp"},
    "ofd": {"between": WHOLE, "layers": ["stage1_pre", "stage2_pre"]},
    "review": {"between": WHOLE},
    "mgd": {"between": WHOLE, "layers": ["stage2"], "against": ["layer2.0.conv2"], "ratio": 0.3},
    "fsp": {"between": WHOLE},
    "crd": {"between": WHOLE, "queue": 16, "dim": 8},
    "srrl": {"between": WHOLE},
    "simkd": {"between": WHOLE},
    "relation": {"between": LAYER},
    "rkd": {"between": WHOLE, "variant": "both"},
    "sp": {"between": LAYER},
    "pkt": {"between": WHOLE},
    "cc": {"between": WHOLE},
    "irg": {"between": WHOLE, "layers": ["stage2", "stage3", "penultimate"]},
}
OWN = {"features", "fitnet", "vid", "ofd", "review", "mgd", "fsp", "crd", "srrl", "simkd"}
"""Those that have parameters of their own where widths differ."""


def test_every_loss_of_the_two_families_is_tried_here():
    assert set(LOSSES) == {name for name, *_ in (*FEATURE_LOSSES, *RELATION_LOSSES)}


def run(home: Path, *losses: Any, name: str = "run", limit: int = 2, resume: bool = False, **changes: Any) -> Any:
    scenario = home / f"{name}.yaml"
    scenario.write_text(to_yaml({**SCENARIO, "losses": list(losses), "output": str(home / name), **changes}))
    execute(RunRequest(scenario=scenario, limit_experiences=limit, limit_batches=3, quiet=True), PLUGINS)
    last = checkpoint.latest(home / name / "checkpoints")
    assert last is not None
    return checkpoint.load(last)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOSSES)
def test_it_trains_for_two_experiences_with_replay(kind, tmp_path):
    """The teacher says some of it from the cache, in float16. The run itself stops at a value that is not finite."""
    beside = [] if kind == "simkd" else ["cross_entropy"]
    state = run(tmp_path, *beside, {"kind": kind, "name": "it", **LOSSES[kind]})
    own = {name: tensor for name, tensor in state["terms"]["it"]["state"].items() if isinstance(tensor, torch.Tensor)}
    assert bool(own) == (kind in OWN)
    assert all(torch.isfinite(tensor).all() for tensor in own.values())
    biases = [tensor for name, tensor in own.items() if name.endswith("bias") and "norm" not in name]
    assert all(tensor.any() for tensor in biases), "they started at zero, and the optimizer has moved them"


def test_a_loss_of_a_teacher_that_is_not_there_yet_starts_when_it_is(tmp_path):
    """The previous self of the first experience; in the second one shapes agree, and nothing has to be learned."""
    losses = [
        {"kind": kind, "between": ["student", "previous"], **options}
        for kind, options in {
            "attention": {"layers": ["stage1", "stage2"]}, "srrl": {}, "irg": {}, "crd": {"dim": 4}, "review": {},
        }.items()
    ]  # fmt: skip
    state = run(tmp_path, "cross_entropy", *losses, teachers={"previous": "previous"})
    assert state["terms"]["crd_previous"]["state"]["_extra_state"]["sample_id"].max() >= 0


@pytest.mark.parametrize("kind", ["crd", "vid", "mgd", "simkd"])
def test_a_resumed_run_goes_on_with_the_same_bits(kind, tmp_path):
    beside = [] if kind == "simkd" else ["cross_entropy"]
    losses = *beside, {"kind": kind, "name": "it", **LOSSES[kind]}
    whole = run(tmp_path, *losses, name="whole")
    run(tmp_path, *losses, name="cut", limit=1)
    execute(RunRequest(resume=str(tmp_path / "cut"), limit_experiences=2, quiet=True), PLUGINS)
    cut = checkpoint.load(checkpoint.latest(tmp_path / "cut" / "checkpoints"))
    for part in ("terms", "student"):
        assert_same(whole[part], cut[part])


def test_simkd_leaves_a_student_that_answers_with_the_teachers_classifier(tmp_path):
    """With equal widths it is the teacher's own, class by class, in the columns of the classes that have come."""
    teacher = {"kind": "fit", "model": {"kind": "resnet8", "width": 3}, "epochs": 1}
    simkd = {"kind": "simkd", "between": ["student", "big"]}
    state = run(tmp_path, simkd, teachers={"big": teacher})["student"]
    ids = state["layout"]["class_ids"]
    twin = run(tmp_path, simkd, name="twin", teachers={"big": teacher}, seed=5)["student"]
    order = [twin["layout"]["class_ids"].index(c) for c in ids if c in twin["layout"]["class_ids"]]
    here = [ids.index(c) for c in ids if c in twin["layout"]["class_ids"]]
    assert len(ids) == 4
    assert here, "two class orders that share a class"
    for name in ("head.weight", "head.bias"):
        assert torch.equal(state["state"][name][here], twin["state"][name][order]), "one teacher, two students"


@pytest.mark.slow
def test_several_processes_train_a_student_whose_head_no_loss_trains(tmp_path):
    """Each waits for gradients of what the student says, unless it says it without one."""
    scenario = tmp_path / "s.yaml"
    simkd = {"kind": "simkd", "between": ["student", "big"]}
    scenario.write_text(to_yaml({**SCENARIO, "losses": [simkd], "output": str(tmp_path / "run")}))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = ["-m", "clkd", "run", str(scenario), "--device", "cpu", "--limit-experiences", "2"]
    done = subprocess.run([*torchrun, *words], capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stderr


def test_a_teacher_without_a_classifier_is_refused(tmp_path):
    losses = ["cross_entropy", {"kind": "srrl", "between": ["student", "both"]}]
    teachers = {"a": "ema", "b": "ema", "both": {"kind": "ensemble", "members": ["a", "b"]}}
    with pytest.raises(UserError, match=r"ensemble has no features|has none to lend"):
        run(tmp_path, *losses, teachers=teachers)


# Bugs of peers


def test_mdistiller_and_torchdistill_what_a_loss_owns_is_optimised_moved_and_saved(tmp_path):
    """mdistiller's VID keeps its variances in a list and trains none; torchdistill's terms are a dict: 0 parameters."""
    loss = VID()
    side = Spec((0,), (0,), feature="stage1", shape=(2,))
    loss.bind(side, side)
    assert {name for name, _ in loss.named_parameters()} == {"scales.0"}
    assert loss.to(torch.float64).scales[0].dtype == torch.float64
    state = run(tmp_path, "cross_entropy", {"kind": "vid", "name": "it", **LOSSES["vid"]})["terms"]["it"]["state"]
    start = VID().start
    assert (state["scales.0"] - start).abs().min() > 0, "each variance was trained, and is saved"


def test_torchdistill_two_losses_in_one_process_share_nothing():
    """Its set-up writes functions onto the class, so that the second box replaces the first one's."""
    wide, narrow = (PLUGINS.registry.build(PLUGINS.registry.parse("losses", "vid"), seed=0) for _ in range(2))
    for loss, width in ((wide, 5), (narrow, 2)):
        side = Spec((0,), (0,), feature="stage1", shape=(width,))
        loss.bind(side, side)
    assert (len(wide.scales[0]), len(narrow.scales[0])) == (5, 2)
    assert not set(vars(type(wide))) & {"taps", "scales", "aligners", "progress"}


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ({"kind": "vid", "margin": 1}, "margin: unknown key"),
        ({"kind": "cc", "kernel_params": {}}, "kernel_params: unknown key"),
        ({"kind": "cc", "kernel": "bilinear", "gamma": 1}, "has no gamma"),
        ({"kind": "attention", "layers": ["a"], "against": ["b", "c"]}, "give as many"),
        ({"kind": "features", "layer_weights": [1]}, "give as many"),
        ({"kind": "irg", "transformation": 1}, "at least two layers"),
    ],
)
def test_torchdistill_options_that_nobody_reads_are_refused(loss, said):
    """Its keyword arguments swallow `VIDLoss(margin=1)`; its own sample for CCKD names a wrong one and fails late."""
    with pytest.raises(ValueError, match=said):
        PLUGINS.registry.parse("losses", {"between": WHOLE, **loss})


def test_mdistiller_and_torchdistill_a_teacher_with_batch_norm_stays_in_eval_mode(tmp_path):
    """mdistiller's OFD trains its teacher's statistics. Here a run would stop: teachers are hashed around it."""
    ofd = {"kind": "ofd", "between": WHOLE, "layers": ["stage2_pre"]}
    run(tmp_path, "cross_entropy", ofd)


def test_mdistiller_crd_can_be_warmed_up(tmp_path):
    """Its CRD has a trainer of its own, which leaves the epoch out, so that no weight can follow it."""
    warm = {"kind": "warmup", "epochs": 1}
    assert "warmup" in PLUGINS.registry.names("schedules")
    run(tmp_path, "cross_entropy", {"kind": "crd", "between": WHOLE, "weight": warm}, limit=1)


def test_torchdistill_equal_features_are_where_a_loss_is_least_and_not_where_it_is_most():
    """Its DIST+ adds channels' similarity instead of subtracting it. Those that opt out have a regressor at random."""
    for name in LOSSES:
        loss = PLUGINS.registry.build(PLUGINS.registry.parse("losses", name), seed=0)
        excused = "agreement" in type(loss).contract_optouts
        assert excused == (name in ("fitnet", "review", "mgd", "crd")), name


def test_a_layer_without_a_shape_to_compare_is_refused_before_training():
    student = Student(MLP((4,), hidden=(3,)), Linear(3), (4,))
    loss = PLUGINS.registry.build(PLUGINS.registry.parse("losses", "attention"))
    with pytest.raises(UserError, match=r"attention: stage1 gives \(3,\), but maps"):
        loss.bind(student.spec("stage1"), student.spec("stage1"))
