"""Both accuracies and the confusion from one pass equal what counting by hand gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from clkd.data.augment import Augment
from clkd.engine.batches import batches
from clkd.engine.evaluate import evaluate, known_experiences
from clkd.engine.execute import execute
from clkd.experience import Experience
from clkd.models.student import Student
from clkd.plugins import load_plugins
from clkd.ranks import Ranks
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest
from clkd.seeding import generator
from clkd.signals import Needs


@pytest.fixture
def student(make_student: Callable[[], Student]) -> Student:
    """Knows the classes in another order than their ids."""
    made = make_student()
    made.grow((3, 1), 0, generator(0))
    made.grow((0, 2), 1, generator(1))
    return made


def test_more_processes_than_rows(
    student: Student, experiences: list[Experience], augment: Augment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each counts its own share; what they say is added up elsewhere."""
    monkeypatch.setattr(Ranks, "sum", lambda self, tensor: tensor)
    few = [replace(each, test=each.test.select(torch.arange(2))) for each in experiences]
    whole = evaluate(student, few, augment, 5, classes=4)
    shares = [evaluate(student, few, augment, 5, classes=4, ranks=Ranks(rank, 3)) for rank in range(3)]
    assert torch.equal(sum(share.confusion for share in shares), whole.confusion)
    assert not shares[2].confusion.any()


def test_a_class_that_no_row_was_trained_on_is_never_right(
    student: Student, experiences: list[Experience], augment: Augment
) -> None:
    """As it comes in data that extended the stream: without a number, and so in nobody's confusion."""
    test = experiences[0].test
    strange = replace(experiences[0], test=replace(test, y=torch.where(torch.arange(len(test)) < 3, -1, test.y)))
    known = replace(experiences[0], test=test.select(torch.arange(len(test)) >= 3))
    found, theirs = (evaluate(student, [each], augment, 5, classes=4) for each in (strange, known))
    assert torch.equal(found.confusion, theirs.confusion)
    assert found.accuracy[0] * len(test) == pytest.approx(theirs.accuracy[0] * len(known.test))


@pytest.mark.parametrize("task_labels", [False, True])
@pytest.mark.parametrize("batch_size", [5, 1000])
def test_against_counting_row_by_row(
    student: Student, experiences: list[Experience], augment: Augment, batch_size: int, task_labels: bool
) -> None:
    found = evaluate(student, experiences, augment, batch_size, classes=4, task_labels=task_labels)
    confusion = torch.zeros(4, 4, dtype=torch.long)
    for i, experience in enumerate(experiences):
        right = aware = 0
        for place, y in zip(experience.test.index, experience.test.y, strict=True):
            logits = dict(
                zip(student.class_ids, student(augment.plain(experience.test.x[place][None]))[0].tolist(), strict=True)
            )
            answer = max(logits, key=logits.__getitem__)
            told = max(experience.classes, key=logits.__getitem__)
            right += answer == y.item()
            aware += told == y.item()
            confusion[y, told if task_labels else answer] += 1
        assert found.accuracy[i] == pytest.approx(right / len(experience.test))
        assert found.task_aware[i] == pytest.approx(aware / len(experience.test))
    assert torch.equal(found.confusion, confusion)


def test_validation_rows_are_looked_at_instead_when_asked_for(
    student: Student, experiences: list[Experience], augment: Augment
) -> None:
    held = [replace(e, test=e.test.select(torch.arange(0)), validation=e.test) for e in experiences]
    asked = evaluate(student, held, augment, 16, classes=4, split="validation")
    assert asked.accuracy == evaluate(student, experiences, augment, 16, classes=4).accuracy


def test_rows_that_experiences_share_are_counted_once(
    student: Student, experiences: list[Experience], augment: Augment
) -> None:
    twice = evaluate(student, [experiences[0], experiences[0]], augment, 16, classes=4)
    once = evaluate(student, experiences[:1], augment, 16, classes=4)
    assert torch.equal(twice.confusion, once.confusion)
    assert twice.accuracy == once.accuracy * 2


