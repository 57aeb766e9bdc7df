"""A term compares the right rows of the right models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clkd.engine.term import Side, Term
from clkd.losses.base import Loss
from clkd.schedules.base import Progress, Schedule
from clkd.signals import Batch, Needs, Signals


class Seen(Loss):
    """Remembers what it was shown."""

    needs = Needs(logits=True)

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        self.shown = batch, a, b
        assert a.logits is not None
        return a.logits.sum(1)


def batch(new: int, replayed: int) -> Batch:
    n = torch.arange(new + replayed)
    return Batch(x=n.float()[:, None], y=n, sample_id=n, domain=n, experience=n, new=new)


def said(n: int, shift: float = 0.0) -> Signals:
    return Signals(torch.arange(2.0 * n).view(n, 2) + shift, torch.arange(2), {"tap": torch.arange(n)})


@pytest.mark.parametrize(("rows", "expected"), [("new", [0, 1, 2]), ("replay", [3, 4]), (None, [0, 1, 2, 3, 4])])
def test_rows_named_on_one_side_are_cut_from_both_and_from_the_batch(rows: str | None, expected: list[int]) -> None:
    loss = Seen()
    term = Term("t", loss, (Side("student", rows=rows), Side("teacher")))
    value = term(batch(3, 2), {"student": said(5), "teacher": said(5, 100.0)}, Progress())
    shown, a, b = loss.shown
    assert shown.y.tolist() == a.features["tap"].tolist() == expected
    assert b is not None
    assert torch.equal(b.logits, said(5, 100.0).logits[expected])  # type: ignore[index, arg-type]  # logits were given
    assert value.item() == said(5).logits[expected].sum(1).mean().item()  # type: ignore[index]  # as above


def test_each_side_may_name_its_own_rows() -> None:
    loss = Seen()
    Term("t", loss, (Side("student", rows="new"), Side("student", rows="replay")))(
        batch(3, 2), {"student": said(5)}, Progress()
    )
    _, a, b = loss.shown
    assert b is not None
    assert (a.features["tap"].tolist(), b.features["tap"].tolist()) == ([0, 1, 2], [3, 4])


def test_a_term_without_rows_says_nothing() -> None:
    term = Term("t", Seen(), (Side("student", rows="replay"),))
    assert term(batch(3, 0), {"student": said(3)}, Progress()) is None


def test_a_weight_follows_its_schedule_and_one_leaves_the_very_tensor() -> None:
    class Half(Schedule):
        def __call__(self, progress: Progress, signals: Signals | None = None) -> float:
            return 0.5 * progress.epoch

    value = torch.tensor(3.0)
    one = Term("t", Seen(), (Side("student"),), 1.0)
    half = Term("t", Seen(), (Side("student"),), Half())
    assert one.weighted(value, Progress(), said(1)) is value
    assert half.weighted(value, Progress(epoch=3), said(1)).item() == 4.5


def test_a_tap_named_in_between_is_read_beside_what_the_loss_needs() -> None:
    term = Term("t", Seen(), (Side.read("student.stage2@new"), Side.read("big.layer1.0.conv1")))
    assert term.needs("student") == Needs(logits=True, features=("stage2",))
    assert term.needs("big") == Needs(logits=True, features=("layer1.0.conv1",))
    assert term.needs("other") == Needs(logits=False)
    assert term.teacher == "big"
    assert str(term.a) == "student.stage2@new"
