"""Phases: what they learn from, what they change, and that they are trained, saved and told like all training."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import clkd
from small_runs import SmallRuns
from states import assert_same, state
from torch import Tensor, nn

from clkd import checkpoint
from clkd.engine.compose import Composition
from clkd.engine.execute import execute
from clkd.engine.explain import composed, explain
from clkd.engine.held_out import HeldOut
from clkd.engine.phases import PhaseParts, balanced, only, rows_of
from clkd.errors import ClkdError, UserError
from clkd.experience import Experience
from clkd.models.student import Student
from clkd.plugins import Plugins, load_plugins
from clkd.scenario.load import load
from clkd.scenario.phase import PhaseOptions
from clkd.scenario.request import RunRequest
from clkd.seeding import derive, generator

SGD = {"kind": "sgd", "lr": 0.05, "momentum": 0.9}
BASE: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 20}, "split": {"by": "class", "experiences": 3}},
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "memory": {"kind": "class_balanced", "size": 40},
    "train": {"epochs": 2, "batch_size": 16, "optimizer": SGD},
    "tracking": {"mode": "offline"},
}
GDUMB = {"name": "gdumb", "rows": "memory", "reset": True, "epochs": 3, "optimizer": SGD}
BIC: dict[str, Any] = {
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "bias_corrected"},
    "phases": [{"name": "bias", "rows": "held_out", "share": 0.2, "keep": 24, "trains": "bias", "epochs": 4,
                "from_experience": 1, "optimizer": {"kind": "adam", "lr": 0.05}}],
}  # fmt: skip
EEIL = {"phases": [{"name": "balanced", "rows": "balanced", "epochs": 2, "from_experience": 1, "optimizer": SGD}]}
RUNS = SmallRuns(BASE)
write, run, compose = RUNS.write, RUNS.run, RUNS.compose


def events(home: Path, name: str) -> list[dict[str, Any]]:
    return list(map(json.loads, (home / name / "metrics.jsonl").read_text().splitlines()))


def plainly(
    student: Student,
    x: Tensor,
    y: Tensor,
    columns: Tensor,
    trained: list[nn.Parameter],
    epochs: int,
    seed: int,
    lr: Any,
) -> None:
    """Cross-entropy in a plain loop, with the documented draws of the order."""
    optimizer = lr(trained)
    for epoch in range(epochs):
        order = torch.randperm(len(y), generator=generator(seed, "order", 2, epoch))
        for at in order.split(16):
            target = (y[at][:, None] == columns).int().argmax(1)
            loss = nn.functional.cross_entropy(student(x[at]), target, reduction="none").mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def kept(found: dict[str, Any], place: str, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """The rows of a memory in a checkpoint, in the order in which a phase gets them."""
    table = found[place]["table"]
    order = torch.randperm(len(table["y"]), generator=draws)
    return table["x"][order], table["y"][order]


def test_gdumb_is_a_fresh_model_trained_on_memory_alone(plugins: Plugins, tmp_path: Path) -> None:
    run(plugins, tmp_path, "gdumb", {"phases": [GDUMB]})
    found = state(tmp_path / "gdumb")
    made = compose(plugins, tmp_path, {"phases": [GDUMB]})
    student, seed = made.parts.student, derive(0, "phase", "gdumb")
    for experience in made.stream:
        student.grow(experience.classes, experience.index, generator(0, "head", experience.index))
    x, y = kept(found, "memory", generator(seed, "rows", 2))
    assert len(y) == 40
    seen = made.parts.augment.plain(x)
    trained = list(student.parameters())
    plainly(student.train(), seen, y, student.class_ids_tensor, trained, 3, seed,
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))  # fmt: skip
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, found["student"]["state"][name]), name


def test_what_was_trained_before_a_reset_does_not_matter(plugins: Plugins, tmp_path: Path) -> None:
    for name, lr in (("slow", 0.001), ("fast", 0.1)):
        train = {**BASE["train"], "optimizer": {"kind": "sgd", "lr": lr}}
        run(plugins, tmp_path, name, {"phases": [GDUMB], "train": train})
    assert_same(state(tmp_path / "slow")["student"], state(tmp_path / "fast")["student"])


def test_bias_correction_is_a_plain_loop_on_held_out_rows(plugins: Plugins, tmp_path: Path) -> None:
    """In it the loss is plain cross-entropy: PyCIL takes the softmax twice, Avalanche over the batch."""
    run(plugins, tmp_path, "bic", BIC)
    uncorrected = {**BIC, "phases": [{**BIC["phases"][0], "from_experience": 9}]}
    run(plugins, tmp_path, "never", uncorrected, limit_experiences=3)
    after, before = state(tmp_path / "bic"), state(tmp_path / "never")
    # What ordinary training of the last experience gave is the same for both: without a teacher, α and β are not there.
    student = compose(plugins, tmp_path, BIC).parts.student
    student.lay_out(after["student"]["layout"])
    student.load_state_dict(after["student"]["state"])
    with torch.no_grad():
        student.head.alpha[-1], student.head.beta[-1] = 1.0, 0.0
    seed = derive(0, "phase", "bias")
    x, y = kept(after, "held_out", generator(seed, "rows", 2))
    assert sorted(torch.bincount(y).tolist()) == [2] * 6 + [3] * 4, "24 rows, as many of each class"
    seen = compose(plugins, tmp_path, BIC).parts.augment.plain(x)
    correction = [parameter.requires_grad_() for parameter in student.head.corrections()]
    plainly(student, seen, y, student.class_ids_tensor, correction, 4, seed, lambda p: torch.optim.Adam(p, lr=0.05))
    assert torch.equal(student.head.alpha, after["student"]["state"]["head.alpha"])
    assert torch.equal(student.head.beta, after["student"]["state"]["head.beta"])
    assert after["student"]["state"]["head.alpha"][-1] != 1
    assert before["student"]["state"]["head.alpha"].tolist() == [1, 1, 1]


def test_only_what_a_phase_trains_is_changed(plugins: Plugins, tmp_path: Path) -> None:
    """Weights, and the statistics of batch norm, too."""
    student = {"model": {"kind": "resnet8", "width": 2}, "head": "linear"}
    phase = {"name": "tune", "rows": "balanced", "trains": "head", "optimizer": SGD, "from_experience": 2}
    run(plugins, tmp_path, "with", {"student": student, "phases": [phase]})
    run(plugins, tmp_path, "without", {"student": student})
    ours, theirs = (state(tmp_path / name)["student"]["state"] for name in ("with", "without"))
    changed = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert changed == {"head.weight", "head.bias"}


def test_held_out_rows_are_never_trained_on_nor_in_memory(plugins: Plugins, tmp_path: Path) -> None:
    stream = compose(plugins, tmp_path, {}).stream
    held = HeldOut(0.2, 24, 0, torch.device("cpu"))
    out: set[int] = set()
    for experience in stream:
        cut = held.cut(experience)
        assert held.coming is not None
        ids = set(held.coming.sample_id.tolist())
        assert ids | set(cut.train.sample_id.tolist()) == set(experience.train.sample_id.tolist())
        assert not ids & set(cut.train.sample_id.tolist())
        assert [int((held.coming.y == c).sum()) for c in experience.classes] == [4] * len(experience.classes)
        assert torch.equal(held.cut(experience).train.sample_id, cut.train.sample_id)
        out |= ids
    run(plugins, tmp_path, "bic", BIC)
    found = state(tmp_path / "bic")
    assert set(found["held_out"]["table"]["sample_id"].tolist()) <= out
    assert not set(found["memory"]["table"]["sample_id"].tolist()) & out


AGAIN = {
    "turned": {"by": "domain", "transform": "rotated", "experiences": 4},
    "drawn anew": {"by": "repeated", "experiences": 8, "rows": 40, "repetition": 0.9, "first_occurrence": 0.5},
}


@pytest.mark.parametrize("split", AGAIN.values(), ids=AGAIN)
def test_a_held_out_row_that_comes_again_is_held_out_again(
    split: dict[str, Any], plugins: Plugins, tmp_path: Path
) -> None:
    """In whatever guise, also by what goes on from a checkpoint."""
    stream = compose(plugins, tmp_path, {"stream": {**BASE["stream"], "split": split}}).stream
    held, out, trained = HeldOut(0.2, 24, 0, torch.device("cpu")), set(), set()
    for experience in stream:
        later = HeldOut(0.2, 24, 0, torch.device("cpu"))
        later.load_state_dict(held.state_dict())
        cut = held.cut(experience)
        assert held.coming is not None
        assert torch.equal(later.cut(experience).train.sample_id, cut.train.sample_id)
        assert len(held.coming) + len(cut.train) == len(experience.train)
        assert len(held.coming)
        out |= set(held.coming.sample_id.tolist())
        trained |= set(cut.train.sample_id.tolist())
    assert sum(len(experience.train) for experience in stream) > len(out | trained), "rows come again"
    assert not out & trained


def experience_of(made: Composition, index: int) -> Experience:
    """An experience, with memory as it is when that is over."""
    for experience in made.stream[: index + 1]:
        made.parts.begin(experience, 0)
        made.parts.keep(experience)
    return made.stream[index]


def test_balanced_rows_are_as_many_of_each_class_and_none_twice(plugins: Plugins, tmp_path: Path) -> None:
    made = compose(plugins, tmp_path, {})
    experience = experience_of(made, 2)
    phase = PhaseOptions.model_validate({"name": "b", "rows": "balanced", "optimizer": "sgd"})
    rows = rows_of(phase, made.parts, experience, 3)
    assert torch.bincount(rows.y).tolist() == [4] * 10, "40 rows of ten classes are kept"
    assert len(set(rows.sample_id.tolist())) == 40
    batch = rows.gather(torch.arange(40))
    store = made.store.train
    assert torch.equal(batch.x, store.x[batch.sample_id])
    assert torch.equal(batch.y, store.y[batch.sample_id])
    came = {c: each.index for each in made.stream for c in each.classes}
    assert batch.experience.tolist() == [came[c] for c in batch.y.tolist()]
    again = rows_of(phase, made.parts, experience, 3)
    assert torch.equal(again.sample_id, rows.sample_id)


def test_balanced_rows_take_new_ones_that_memory_does_not_keep(plugins: Plugins, tmp_path: Path) -> None:
    made = compose(plugins, tmp_path, {})
    experience = experience_of(made, 1)
    memory = made.parts.memory.sample(40, generator(0))
    assert memory is not None
    old = memory.pick(torch.empty(0, dtype=torch.long), (memory.experience == 0).nonzero().squeeze(1))
    found = balanced(old, experience, torch.device("cpu"), generator(0))
    counts, of_old = (rows.y.unique(return_counts=True)[1].tolist() for rows in (found, old))
    assert counts == [min(of_old)] * 7
    assert set(found.experience.tolist()) == {0, 1}


def test_the_previous_self_is_the_student_after_its_phases(plugins: Plugins, tmp_path: Path) -> None:
    """And after its weights were aligned."""
    student = {**BASE["student"], "head": {"kind": "linear", "align": True}}
    losses = ["cross_entropy", {"kind": "kd", "between": ["student", "previous"]}]
    run(plugins, tmp_path, "kd", {**EEIL, "student": student, "teachers": {"previous": "previous"}, "losses": losses})
    found = state(tmp_path / "kd")
    assert_same(found["teachers"]["previous"]["state"], found["student"]["state"])


def test_class_means_are_made_after_phases(plugins: Plugins, tmp_path: Path) -> None:
    head = {"student": {"model": {"kind": "mlp", "hidden": [16]}, "head": {"kind": "ncm", "rows": "memory"}}}
    run(plugins, tmp_path, "ncm", {**head, **EEIL})
    found = state(tmp_path / "ncm")
    made = compose(plugins, tmp_path, {**head, **EEIL})
    student = made.parts.student
    student.lay_out(found["student"]["layout"])
    student.load_state_dict(found["student"]["state"])
    table = found["memory"]["table"]
    with torch.no_grad():
        features = nn.functional.normalize(student.eval().backbone(made.parts.augment.plain(table["x"])))
    for place, c in enumerate(student.class_ids):
        mean = nn.functional.normalize(features[table["y"] == c].mean(0), dim=0)
        torch.testing.assert_close(student.head.means[place], mean)


def test_epochs_of_phases_are_told_under_their_own_name_and_counted_on(plugins: Plugins, tmp_path: Path) -> None:
    run(plugins, tmp_path, "bic", BIC)
    told = [line for line in events(tmp_path, "bic") if line["event"] == "epoch" and line["experience"] == 1]
    assert [line.get("phase") for line in told] == [None] * 2 + ["bias"] * 4
    assert [line["epoch"] for line in told] == list(range(6))
    assert {"phase/bias/loss", "phase/bias/loss_cross_entropy", "phase/bias/lr"} <= told[-1]["metrics"].keys()
    assert not any(name.startswith("train/") for name in told[-1]["metrics"])
    steps = [line["step"] for line in told]
    assert steps == sorted(set(steps)), "steps of phases are steps of the run"
    end = next(line for line in events(tmp_path, "bic") if line["event"] == "experience" and line["experience"] == 2)
    assert end["metrics"]["memory/held_out_bytes"] > 0


def test_a_scenario_without_phases_is_trained_as_ever(plugins: Plugins, tmp_path: Path) -> None:
    run(plugins, tmp_path, "none", {})
    run(plugins, tmp_path, "later", {"phases": [{**GDUMB, "from_experience": 99}]})
    assert_same(state(tmp_path / "none"), state(tmp_path / "later"))


def test_phases_use_the_scenarios_terms_by_name(plugins: Plugins, tmp_path: Path) -> None:
    losses = ["cross_entropy", {"kind": "kd", "between": ["student", "previous"], "name": "old"}]
    phase = {**EEIL["phases"][0], "losses": ["cross_entropy", "old"]}
    run(plugins, tmp_path, "eeil", {"teachers": {"previous": "previous"}, "losses": losses, "phases": [phase]})
    told = [line["metrics"] for line in events(tmp_path, "eeil") if line.get("phase")]
    assert len(told) == 4
    assert all(line["phase/balanced/loss_old"] > 0 for line in told)
    alone = {**phase, "losses": ["old"], "from_experience": 0}
    with pytest.raises(ClkdError, match=r"none of its losses can teach what it trains in experience 0: start it later"):
        run(plugins, tmp_path, "alone", {"teachers": {"previous": "previous"}, "losses": losses, "phases": [alone]})


def test_teachers_that_are_made_of_a_peer_stand_still_in_a_phase(plugins: Plugins, tmp_path: Path) -> None:
    teachers = {"slow": {"kind": "ema", "of": "mate"}, "before": {"kind": "previous", "of": "mate"}}
    pairs = [{"kind": "cross_entropy", "between": ["mate"]}, {"kind": "kd", "between": ["student", "slow"]},
             {"kind": "kd", "between": ["mate", "before"]}]  # fmt: skip
    losses, stream = ["cross_entropy", *pairs], {**BASE["stream"], "split": {"by": "class", "experiences": 2}}
    changes = {"stream": stream, "peers": {"mate": BASE["student"]}, "teachers": teachers, "losses": losses,
               "train": {"epochs": 1}}  # fmt: skip
    for name, phases in (("with", EEIL["phases"]), ("without", [])):
        run(plugins, tmp_path, name, {**changes, "phases": phases})
    last, plain = (state(tmp_path / name) for name in ("with", "without"))
    assert_same(last["teachers"], plain["teachers"])
    assert_same(last["peers"], plain["peers"])
    assert not torch.equal(last["student"]["state"]["head.weight"], plain["student"]["state"]["head.weight"])


BEFORE: dict[str, Any] = {
    "teachers": {"before": "before_phase"},
    "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "before"], "over": "newest"}],
}


def test_a_phase_may_keep_to_the_student_as_it_was_before_it(plugins: Plugins, tmp_path: Path) -> None:
    """Alone, that teaches nothing: the copy is taken anew in each phase. At other times it has nothing to say."""
    phase = {**EEIL["phases"][0], "losses": ["kd_before"]}
    run(plugins, tmp_path, "none", {})
    run(plugins, tmp_path, "still", {**BEFORE, "phases": [{**phase, "name": name} for name in "ab"]})
    still, none = (state(tmp_path / name)["student"]["state"] for name in ("still", "none"))
    assert all(torch.allclose(still[name], none[name], atol=1e-5) for name in none)
    run(plugins, tmp_path, "moved", {**BEFORE, "phases": [{**phase, "losses": ["cross_entropy", "kd_before"]}]})
    told = [line for line in events(tmp_path, "moved") if line["event"] == "epoch"]
    assert all("train/loss_kd_before" not in line["metrics"] for line in told)
    far = [line["metrics"]["phase/balanced/loss_kd_before"] for line in told if line.get("phase")]
    assert len(far) == 4
    assert all(later > first > 0 for first, later in zip(far[::2], far[1::2], strict=True))


def test_gradients_are_asked_for_again_after_a_phase_that_failed(plugins: Plugins, tmp_path: Path) -> None:
    student = compose(plugins, tmp_path, BIC).parts.student
    before = [parameter.requires_grad for parameter in student.parameters()]

    def fail() -> None:
        with only("bias", student, []):
            asked = [name for name, each in student.named_parameters() if each.requires_grad]
            raise RuntimeError(asked)

    with pytest.raises(RuntimeError, match=r"^\['head.alpha', 'head.beta'\]$"):
        fail()
    assert [parameter.requires_grad for parameter in student.parameters()] == before
    parts = PhaseParts(student, compose(plugins, tmp_path, BIC).parts.augment, [], trains="head")
    parts.train()
    assert (student.backbone.training, student.head.training) == (False, True)


REFUSED = {
    "no memory": ({"memory": "none", "phases": [GDUMB]}, "phases.0.rows: 'memory' needs rows that are kept"),
    "no bias": ({"phases": [{**GDUMB, "reset": False, "trains": "bias"}]}, "phases.0.trains: 'bias' is what the head"),
    "twice": ({"phases": [GDUMB, GDUMB]}, "phases.1.name: 'gdumb' is phases.0 already"),
    "no such loss": ({"phases": [{**GDUMB, "losses": ["kd"]}]}, "phases.0.losses.0: no loss is called 'kd'"),
    "a peer": (
        {"peers": {"mate": {"model": {"kind": "mlp", "hidden": [4]}, "head": "linear"}},
         "losses": ["cross_entropy", {"kind": "cross_entropy", "name": "theirs", "between": ["mate"]}],
         "phases": [{**GDUMB, "losses": ["theirs"]}]},
        "phases.0.losses.0: 'theirs' needs 'mate' to be trained as well",
    ),
    "replayed": (
        {"losses": ["cross_entropy", {"kind": "cross_entropy", "name": "old", "between": ["student@replay"]}],
         "phases": [{**GDUMB, "losses": ["old"]}]},
        "phases.0.losses.0: 'old' is about replayed rows",
    ),
    "a teacher": (
        {"teachers": {"previous": "previous"},
         "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "previous"]}],
         "phases": [{"name": "a", "rows": "held_out", "optimizer": SGD, "losses": ["kd_previous"]}]},
        "phases.0.losses.0: 'kd_previous' asks a teacher",
    ),
    "two hold out": (
        {"phases": [{"name": name, "rows": "held_out", "optimizer": SGD} for name in "ab"]},
        "phases.1.rows: one phase holds rows out",
    ),
    "unused": ({"phases": [{**GDUMB, "keep": 5}]}, "phases.0: share and keep are about held_out rows"),
    "reset of what was gathered": (
        {"phases": [GDUMB], "student": {"model": "mlp", "head": "slda"}},
        "student.head: a reset would take away all that it gathered",
    ),
    "reset of what stays": (
        {"phases": [GDUMB], "student": {"model": "mlp", "head": {"kind": "split_cosine", "fixed_old": True}}},
        "student.head.fixed_old: a reset would leave old classes where chance puts them",
    ),
    "before_phase among others": (
        {"teachers": {"previous": "previous", "before": "before_phase",
                      "both": {"kind": "ensemble", "members": ["previous", "before"]}},
         "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "both"]}]},
        "members: 'before' speaks in phases alone",
    ),
    "before_phase that no phase hears": (
        {"teachers": {"before": "before_phase"},
         "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "before"]}],
         "phases": [EEIL["phases"][0]]},
        "losses.1: 'before' speaks in phases alone, and none names 'kd_before'",
    ),
    "a peer by way of ensembles": (
        {"peers": {"mate": {"model": {"kind": "mlp", "hidden": [4]}, "head": "linear"}},
         "teachers": {"previous": "previous", "pair": {"kind": "ensemble", "members": ["student", "mate"]},
                      "all": {"kind": "ensemble", "members": ["pair", "previous"]}},
         "losses": ["cross_entropy", {"kind": "cross_entropy", "name": "theirs", "between": ["mate"]},
                    {"kind": "kd", "between": ["student", "all"]}],
         "phases": [{**EEIL["phases"][0], "losses": ["cross_entropy", "kd_all"]}]},
        "phases.0.losses.1: 'kd_all' needs 'all' to be trained as well",
    ),
    "reset head": ({"phases": [{**GDUMB, "trains": "head"}]}, "phases.0: reset begins with an untrained student"),
    "typo": ({"phases": [{**GDUMB, "epoch": 1}]}, "phases.0.epoch: unknown key"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_phases_that_cannot_work_are_refused(plugins: Plugins, tmp_path: Path, case: str) -> None:
    changes, said = REFUSED[case]
    with pytest.raises(UserError) as caught:
        load(write(tmp_path, "bad", changes), (), plugins.registry)
    assert said in str(caught.value)


LAYERS = {"kind": "features", "name": "layers", "between": ["student.penultimate", "previous.penultimate"]}
KD = {"kind": "kd", "between": ["student", "previous"]}
BIG = {"kind": "fit", "model": {"kind": "mlp", "hidden": [16]}, "epochs": 1}
BIG_LAYERS = {**LAYERS, "between": ["student.penultimate", "big.penultimate"]}
UNTAUGHT = {
    "holding alone": (
        {"losses": ["cross_entropy", "ewc"], "phases": [{**GDUMB, "reset": False, "losses": ["ewc"]}]},
        "phases.0.losses: holding parameters teaches nothing",
    ),
    "no logits": (
        {"teachers": {"previous": "previous"}, "losses": ["cross_entropy", LAYERS],
         "phases": [{**EEIL["phases"][0], "trains": "head", "losses": ["layers"]}]},
        "phases.0.losses: none of them reads logits",
    ),
    "nothing moves": (
        {"student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "slda"},
         "teachers": {"big": BIG}, "losses": ["cross_entropy", {**BIG_LAYERS, "align": "mlp"}],
         "phases": [{**EEIL["phases"][0], "losses": ["layers"]}]},
        "phases.0.losses: none of them reads logits, and the backbone stands still",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("losses", "phase"),
    [
        ([BIG_LAYERS, KD], {"trains": "head", "losses": ["layers", "kd_previous"]}),
        (["ewc", KD], {"losses": ["ewc", "kd_previous"]}),
    ],
    ids=["nothing that trains the head", "nothing about rows"],
)
def test_a_phase_that_comes_too_soon_says_so_and_leaves_the_run(
    plugins: Plugins, tmp_path: Path, losses: list[Any], phase: dict[str, Any]
) -> None:
    """Later, its teacher speaks."""
    teachers = {"previous": "previous", **({"big": BIG} if losses[0] == BIG_LAYERS else {})}
    early = {**EEIL["phases"][0], "from_experience": 0, **phase}
    changes = {"teachers": teachers, "losses": ["cross_entropy", *losses], "phases": [early]}
    with pytest.raises(
        ClkdError, match=r"can teach what it trains in experience 0: start it later .from_experience: 1"
    ):
        run(plugins, tmp_path, "early", changes)
    assert (tmp_path / "early" / "run.json").exists()
    later = {**changes, "phases": [{**early, "from_experience": 1}]}
    assert run(plugins, tmp_path, "later", later)["status"] == "finished"


RATES = {
    "a momentum that there is none of": (
        {"kind": "adagrad"},
        {"kind": "one_cycle", "max_lr": 0.1},
        "must support momentum",
    ),
    "none of its steps' either": (
        {"kind": "adagrad"},
        {"kind": "one_cycle", "every": "step", "max_lr": 0.1},
        "must support momentum",
    ),
    "too short": (SGD, {"kind": "one_cycle", "max_lr": 0.1, "total_steps": 1}, "total_steps 1 are over before"),
    "no rate": ({"kind": "sgd", "nesterov": True}, None, "Nesterov momentum requires"),
}


@pytest.mark.parametrize("case", RATES)
def test_a_phases_optimizer_and_schedule_are_tried_before_training(plugins: Plugins, tmp_path: Path, case: str) -> None:
    optimizer, scheduler, said = RATES[case]
    what = "optimizer" if scheduler is None else "scheduler"
    phase = {**EEIL["phases"][0], "optimizer": optimizer, **({"scheduler": scheduler} if scheduler else {})}
    with pytest.raises(UserError, match=rf"phases\.0\.{what}: .*{said}"):
        compose(plugins, tmp_path, {"phases": [phase]})


def test_how_many_steps_a_phase_takes_is_not_guessed(plugins: Plugins, tmp_path: Path) -> None:
    """Ten epochs of one step could not rise within a tenth; of more steps they can."""
    rate = {"kind": "one_cycle", "every": "step", "max_lr": 0.1, "pct_start": 0.1}
    compose(plugins, tmp_path, {"phases": [{**EEIL["phases"][0], "epochs": 10, "scheduler": rate}]})


@pytest.mark.parametrize("case", UNTAUGHT)
def test_phases_that_could_not_teach_are_refused_once_losses_are_made(
    plugins: Plugins, tmp_path: Path, case: str
) -> None:
    changes, said = UNTAUGHT[case]
    with pytest.raises(UserError, match=said):
        compose(plugins, tmp_path, changes)


@pytest.mark.parametrize(
    "stream",
    [{"by": "domain", "domains": ["clean", {"kind": "contrast", "severity": 2}]}, {"by": "data", "experiences": 2}],
)
def test_a_balanced_phase_has_no_more_rows_than_explain_says(
    plugins: Plugins, tmp_path: Path, stream: dict[str, Any]
) -> None:
    """Where classes come again, kept rows of each stand beside its new ones; where no new row has a label, alone."""
    labelled = {"labelled": [1, 0]} if stream["by"] == "data" else {}
    changes = {**EEIL, "stream": {**BASE["stream"], "split": stream, **labelled}}
    loaded = load(write(tmp_path, "dry", changes), (), plugins.registry)
    (phase,) = explain(loaded, plugins)["experiences"][1]["phases"]
    made = compose(plugins, tmp_path, changes)
    first, second = made.stream
    for experience in made.stream:
        made.parts.begin(experience, 0)
        made.parts.end_student(experience)
    options = loaded.scenario.phases[0]
    taken = len(rows_of(options, made.parts, second, 0))
    assert len(first.train) // 10 < taken <= phase["rows"]


def test_a_dry_run_and_explain_count_phases(plugins: Plugins, tmp_path: Path) -> None:
    changes = {**BIC, "phases": [*BIC["phases"], *EEIL["phases"]]}
    told = run(plugins, tmp_path, "dry", changes, dry_run=True)
    assert told["description"]["phase bias"] == (
        "4 epochs of held_out rows, trains bias by cross_entropy, from experience 1"
    )
    loaded = load(write(tmp_path, "dry", changes), (), plugins.registry)
    first, second, _ = explain(loaded, plugins)["experiences"]
    assert first["phases"] == []
    names = [(phase["name"], phase["rows"], phase["steps"]) for phase in second["phases"]]
    assert names == [("bias", 24, 8), ("balanced", 35, 6)]
    assert second["phases"][1]["macs_per_step"] == 3 * second["phases"][0]["macs_per_step"]
    assert composed(loaded, plugins.registry).parts.held_out is not None


MORTAL = '''
import os, signal
from typing import ClassVar
from pathlib import Path
from clkd import Loss, Options, hookimpl

class DiesOptions(Options):
    sides: ClassVar[int] = 1

class Dies(Loss):
    """Kills the process before the step that `death` names, once; adds nothing."""
    sides = 1
    def forward(self, batch, a, b=None):
        death = Path("death")
        if death.exists() and self.progress.step + 1 == int(death.read_text()):
            death.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return a.logits.sum() * 0

@hookimpl
def clkd_register_losses(register):
    register("dies", Dies, config=DiesOptions, summary="kills the process")
'''


@pytest.mark.timeout(240)
def test_killed_within_phases_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    """A real run and SIGKILL, in one phase and then in another."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mortal.py").write_text(MORTAL)
    named = ["cross_entropy", "dies"]
    held = [*named, "kd_before"]
    phases = [{**GDUMB, "losses": named}, {**EEIL["phases"][0], "from_experience": 0, "losses": held}]
    model = {"model": {"kind": "mlp", "hidden": [16], "dropout": 0.2}, "head": "linear"}
    losses = [*named, BEFORE["losses"][1]]
    changes = {"student": model, "losses": losses, "teachers": BEFORE["teachers"], "phases": phases,
               "checkpoint": {"every_steps": 2, "every_minutes": None, "keep": 1}}  # fmt: skip

    def killed(*arguments: str) -> bool:
        done = clkd("run", *arguments, "--plugins-dir", "plugins", "-q", cwd=tmp_path)
        return done.returncode == -signal.SIGKILL

    own = load_plugins([tmp_path / "plugins"])
    run(own, tmp_path, "whole", changes)
    write(tmp_path, "cut", changes)
    story = [line for line in events(tmp_path, "whole") if line["event"] == "epoch"]
    deaths = [next(line["step"] for line in story if (line["experience"], line.get("phase")) == place)
              for place in ((0, "gdumb"), (1, "balanced"))]  # fmt: skip
    for arguments, step in zip((("cut.yaml",), ("--resume", "cut")), deaths, strict=True):
        (tmp_path / "death").write_text(str(step))
        assert killed(*arguments)
        within = checkpoint.load(tmp_path / "cut" / "checkpoints" / "step")["within"]
        assert within["phase"]["place"] == deaths.index(step)
    assert execute(RunRequest(resume=str(tmp_path / "cut"), quiet=True), own)["status"] == "finished"
    assert_same(state(tmp_path / "cut"), state(tmp_path / "whole"))
    ours, theirs = (
        [{**line, "time": 0, "metrics": line["metrics"] if line["event"] == "epoch" else None}
         for line in events(tmp_path, name) if line["event"] in ("epoch", "experience")]
        for name in ("cut", "whole")
    )  # fmt: skip
    assert ours == theirs


