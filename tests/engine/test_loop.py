"""How many steps an experience gets, and which rows they see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from clkd.data.augment import Augment
from clkd.engine.loop import Loop
from clkd.engine.parts import Parts
from clkd.engine.term import Side, Term
from clkd.errors import UserError
from clkd.experience import Experience
from clkd.losses.classification import CrossEntropy
from clkd.memory.base import Memory
from clkd.models.student import Student
from clkd.optimizers import OptimizerOptions
from clkd.scenario.train import TrainOptions
from clkd.signals import Batch, Signals
from clkd.transfer.base import Seen, Transfer


class Witness(Memory):
    """Notes what it is offered, and replays what it is told to."""

    def __init__(self) -> None:
        self.offered: list[list[int]] = []

    def observe(self, batch: Batch, signals: Signals) -> None:
        assert len(batch) == len(signals.logits)
        assert batch.stored().dtype == torch.uint8
        self.offered.append(batch.sample_id.tolist())


@pytest.fixture
def loop(make_student: Callable[[], Student], augment: Augment) -> Callable[..., Loop]:
    def make(limit: int | None = None, **options: Any) -> Loop:
        recipe = TrainOptions(optimizer=OptimizerOptions(kind="sgd", lr=0.01), **options)
        parts = Parts(make_student(), augment, [Term("ce", CrossEntropy(), (Side("student"),))], memory=Witness())
        return Loop(parts, recipe, seed=0, limit_batches=limit)

    return make


@pytest.mark.parametrize(
    ("options", "limit", "steps"),
    [
        ({"batch_size": 16}, None, 3),
        ({"batch_size": 20}, None, 3),
        ({"batch_size": 20, "drop_last": True}, None, 2),
        ({"batch_size": 64, "drop_last": True}, None, 1),
        ({"batch_size": 16, "epochs": 2}, None, 6),
        ({"batch_size": 16, "min_steps": 7}, None, 9),
        ({"batch_size": 16, "epochs": 4, "min_steps": 7}, None, 12),
        ({"batch_size": 16, "epochs": 2}, 2, 4),
        ({"batch_size": 16, "min_steps": 7}, 1, 3),
    ],
)
def test_steps(loop: Callable[..., Loop], experiences: list[Experience], options: Any, limit: Any, steps: int) -> None:
    made = loop(limit, **options)
    told: list[tuple[int, int]] = []
    made.on_step = lambda progress: told.append((progress.epoch, progress.epoch_step))
    made.train(experiences[0], made.parts.begin(experiences[0], 0))
    assert (len(told), made.progress.step) == (steps, steps)
    assert told == sorted(set(told))


def test_every_row_is_offered_to_memory_exactly_once_however_many_epochs(
    loop: Callable[..., Loop], experiences: list[Experience]
) -> None:
    made = loop(epochs=3, batch_size=7)
    for experience in experiences:
        made.train(experience, made.parts.begin(experience, 0))
    offered = [i for batch in made.parts.memory.offered for i in batch]  # type: ignore[attr-defined]  # the witness
    assert sorted(offered) == list(range(96))
    assert offered[:48] != sorted(offered[:48]), "rows come shuffled"
    assert made.rows == 3 * 96


def test_who_asks_for_it_is_offered_every_row_in_every_epoch(
    loop: Callable[..., Loop], experiences: list[Experience]
) -> None:
    made = loop(epochs=3, batch_size=7)
    made.parts.memory.every_epoch = True
    made.train(experiences[0], made.parts.begin(experiences[0], 0))
    offered = [i for batch in made.parts.memory.offered for i in batch]  # type: ignore[attr-defined]  # the witness
    assert all(sorted(offered[48 * epoch : 48 * epoch + 48]) == list(range(48)) for epoch in range(3))
    assert len(offered) == 3 * 48


def test_a_batch_that_no_loss_is_about_is_an_error_with_a_remedy(
    loop: Callable[..., Loop], experiences: list[Experience]
) -> None:
    made = loop()
    made.parts.terms = [Term("ce", CrossEntropy(), (Side("student", rows="replay"),))]
    replaced = made.parts.begin(experiences[0], 0)
    with pytest.raises(UserError, match="no loss has anything to say about this batch"):
        made.train(experiences[0], replaced)


def test_an_epochs_metrics_are_means_of_its_steps_and_name_every_term(
    loop: Callable[..., Loop], experiences: list[Experience]
) -> None:
    made = loop(epochs=2)
    told: list[dict[str, float]] = []
    made.on_epoch = lambda experience, metrics: told.append(metrics)
    made.train(experiences[0], made.parts.begin(experiences[0], 0))
    assert [sorted(metrics) for metrics in told] == [
        ["train/loss", "train/loss_ce", "train/lr", "train/weighted_ce"]
    ] * 2
    assert told[0]["train/loss"] == told[0]["train/loss_ce"] > told[1]["train/loss"]
    assert told[0]["train/lr"] == 0.01


class Looking(Transfer):
    """Notes the labels of the rows that it is shown at an experience's end."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[list[int]] = []

    def review(self, seen: Seen, experience: Experience, student: Student) -> None:
        self.shown = [batch.y.tolist() for batch in seen("new")]


def test_transfer_is_shown_rows_of_all_classes_in_each_batch_however_the_data_is_ordered(
    loop: Callable[..., Loop], experiences: list[Experience], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data is ordered by class here, as folders of images are: such a batch has the statistics of one class."""
    monkeypatch.setattr("clkd.engine.parts.CHUNK", 12)
    parts, (first, _) = loop(batch_size=16).parts, experiences
    assert first.train.y.tolist() == sorted(first.train.y.tolist())
    parts.transfer = Looking()
    parts.begin(first, 0)
    parts.end(first)
    assert [set(batch) for batch in parts.transfer.shown] == [set(first.classes)] * 4
    assert sorted(y for batch in parts.transfer.shown for y in batch) == first.train.y.tolist()