def test_rows_that_experiences_share_in_part_count_once_in_the_confusion_and_in_each_accuracy(
    student: Student, experiences: list[Experience], augment: Augment
) -> None:
    first, second = experiences
    both = torch.cat([first.test.index, second.test.index])
    whole = replace(first.test, y=torch.cat([first.test.y, second.test.y]), index=both, sample_id=both)
    wider = replace(second, classes=(0, 1, 2, 3), test=whole)
    apart = evaluate(student, experiences, augment, 7, classes=4)
    shared = evaluate(student, [first, wider], augment, 7, classes=4)
    assert torch.equal(shared.confusion, apart.confusion)
    assert shared.accuracy == pytest.approx([apart.accuracy[0], sum(apart.accuracy) / 2])


def test_of_domains_nothing_is_kept_that_they_do_not_share(
    student: Student, experiences: list[Experience], augment: Augment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept of each would lie where the next one's rows should go, and memory would grow with the stream."""
    warps: list[Callable[[Tensor], Tensor]] = [lambda x: x, lambda x: x.flip(-1)]
    domains = [
        replace(experiences[0], test=replace(experiences[0].test, warp=warp, index=experiences[0].test.index.clone()))
        for warp in warps
    ]
    whole = evaluate(student, domains, augment, 16, classes=4)
    monkeypatch.setattr("clkd.engine.evaluate._fresh", lambda rows, counted: pytest.fail("a mask is made"))
    assert torch.equal(evaluate(student, domains, augment, 16, classes=4).confusion, whole.confusion)
    assert whole.confusion.sum() == 2 * len(experiences[0].test)


def test_an_experience_whose_classes_have_no_column_is_not_known(
    make_student: Callable[[], Student], experiences: list[Experience]
) -> None:
    student = make_student()
    student.grow((0, 1), 0, generator(0))
    assert known_experiences(student, experiences) == experiences[:1]


def test_evaluation_moves_nothing(student: Student, experiences: list[Experience], augment: Augment) -> None:
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    evaluate(student, experiences, augment, 16, classes=4)
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())


@pytest.mark.parametrize("by", ["class", "task"])
def test_a_run_s_confusion_is_about_the_answers_that_its_accuracy_counts(by: str, tmp_path: Path) -> None:
    said = {
        "name": "tiny",
        "stream": {"dataset": {"name": "digits", "rows_per_class": 12}, "split": {"by": by, "experiences": 5}},
        "student": {"model": "mlp", "head": "linear"},
        "train": {"epochs": 2, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05}},
        "tracking": {"mode": "off"},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "s.yaml").write_text(to_yaml(said))
    result = execute(RunRequest(scenario=tmp_path / "s.yaml", quiet=True), load_plugins())
    counts = json.loads((tmp_path / "run" / "confusion" / "exp_004.json").read_text())["counts"]
    right = sum(rows for true, named, rows in counts if true == named) / sum(rows for *_, rows in counts)
    accuracies = result["accuracy_matrix"][-1]
    assert right == pytest.approx(sum(accuracies) / len(accuracies), abs=0.01)  # experiences are about as large
    assert (result["metrics"]["average_accuracy"] == result["metrics"]["average_accuracy_task_aware"]) == (by == "task")


class Casts(TorchDispatchMode):
    """Counts how often each of some tensors is cast."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.counts = {tensor.data_ptr(): 0 for tensor in tensors}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.counts:
            self.counts[args[0].data_ptr()] += 1
        return func(*args, **(kwargs or {}))


def test_weights_are_cast_once_an_evaluation_and_anew_in_the_next(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment
) -> None:
    student = make_student()
    student.grow(range(4), 0, torch.Generator())
    student.autocast = torch.bfloat16
    for scale in (1.0, -2.0):  # one after the other, so that nothing between them clears what was kept
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.mul_(scale)
        with Casts(student.backbone.parameters()) as casts:
            found = evaluate(student, experiences, augment, 5, classes=4)
        assert set(casts.counts.values()) == {1}
    with torch.no_grad(), closing(batches(experiences[0].test, torch.arange(48), 5, torch.device("cpu"))) as coming:
        right = [
            student.class_ids_tensor[student.signals(augment.plain(rows.x), Needs()).logits.argmax(1)] == rows.y
            for rows in coming
        ]
    assert found.accuracy[0] == torch.cat(right).double().mean()
