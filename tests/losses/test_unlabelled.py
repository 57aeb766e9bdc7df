"""Rows without a label: who skips them, exactly, and who does not; and gates on the teacher's confidence."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from clkd.engine.term import Side, Term
from clkd.errors import UserError
from clkd.losses.binary import BinaryCrossEntropy
from clkd.losses.classification import CrossEntropy
from clkd.losses.correlation import DIST
from clkd.losses.crd import contrast
from clkd.losses.decoupled import DKD, NKD
from clkd.losses.margins import NCA, LogitMargin, MarginRanking
from clkd.losses.multilevel import MLKD
from clkd.losses.pseudo_label import HardLabel
from clkd.losses.response import KD
from clkd.losses.virtual import VirtualTeacher
from clkd.plugins import load_plugins
from clkd.ranks import Ranks
from clkd.signals import Batch, Signals, Spec

Y = torch.tensor([0, -1, 3, -1, -1, 2, 1, -1])
NOBODY = torch.full_like(Y, -1)
KNOWN = Y >= 0
GATED = [
    lambda **o: KD(**o),
    lambda **o: KD(variant="mse", **o),
    lambda **o: KD(scope="per_task", **o),
    lambda **o: DKD(**o),
    lambda **o: NKD(**o),
    lambda **o: DIST(**o),
    lambda **o: MLKD(**o),
    lambda **o: HardLabel(threshold=o.get("min_confidence", 0.0)),
]


def logits(seed: int, scale: float = 1.0, classes: int = 4) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    return (torch.randn(len(Y), classes, generator=draws) * scale).requires_grad_()


@pytest.mark.parametrize("make", [CrossEntropy, lambda: CrossEntropy(label_smoothing=0.1), VirtualTeacher,
                                  lambda: CrossEntropy(over="own")])  # fmt: skip
def test_losses_of_labels_alone_are_those_of_the_labelled_rows(make, one_sided):
    z = logits(0)
    value = one_sided(make(), z, Y)
    (gradient,) = torch.autograd.grad(value.mean(), z)
    few = z.detach()[KNOWN].requires_grad_()
    expected = one_sided(make(), few, Y[KNOWN]).mean()
    (plain,) = torch.autograd.grad(expected, few)
    torch.testing.assert_close(value.mean(), expected)
    torch.testing.assert_close(gradient[KNOWN], plain)
    assert not gradient[~KNOWN].any()


@pytest.mark.parametrize("make", [CrossEntropy, lambda: CrossEntropy(over="own", label_smoothing=0.1), VirtualTeacher])
def test_without_any_label_they_are_0_with_a_gradient_of_0(make, one_sided):
    z = logits(0)
    value = one_sided(make(), z, NOBODY)
    (gradient,) = torch.autograd.grad(value.mean(), z)
    assert torch.equal(value, torch.zeros(len(Y)))
    assert torch.equal(gradient, torch.zeros_like(z))


@pytest.mark.parametrize("make", [DKD, NKD])
def test_labelled_distillation_skips_them_too(make, worth):
    z, v = logits(0), logits(1)
    value = worth(make(), z, v, Y)
    expected = worth(make(), z[KNOWN], v[KNOWN], Y[KNOWN])
    torch.testing.assert_close(value.mean(), expected.mean())
    nothing = worth(make(), z, v, NOBODY)
    assert torch.equal(nothing, torch.zeros(len(Y)))
    assert not torch.autograd.grad(nothing.mean(), z)[0].any()


@pytest.mark.parametrize("make", [KD, DIST, MLKD, HardLabel])
def test_other_distillation_does_not_look_at_labels_at_all(make, worth):
    z, v = logits(0), logits(1)
    assert torch.equal(worth(make(), z, v, Y), worth(make(), z, v, torch.arange(8) % 4))


@pytest.mark.parametrize("make", [KD, MLKD, HardLabel])
def test_rows_unlabelled_are_only_those(make, worth):
    z, v = logits(0), logits(1)
    value = worth(make(rows="unlabelled"), z, v, Y).mean()
    torch.testing.assert_close(value, worth(make(), z[~KNOWN], v[~KNOWN], Y[~KNOWN]).mean())
    labelled = worth(make(rows="unlabelled"), z, v, torch.arange(8) % 4)
    assert torch.equal(labelled, torch.zeros(len(Y)))


def test_valid_rows_are_those_of_a_class_that_the_teacher_knows_so_never_unlabelled_ones(worth):
    z, v = logits(0), logits(1)
    valid = torch.isin(Y, torch.arange(4))
    value = worth(KD(rows="valid"), z, v, Y, valid=valid).mean()
    torch.testing.assert_close(value, worth(KD(), z[KNOWN], v[KNOWN], Y[KNOWN]).mean())


def test_to_crd_an_unlabelled_row_is_of_no_class():
    """All other rows are its negatives; and it is nobody's own class."""
    s, t = (F.normalize(torch.randn(4, 5, generator=torch.Generator().manual_seed(seed)), dim=1) for seed in (0, 1))
    i, y = torch.arange(4), torch.tensor([1, 1, -1, -1])
    value = contrast(s, t, i, i, y, y, 0.5, apart=True)
    cosine = s @ t.T / 0.5
    kept = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]], dtype=torch.bool)
    torch.testing.assert_close(value, cosine.masked_fill(~kept, -torch.inf).logsumexp(1) - cosine.diagonal())


