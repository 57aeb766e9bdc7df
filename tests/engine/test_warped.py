"""Rows for evaluation are warped once, while there is room, and are the rows that a batch would be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from clkd.data.augment import Augment
from clkd.engine.evaluate import evaluate
from clkd.engine.warped import Warped
from clkd.experience import Experience
from clkd.models.student import Student
from clkd.streams.domains import Permuted

CPU = torch.device("cpu")


def domains(experiences: list[Experience]) -> list[Experience]:
    """The same test rows in two guises."""
    return [replace(e, test=replace(experiences[0].test, warp=Permuted(e.index))) for e in experiences]


def test_what_fits_is_warped_once_and_the_rest_stays_as_it_is(experiences: list[Experience]) -> None:
    first, second = domains(experiences)
    size = len(first.test) * first.test.x[:1].nbytes
    warped = Warped(room=2 * size - 1)
    ready = warped(first, "test", CPU)
    at = torch.arange(len(first.test))
    assert ready.test.warp is None
    assert torch.equal(ready.test.gather(at).x, first.test.gather(at).x)
    assert warped(first, "test", CPU).test.x is ready.test.x
    assert warped(second, "test", CPU) is second
    assert warped.nbytes == size


def test_a_domain_that_comes_back_is_warped_and_counted_once(
    experiences: list[Experience], make_student: Callable[[], Student], augment: Augment
) -> None:
    student = make_student()
    student.grow(range(4), 0, torch.Generator())
    first, second = domains(experiences)
    again = replace(first, index=2, test=replace(first.test, experience=2))
    stream, warped = [first, second, again], Warped()
    ready = [warped(each, "test", CPU) for each in stream]
    assert warped.nbytes == 2 * len(first.test) * first.test.x[:1].nbytes
    assert [each.test.experience for each in ready] == [first.test.experience, second.test.experience, 2]
    found = evaluate(student, ready, augment, 16, 4)
    assert found.confusion.sum() == len(first.test) + len(second.test)
    plain = evaluate(student, stream, augment, 16, 4)
    assert torch.equal(found.confusion, plain.confusion)
    assert (found.accuracy, found.task_aware) == (plain.accuracy, plain.task_aware)


def test_rows_without_a_warp_and_rows_that_stream_are_left_alone(experiences: list[Experience]) -> None:
    warped, (first, second) = Warped(), domains(experiences)
    streamed = replace(second, test=replace(second.test, resident=False))
    for experience in (experiences[0], streamed):
        assert warped(experience, "test", CPU) is experience
    assert warped(first, "validation", CPU) is first
    assert not warped.kept