def test_a_phase_that_breaks_is_traced_to_its_step(plugins: Plugins, tmp_path: Path) -> None:
    phase = {**EEIL["phases"][0], "epochs": 9, "optimizer": {"kind": "sgd", "lr": 1e19}}
    with pytest.raises(ClkdError, match=r"became NaN or infinite in experience 1, .*at step \d+.*state before it"):
        run(plugins, tmp_path, "broken", {"phases": [phase]})
    within = checkpoint.load(tmp_path / "broken" / "checkpoints" / "step")["within"]
    assert within["phase"]["place"] == 0


@pytest.mark.slow
def test_peers_that_a_phase_does_not_train_are_in_eval_mode_in_it_after_a_resume_too(
    plugins: Plugins, tmp_path: Path
) -> None:
    """Else a report, which asks them by way of an ensemble, would move their statistics, and find other numbers."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mortal.py").write_text(MORTAL)
    own = load_plugins([tmp_path / "plugins"])
    mate = {"model": {"kind": "mlp", "hidden": [8], "dropout": 0.5}, "head": "linear"}
    losses = ["cross_entropy", "dies", {"kind": "cross_entropy", "name": "theirs", "between": ["mate"]},
              {"kind": "kd", "between": ["student", "both"]}]  # fmt: skip
    phase = {**EEIL["phases"][0], "losses": ["cross_entropy", "dies"]}
    changes = {"peers": {"mate": mate}, "teachers": {"both": {"kind": "ensemble", "members": ["student", "mate"]}},
               "losses": losses, "phases": [phase], "report": True,
               "checkpoint": {"every_steps": 1, "every_minutes": None}}  # fmt: skip
    run(own, tmp_path, "whole", changes)
    step = next(line["step"] for line in events(tmp_path, "whole") if line.get("phase") == "balanced")
    write(tmp_path, "cut", changes)
    (tmp_path / "death").write_text(str(step))
    done = clkd("run", "cut.yaml", "--plugins-dir", "plugins", "-q", cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL
    execute(RunRequest(resume=str(tmp_path / "cut"), quiet=True), own)
    assert_same(state(tmp_path / "cut"), state(tmp_path / "whole"))
    for path in sorted((tmp_path / "whole" / "reports").glob("*.json")):
        assert json.loads(path.read_text()) == json.loads((tmp_path / "cut" / "reports" / path.name).read_text())