@pytest.mark.parametrize("make", GATED)
def test_a_gate_lets_confident_rows_pass_and_the_mean_stays_over_all(make, worth):
    """Rows that do not pass count 0; what relates rows to each other is made of those that pass."""
    z, v, y = logits(0, 2.0), logits(1, 2.0), torch.arange(8) % 4
    sure = v.softmax(1).amax(1) >= 0.7
    assert 2 <= int(sure.sum()) <= 6
    value = worth(make(min_confidence=0.7), z, v, y)
    assert torch.equal(value[~sure], torch.zeros(int((~sure).sum())))
    few = worth(make(), z[sure], v[sure], y[sure])
    expected = few.sum() / len(y)
    if isinstance(make(), MLKD):  # between rows it is a mean over the batch's size, here and there
        return
    torch.testing.assert_close(value.mean(), expected)
    (gradient,) = torch.autograd.grad(value.mean(), z)
    assert not gradient[~sure].any()
    assert gradient[sure].any(1).all()


@pytest.mark.parametrize("make", GATED)
def test_a_gate_of_0_changes_no_bit_and_one_that_nobody_passes_gives_0(make, worth):
    z, v, y = logits(0), logits(1), torch.arange(8) % 4
    assert torch.equal(worth(make(min_confidence=0.0), z, v, y), worth(make(), z, v, y))
    none = worth(make(min_confidence=0.999), z, v, y)
    assert torch.equal(none, torch.zeros(8))
    assert not torch.autograd.grad(none.mean(), z)[0].any()


def test_a_gate_looks_at_the_columns_that_both_sides_know(worth):
    """The teacher is sure of a class that the student has not, which is no confidence among the others."""
    v = torch.tensor([[0.0, 0.0, 9.0], [5.0, 0.0, 9.0]])
    value = worth(KD(min_confidence=0.9), torch.ones(2, 2) * torch.tensor([1.0, 0.0]), v, [0, 0])
    assert (value > 0).tolist() == [False, True]
    known = torch.tensor([[True, True], [True, False]])
    value = worth(KD(min_confidence=0.9), torch.randn(2, 2), torch.zeros(2, 2), [0, 0], known=known)
    assert value[0] == 0


def test_the_threshold_of_hard_labels_is_fixmatchs(worth):
    """Sohn et al. 2020, eq. 4: over all unlabelled rows, and not those that pass."""
    z, v = logits(0), logits(1, 3.0)
    value = worth(HardLabel(threshold=0.95, rows="unlabelled"), z, v, Y).mean()
    q = v[~KNOWN].softmax(1)
    expected = ((q.max(1).values >= 0.95) * F.cross_entropy(z[~KNOWN], q.argmax(1), reduction="none")).mean()
    torch.testing.assert_close(value, expected)


