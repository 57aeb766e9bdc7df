"""Deep generative replay in real runs: it remembers, it disturbs nobody, and it stays where it was put."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from states import assert_same, state

from clkd.data.augment import Augment
from clkd.engine.execute import execute
from clkd.engine.parts import Parts
from clkd.engine.step import Step
from clkd.engine.term import Side, Term
from clkd.experience import Experience
from clkd.losses.classification import CrossEntropy
from clkd.memory.generator import Generator
from clkd.models.student import Student
from clkd.plugins import Plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest
from clkd.schedules.base import Progress
from clkd.seeding import generator

TINY: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": "digits", "split": {"by": "class", "experiences": 5}},
    "student": {"model": {"kind": "mlp", "hidden": [64]}, "head": "linear"},
    "train": {"epochs": 20, "batch_size": 32, "optimizer": {"kind": "adam", "lr": 0.003}},
    "tracking": {"mode": "off"},
}
SMALL = {"kind": "generator", "hidden": [64], "latent": 8, "lr": 0.003}


def run(plugins: Plugins, home: Path, name: str, **changes: Any) -> dict[str, Any]:
    path = home / f"{name}.yaml"
    path.write_text(to_yaml({**TINY, **changes, "output": str(home / name)}))
    return execute(RunRequest(scenario=path, quiet=True), plugins)


@pytest.mark.slow
def test_on_split_digits_it_remembers_what_fine_tuning_forgets(plugins: Plugins, tmp_path: Path) -> None:
    """Fine-tuning ends at a fifth: the last experience's classes."""
    assert run(plugins, tmp_path, "none", method="finetune")["metrics"]["average_accuracy"] < 0.25
    assert run(plugins, tmp_path, "dgr", method="dgr", memory=SMALL)["metrics"]["average_accuracy"] > 0.7


@pytest.mark.slow
def test_a_student_that_is_told_its_task_learns_by_it_too(plugins: Plugins, tmp_path: Path) -> None:
    stream = {"dataset": "digits", "split": {"by": "task", "experiences": 5}}
    student = {**TINY["student"], "head": "multi"}
    result = run(plugins, tmp_path, "dgr", method="dgr", memory=SMALL, stream=stream, student=student)
    assert result["metrics"]["average_accuracy"] > 0.9


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_split_mnist_it_remembers_what_fine_tuning_forgets(
    plugins: Plugins, tmp_path: Path, real_data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of the paper's steps: 20 % without replay."""
    monkeypatch.setenv("CLKD_DATA", real_data)
    parts = {
        "stream": {"dataset": "mnist", "split": {"by": "class", "experiences": 5}},
        "student": {"model": {"kind": "mlp", "hidden": [400, 400]}, "head": "linear"},
        "train": {
            "min_steps": 200,
            "batch_size": 128,
            "keep_optimizer": True,
            "optimizer": {"kind": "adam", "lr": 0.001},
        },
    }
    assert run(plugins, tmp_path, "dgr", method="dgr", **parts)["metrics"]["average_accuracy"] > 0.55


NEW = [{"kind": "cross_entropy", "between": ["student@new"]}]


def test_what_it_learns_and_replays_changes_nothing_in_what_new_rows_teach(plugins: Plugins, tmp_path: Path) -> None:
    """With a loss about new rows alone, the student ends where it ends without; dropout would see a draw too many."""
    student = {**TINY["student"], "model": {"kind": "mlp", "hidden": [16], "dropout": 0.2}}
    short = {"losses": NEW, "student": student, "train": {**TINY["train"], "epochs": 2}}
    first = {"stream": {**TINY["stream"], "split": {"by": "class", "experiences": 1}}}
    run(plugins, tmp_path, "alone", **short, **first)
    run(plugins, tmp_path, "beside", memory=SMALL, **short, **first)
    assert_same(state(tmp_path / "alone")["student"], state(tmp_path / "beside")["student"])

    short["student"] = TINY["student"]
    run(plugins, tmp_path, "none", **short)
    run(plugins, tmp_path, "replay", memory=SMALL, **short)
    ones, others = (state(tmp_path / name)["student"]["state"] for name in ("none", "replay"))
    assert all(torch.allclose(ones[name], others[name], atol=1e-4) for name in ones)


def test_it_learns_in_every_step_of_every_epoch(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    learn = Generator.learn

    def counted(self: Generator, rows: Any) -> Any:
        seen.append((rows.new, len(rows) - rows.new))
        return learn(self, rows)

    monkeypatch.setattr(Generator, "learn", counted)
    stream = {"dataset": {"name": "digits", "rows_per_class": 20}, "split": {"by": "class", "experiences": 5}}
    train = {**TINY["train"], "epochs": 3}
    run(plugins, tmp_path, "dgr", method="dgr", memory=SMALL, stream=stream, train=train)
    assert seen == [(32, 0), (8, 0)] * 3 + [(32, 32), (8, 32)] * 12
    told = (tmp_path / "dgr" / "metrics.jsonl").read_text()
    assert "train/generator_reconstruction" in told
    assert "train/generator_divergence" in told


def test_a_step_that_makes_rows_up_never_waits(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment, waits: list[str]
) -> None:
    student = make_student()
    memory = Generator(hidden=(8,), latent=3, student=student)
    parts = Parts(student, augment, [Term("ce", CrossEntropy(), (Side.read("student"),))], {}, memory)
    parts.begin(experiences[0], 0)
    step = Step(parts, torch.optim.SGD(list(parts.parameters()), 0.01), Progress(), replay=8)
    batches = [experiences[0].train.gather(torch.arange(at, at + 12)) for at in (0, 12, 24)]
    step(batches[0], generator(0), generator(1))
    parts.memory.end(experiences[0], student)
    step(batches[1], generator(0), generator(1))
    assert memory.optimizer is not None
    waits.clear()
    memory.optimizer.step()
    counts = list(waits)  # Adam reads how often it stepped, which lies on the host
    waits.clear()
    step(batches[2], generator(0), generator(1))
    assert waits == counts
    assert step.rows == 12 + 2 * 20


@pytest.mark.slow
def test_a_previous_self_answers_about_rows_that_nobody_foretold(plugins: Plugins, tmp_path: Path) -> None:
    """Rows are not augmented, so they have fixed views, and a teacher would recall its answers.

    All columns are compared: else nothing would say of a made-up row that it is of none of the new classes.
    """
    old = {"kind": "kd", "between": ["student@replay", "previous"], "over": "all", "weight": "old_fraction"}
    parts = {"student": {**TINY["student"], "head": "fixed"}, "teachers": {"previous": "previous"}, "memory": SMALL}
    result = run(plugins, tmp_path, "soft", losses=[{**NEW[0], "over": "all"}, old], **parts)
    assert result["metrics"]["average_accuracy"] > 0.7


def test_rows_that_are_made_up_are_announced_to_the_augmentation(plugins: Plugins, tmp_path: Path) -> None:
    """Which tells them apart by their pixels, having no numbers."""
    from small_runs import SmallRuns

    for memory, invents in ((SMALL, True), ({"kind": "random", "size": 10}, False)):
        made = SmallRuns(TINY).compose(plugins, tmp_path, {"memory": memory})
        assert made.parts.augment.invented is invents
