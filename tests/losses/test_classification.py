from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clkd.errors import UserError
from clkd.experience import Experience, Rows
from clkd.losses.classification import CrossEntropy, own_task_rows
from clkd.signals import Batch, Signals, Spec

IDS = (7, 3, 5, 0)
BORN = (0, 0, 1, 1)


def batch_of(labels: list[int] | torch.Tensor) -> Batch:
    y = torch.as_tensor(labels)
    zeros = torch.zeros_like(y)
    return Batch(x=zeros, y=y, sample_id=zeros, domain=zeros, experience=zeros, new=len(y))


def bound(spec: Spec, **options) -> CrossEntropy:
    loss = CrossEntropy(**options)
    loss.bind(spec, None)
    return loss


def said(logits: torch.Tensor, spec: Spec) -> Signals:
    return Signals(logits, torch.tensor(spec.class_ids))


def experience_of(classes: tuple[int, ...]) -> Experience:
    i = torch.arange(0)
    rows = Rows(i, i, i, i)
    return Experience(1, classes, classes, rows, rows, rows, "", 2)


def reference(logits: np.ndarray, labels: list[int], columns_of_row, smoothing: float) -> float:
    """Row by row in NumPy: the mean over rows that take part of −Σ t log p over the row's competing columns."""
    values = []
    for row, y in zip(logits, labels, strict=True):
        columns = columns_of_row(y)
        if y == -1 or IDS.index(y) not in columns:
            continue
        z = row[columns]
        log_p = z - z.max() - np.log(np.exp(z - z.max()).sum())
        t = np.full(len(columns), smoothing / len(columns))
        t[columns.index(IDS.index(y))] += 1 - smoothing
        values.append(-(t * log_p).sum())
    return float(np.mean(values)) if values else 0.0