def test_a_decision_that_stands_for_a_label_is_one_of_the_rows_own_task():
    """Two tasks, of classes 0 and 1 and of 2 and 3; by itself, `hard` speaks of both, as all distillation does."""
    z, v, own = logits(0), logits(1, 3.0).detach(), torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]).bool().repeat(4, 1)
    side, ids = Spec((0, 1, 2, 3), (0, 0, 1, 1), task_aware=True), torch.arange(4)

    def value(loss, v):
        loss.bind(side, side)
        batch = Batch(Y, Y, Y, Y, Y, new=len(Y))
        return loss(batch, Signals(z, ids, competes=own), Signals(v, ids)).mean()

    q, p = (x[own].reshape(8, 2)[~KNOWN].log_softmax(1) for x in (v, z))
    rows = (q.max(1).values.exp() >= 0.7) * -p.gather(1, q.argmax(1, keepdim=True)).squeeze(1)
    found = value(HardLabel(0.7, rows="unlabelled"), v)
    torch.testing.assert_close(found, rows.mean())
    other = v + (50 * logits(2).detach()).where(~own, 0.0)
    assert torch.equal(found, value(HardLabel(0.7, rows="unlabelled"), other))
    (gradient,) = torch.autograd.grad(found, z)
    assert gradient[~KNOWN].any()
    assert not gradient[~own].any()
    assert not torch.equal(value(HardLabel(), v), value(HardLabel(), other))


@pytest.mark.parametrize("name", ["kd", "dkd", "nkd", "dist", "mlkd"])
def test_every_loss_of_logits_has_the_option(name):
    registry = load_plugins().registry
    assert registry.build(registry.parse("losses", {"kind": name, "min_confidence": 0.9})).min_confidence == 0.9
    with pytest.raises((UserError, ValueError), match="less than 1"):
        registry.parse("losses", {"kind": name, "min_confidence": 1.0})


@pytest.mark.parametrize(("new", "replayed"), [(12, 0), (12, 8)])
@pytest.mark.parametrize("make", [
    *(partial(CrossEntropy, over) for over in ("auto", "all", "seen", "new", "old", "own")),
    *(partial(each, over=over) for each in (BinaryCrossEntropy, NCA) for over in ("auto", "all", "seen", "new")),
    MarginRanking, partial(MarginRanking, top=1), LogitMargin, VirtualTeacher,
    DKD, partial(KD, rows="unlabelled"), KD,
])  # fmt: skip
def test_processes_that_share_a_batch_weigh_by_the_labels_that_each_has(make, new, replayed):
    """The mean over two processes' values is the value of the whole batch, however labels are spread."""
    n = new + replayed
    draws = torch.Generator().manual_seed(2)
    y = torch.where(torch.rand(n, generator=draws) < 0.4, torch.arange(n) % 4, -1)
    y[0:new:2] = -1  # those of the first process
    i, z, v = torch.arange(n), torch.randn(n, 4, generator=draws), torch.randn(n, 4, generator=draws)
    whole, side = Batch(i, y, i, i, i, new=new), Spec(tuple(range(4)), (0, 0, 1, 1))
    loss = make()
    term = Term("t", loss, (Side("student"), Side("other"))[: loss.sides])
    term.bind(lambda side_: side)
    values = []
    for rank in range(2):
        ranks = Ranks(rank, 2)
        batch = ranks.share(whole)
        assert len(batch) < n
        said = {name: Signals(x[batch.sample_id], torch.arange(4)) for name, x in (("student", z), ("other", v))}
        values.append(ranks.part(term(batch, said, None), *term.counts(batch, whole)))
    said = {name: Signals(x, torch.arange(4)) for name, x in (("student", z), ("other", v))}
    torch.testing.assert_close(torch.stack(values).mean(), term(whole, said, None))
