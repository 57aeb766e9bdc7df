"""MCD against its formula, and who learns what of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from domain_rows import batch, own, said

from clkd.testing import material
from clkd.transfer.classifiers import MCD


def entered(reversal: float = 1.0):
    _, second, _ = material.experiences()
    student = material.student()
    student.grow(second.classes, 1, torch.Generator().manual_seed(0))
    mcd = MCD(reversal=reversal)
    mcd.begin(second, student)
    return mcd, student


def told(unlabelled: int = 2):
    y = torch.tensor([3, 0, 5, 1, 3, 0, 5, 1, 1])
    y[:unlabelled] = -1
    f = torch.randn(9, material.WIDTH, generator=torch.Generator().manual_seed(3)).requires_grad_()
    return batch(5, 4, y=y), f


def parts(mcd, student, rows, f):
    column = torch.tensor([[3, 0, 5, 1].index(c) if c >= 0 else -1 for c in rows.y.tolist()])
    known = column >= 0
    labels = F.cross_entropy(mcd.second(f)[known], column[known])
    apart = (student.head(f[:5]).softmax(1) - mcd.second(f[:5]).softmax(1)).abs().sum() / (5 * 4)
    return labels, apart


def test_the_value_is_labels_minus_discrepancy():
    mcd, student = entered()
    rows, f = told()
    labels, apart = parts(mcd, student, rows, f)
    torch.testing.assert_close(mcd(rows, said(f)), labels - apart)


def test_where_rows_are_told_their_task_both_classifiers_choose_among_its_classes():
    """Row by row, with the columns of the row's own task cut out. (Classes 3 and 0 are one task, 5 and 1 the other.)"""
    mcd, student = entered()
    (_, f), task, classes = told(), own(2, 2), torch.tensor([3, 0, 5, 1])
    y = torch.tensor([-1, -1, 3, 1, 0, 5, 3, 1, 0])
    losses, gaps = [], []
    for row, label, mine in zip(f, y, task, strict=True):
        first, second = student.head(row)[mine].log_softmax(0), mcd.second(row)[mine].log_softmax(0)
        gaps.append((first.exp() - second.exp()).abs().mean())
        losses += [-second[classes[mine] == label]] if label >= 0 else []
    expected = torch.cat(losses).mean() - torch.stack(gaps[:5]).mean()
    torch.testing.assert_close(mcd(batch(5, 4, y=y), said(f, competes=task)), expected)


def test_classifiers_learn_to_disagree_and_features_to_leave_no_room():
    mcd, student = entered(reversal=0.5)
    rows, f = told(9)  # no labels: the discrepancy is all there is
    learned = [f, *student.head.parameters(), *mcd.second.parameters()]
    of_value = torch.autograd.grad(mcd(rows, said(f)), learned)
    of_apart = torch.autograd.grad(parts(mcd, student, told(0)[0], f)[1], learned)
    torch.testing.assert_close(of_value[0], 0.5 * of_apart[0])
    assert of_apart[0][:5].any()
    for ours, theirs in zip(of_value[1:], of_apart[1:], strict=True):
        torch.testing.assert_close(ours, -theirs)


def test_the_second_classifier_is_its_own_and_starts_afresh_with_new_classes():
    mcd, student = entered()
    assert len(list(mcd.parameters())) == 4
    kept = mcd.second
    *_, third = material.experiences()
    mcd.begin(third, student)
    assert mcd.second is kept
    student.grow(third.classes, 2, torch.Generator())
    mcd.begin(third, student)
    assert mcd.widths == (material.WIDTH, 6)


@pytest.mark.parametrize(("new", "replayed"), [(1, 0), (1, 1), (4, 0)])
def test_few_rows_and_no_labels_are_no_nan(new, replayed):
    mcd, _ = entered()
    n = new + replayed
    f = torch.randn(n, material.WIDTH)
    assert torch.isfinite(mcd(batch(new, replayed, y=torch.full((n,), -1)), said(f)))
    assert mcd(batch(0, n, y=torch.zeros(n, dtype=torch.long)), said(f)) is None