LABELS = [7, 5, -1, 0, 3, 5, 5]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("over", "columns_of_row"),
    [
        ("seen", lambda y: [0, 1, 2, 3]),
        ("all", lambda y: [0, 1, 2, 3]),
        ("new", lambda y: [2, 3]),
        ("old", lambda y: [0, 1]),
        ("own", lambda y: [0, 1] if y in (7, 3) else [2, 3]),
    ],
)
def test_value_is_the_row_by_row_reference(over, columns_of_row, smoothing):
    logits = torch.randn(len(LABELS), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    spec = Spec(IDS, BORN)
    value = bound(spec, over=over, label_smoothing=smoothing)(batch_of(LABELS), said(logits, spec)).mean()
    assert value.item() == pytest.approx(reference(logits.numpy(), LABELS, columns_of_row, smoothing), rel=1e-12)


@pytest.mark.parametrize("over", ["seen", "new", "old", "own"])
def test_gradient_is_that_of_the_value(over):
    spec = Spec(IDS, BORN)
    loss = bound(spec, over=over, label_smoothing=0.1)
    logits = torch.randn(len(LABELS), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda z: loss(batch_of(LABELS), said(z, spec)), logits.requires_grad_())


@pytest.mark.parametrize("rows", [1, 7, 50, 64])
def test_training_equals_plain_pytorch_bit_for_bit(rows):
    def train(use_clkd: bool) -> torch.Tensor:
        draws = torch.Generator().manual_seed(rows)
        torch.manual_seed(0)
        model = nn.Linear(6, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        spec = Spec((0, 1, 2, 3), (0, 0, 1, 1))
        loss = bound(spec)
        for _ in range(20):
            x, y = torch.randn(rows, 6, generator=draws), torch.randint(4, (rows,), generator=draws)
            z = model(x)
            value = loss(batch_of(y), said(z, spec)).mean() if use_clkd else F.cross_entropy(z, y)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        return model.weight.detach()

    assert torch.equal(train(use_clkd=True), train(use_clkd=False))


def test_the_gradient_is_pytorchs_bit_for_bit_at_any_batch_size():
    spec = Spec(tuple(range(10)), (0,) * 10)
    loss = bound(spec)
    for rows in range(1, 130):
        logits = torch.randn(2, rows, 10, generator=torch.Generator().manual_seed(rows))
        logits[1] = logits[0]
        ours, theirs = (part.clone().requires_grad_() for part in logits)
        y = torch.arange(rows) % 10
        loss(batch_of(y), said(ours, spec)).mean().backward()
        F.cross_entropy(theirs, y).backward()
        assert torch.equal(ours.grad, theirs.grad), rows


def test_columns_of_a_fixed_head_that_were_not_seen_compete_only_under_all():
    spec = Spec((0, 1, 2), (0, 0, -1))
    logits = torch.tensor([[1.0, 1.0, 1.0]])
    seen = bound(spec, over="seen")(batch_of([1]), said(logits, spec))
    everything = bound(spec, over="all")(batch_of([1]), said(logits, spec))
    assert seen.item() == pytest.approx(np.log(2))
    assert everything.item() == pytest.approx(np.log(3))


def test_auto_lets_those_columns_compete_among_which_the_answer_is_looked_for():
    logits = torch.zeros(1, 4)
    fixed = (0, -1, 0, -1)
    for task_aware, born, competing in ((True, BORN, 2), (False, BORN, 4), (False, fixed, 4)):
        spec = Spec(IDS, born, task_aware=task_aware)
        label = IDS[born.index(0)] if born is fixed else 5
        assert bound(spec)(batch_of([label]), said(logits, spec)).item() == pytest.approx(np.log(competing))


def test_new_means_the_classes_of_the_experience_where_no_column_is_new():
    spec = Spec((0, 1, 2, 3), (0, 0, 0, 0))
    loss = bound(spec, over="new")
    loss.begin(experience_of((1, 3)), None)
    value = loss(batch_of([1, 0]), said(torch.zeros(2, 4), spec))
    assert value.mean().item() == pytest.approx(np.log(2))
    assert value[1] == 0


def test_old_means_all_other_classes_that_came():
    spec = Spec((0, 1, 2, 3), (0, 0, 1, -1))
    loss = bound(spec, over="old")
    loss.begin(experience_of((1, 2)), None)
    assert loss.columns.tolist() == [0]
    with pytest.raises(UserError, match="no class came before this experience alone"):
        bound(Spec((0, 1), (0, -1)), over="old").begin(experience_of((0,)), None)


def test_an_experience_without_a_new_class_may_leave_some_old():
    loss = bound(Spec((0, 1, 2), (0, 0, 0)), over="old")
    loss.begin(experience_of((1, 2)), None)
    assert loss.columns.tolist() == [0]


def test_an_unlabelled_batch_is_worth_nothing_and_teaches_nothing():
    spec = Spec(IDS, BORN)
    logits = torch.randn(3, 4, requires_grad=True)
    value = bound(spec)(batch_of([-1, -1, -1]), said(logits, spec)).mean()
    value.backward()
    assert value == 0
    assert not logits.grad.any()


def test_old_logits_get_no_gradient_where_only_new_classes_compete():
    spec = Spec(IDS, BORN)
    logits = torch.randn(len(LABELS), 4, requires_grad=True)
    bound(spec, over="new")(batch_of(LABELS), said(logits, spec)).mean().backward()
    assert not logits.grad[:, :2].any()
    assert logits.grad[:, 2:].any()


def test_growing_keeps_state_dicts_empty():
    loss = bound(Spec(IDS[:2], BORN[:2]))
    loss.bind(Spec(IDS, BORN), None)
    assert not loss.state_dict(), "lookups are made by bind and are no state"


def test_own_task_rows_is_finite_where_other_tasks_are_huge():
    logits = torch.tensor([[0.0, 0.0, 3e4]], requires_grad=True)
    value = own_task_rows(logits, torch.tensor([0]), torch.tensor([0, 0, 1]), 0.1)
    value.sum().backward()
    assert value.item() == pytest.approx(np.log(2))
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 2] == 0


@pytest.mark.parametrize("seed", range(3))
def test_batch_means_the_labels_of_the_rows_at_hand(seed):
    """As Mammoth's ER-ACE has it: all columns that are no label of the batch are out of the softmax."""
    draws = np.random.default_rng(seed)
    labels = [5, 7, -1, 5, 0]
    logits = draws.normal(size=(5, 4))
    present = [IDS.index(y) for y in sorted({y for y in labels if y >= 0}, key=IDS.index)]
    spec = Spec(IDS, BORN)
    z = torch.tensor(logits, requires_grad=True)
    value = bound(spec, over="batch")(batch_of(labels), said(z, spec)).mean()
    assert value.item() == pytest.approx(reference(logits, labels, lambda y: present, 0.0))
    value.backward()
    assert (z.grad[:, IDS.index(3)] == 0).all(), "3 is no label here, so nobody pushes it away"
    assert (z.grad[:2, present] != 0).all()


def test_a_batch_of_one_class_teaches_nothing_over_batch():
    spec = Spec(IDS, BORN)
    z = torch.randn(3, 4, requires_grad=True, generator=torch.Generator().manual_seed(0))
    value = bound(spec, over="batch")(batch_of([5, 5, -1]), said(z, spec)).mean()
    value.backward()
    assert value == 0
    assert (z.grad == 0).all()


@pytest.mark.parametrize(
    ("over", "labels", "expected"),
    [
        ("seen", {7, 3, 5}, True),
        ("seen", {7, -1}, False),
        ("seen", {7, 9}, False),
        ("own", {7, 0}, True),
        ("batch", {7, 0}, True),
        ("new", {5, 0}, False),
        ("old", {7, 3}, False),
    ],
)
def test_what_is_foreseen_changes_no_bit(over: str, labels: set[int], expected: bool) -> None:
    """Whoever knows that every row takes part leaves out looking for those that do not; binding again forgets it."""
    spec, batch = Spec(IDS, BORN), batch_of([7, 5, 5, 0, 3, 7, 0])
    loss, plain = bound(spec, over=over), bound(spec, over=over)
    loss.foresee(labels)
    assert loss.certain == expected
    values = []
    for each in (loss, plain):
        logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
        value = each(batch, said(logits, spec)).mean()
        value.backward()
        values.append((value.detach(), logits.grad))
    assert all(torch.equal(a, b) for a, b in zip(*values, strict=True))
    loss.bind(spec, None)
    assert not loss.certain
