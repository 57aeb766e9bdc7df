"""CRD: its value against a reference, who is a negative, and the queue."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from clkd.losses.crd import CRD
from clkd.losses.embedding_queue import EMPTY, EmbeddingQueue
from clkd.schedules.base import Progress
from clkd.signals import Batch, Signals, Spec

SEEDS = (0, 1, 2)
Y = [0, 1, 1, 2, -1, -1]


def rows(width: int, seed: int, count: int = 6) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def batch(ids: list[int], y: list[int]) -> Batch:
    i = torch.tensor(ids)
    return Batch(x=i, y=torch.tensor(y), sample_id=i, domain=i, experience=i, new=len(i))


def said(features: torch.Tensor) -> Signals:
    return Signals(None, torch.arange(2), {"penultimate": features})


def side(width: int) -> Spec:
    return Spec((0, 1), (0, 0), shapes={"penultimate": (width,)})


def bound(**options) -> CRD:
    loss = CRD(**{"dim": 4, "queue": 8, "temperature": 0.5, **options})
    loss.bind(side(3), side(5))
    return loss


def embedded(loss: CRD, place: int, x: torch.Tensor) -> np.ndarray:
    layer = loss.embeddings[place]
    made = x.numpy() @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("negatives", ["other_classes", "all"])
def test_value_is_cross_entropy_among_own_and_other_rows(seed, negatives):
    """Two steps: the first one's rows are the second one's queue. Ids 3 and 5 come again; one comes twice at once."""
    loss = bound(negatives=negatives, seed=seed)
    first, second = batch([0, 1, 2, 3, 4, 5], Y), batch([3, 5, 7, 8, 8, 9], [2, -1, 1, 0, 0, -1])
    loss(first, said(rows(3, seed)), said(rows(5, seed + 1)))
    loss.after_step(None)
    f, g = rows(3, seed + 2), rows(5, seed + 3)
    found = loss(second, said(f), said(g)).detach().numpy()
    s, t = embedded(loss, 0, f), embedded(loss, 1, g)
    known = [(i, y, key) for i, y, key in zip(first.sample_id, Y, embedded(loss, 1, rows(5, seed + 1)), strict=True)]
    known += [(i, y, key) for i, y, key in zip(second.sample_id, second.y, t, strict=True)]
    expected = []
    for i, own in enumerate(second.sample_id):
        label = int(second.y[i])
        others = [
            key
            for other, y, key in known
            if other != own and not (negatives == "other_classes" and label >= 0 and int(y) == label)
        ]
        right, *wrong = (math.exp(s[i] @ key / 0.5) for key in (t[i], *others))
        expected.append(-math.log(right / (right + sum(wrong))))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_first_batch_needs_nothing_prepared_and_one_row_alone_has_nothing_to_tell():
    """torchdistill's CRDLoss fails on `self.prob` where no indices were drawn for it; here there are none to draw."""
    loss = bound()
    f = rows(3, 0, 1).requires_grad_()
    found = loss(batch([0], [0]), said(f), said(rows(5, 1, 1)))
    found.mean().backward()
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(f.grad).all()


def test_gradients_reach_the_student_and_both_embeddings_and_not_the_teacher():
    loss = bound()
    f, g = rows(3, 0).requires_grad_(), rows(5, 1).requires_grad_()
    loss(batch([0, 1, 2, 3, 4, 5], Y), said(f), said(g)).mean().backward()
    assert f.grad.any()
    assert g.grad is None
    assert all(p.grad.any() for p in loss.parameters())


def test_a_step_that_did_not_happen_leaves_no_trace_in_the_queue():
    loss = bound()
    loss(batch([0, 1, 2, 3, 4, 5], Y), said(rows(3, 0)), said(rows(5, 1)))
    assert (loss.queue.sample_id == EMPTY).all()
    loss.after_step(None)
    assert loss.queue.sample_id.tolist() == [0, 1, 2, 3, 4, 5, EMPTY, EMPTY]
    loss.after_step(None)
    assert loss.queue.sample_id.tolist() == [0, 1, 2, 3, 4, 5, EMPTY, EMPTY]
    assert not loss.queue.keys.requires_grad


def test_the_queue_is_a_ring_and_keeps_the_latest():
    queue = EmbeddingQueue(5, 1)
    latest: list[int] = []
    for start, count in ((0, 2), (2, 4), (6, 9), (15, 1), (16, 5), (21, 0), (21, 3)):
        ids = torch.arange(start, start + count)
        queue.push(ids[:, None].float(), ids, ids % 3)
        latest = (latest + ids.tolist())[-5:]
        assert sorted(queue.sample_id[queue.sample_id >= 0].tolist()) == latest
        there = queue.sample_id >= 0
        assert torch.equal(queue.keys[there, 0].long(), queue.sample_id[there])
        assert torch.equal(queue.label[there], queue.sample_id[there] % 3)


def test_without_a_queue_the_batch_is_all_there_is():
    loss = bound(queue=0)
    for _ in range(2):
        assert loss(batch([0, 1, 2, 3, 4, 5], Y), said(rows(3, 0)), said(rows(5, 1))).shape == (6,)
        loss.after_step(None)


def test_the_queue_travels_with_the_state():
    loss, other = bound(), bound(seed=1)
    steps = [(batch(list(range(k, k + 6)), Y), said(rows(3, k)), said(rows(5, k + 1))) for k in (0, 6, 12)]
    for step in steps[:2]:
        loss(*step)
        loss.after_step(None)
    other.load_state_dict(loss.state_dict())
    for each in (loss, other):
        each(*steps[2])
        each.after_step(None)
    last = batch([40, 41, 42, 43, 44, 45], Y), said(rows(3, 40)), said(rows(5, 41))
    assert torch.equal(loss(*last), other(*last))
    assert loss.queue.next == other.queue.next == 2
    assert loss.queue.keys.data_ptr() != other.queue.keys.data_ptr()


def test_rows_that_a_memory_made_up_are_rows():
    """They have no number, and are all different; a place of the queue that is empty is none."""
    f, g = rows(3, 0), rows(5, 1)
    numbered, nameless = (bound(seed=0)(batch(ids, Y), said(f), said(g)) for ids in ([0, 1, 2, 3, 4, 5], [-1] * 6))
    torch.testing.assert_close(nameless, numbered)
    loss = bound(seed=0)
    loss(batch([-1] * 6, Y), said(f), said(g))
    loss.after_step(None)
    assert loss.queue.sample_id.tolist() == [-1] * 6 + [EMPTY] * 2
    again = EmbeddingQueue(8, 4)
    again.load({**loss.queue.state(), "sample_id": torch.full((8,), -1)})  # as earlier versions saved it
    assert again.sample_id.tolist() == loss.queue.sample_id.tolist()


def test_a_vector_and_a_map_can_be_contrasted():
    loss = CRD(dim=4)
    a = Spec((0,), (0,), feature="stage1", shape=(3, 2, 5))
    loss.bind(a, Spec((0,), (0,), shapes={"penultimate": (5,)}))
    f = rows(30, 0).reshape(6, 3, 2, 5)
    with_map = loss(batch(list(range(6)), Y), Signals(None, torch.arange(1), {"stage1": f}), said(rows(5, 1)))
    with_means = loss(
        batch(list(range(6)), Y), Signals(None, torch.arange(1), {"stage1": f.mean((2, 3))}), said(rows(5, 1))
    )
    torch.testing.assert_close(with_map, with_means)


@pytest.mark.parametrize(
    ("size", "kept"), [(8, [4, 5, 6, 7, 8, 9]), (4, [6, 7, 8, 9]), (0, []), (6, [4, 5, 6, 7, 8, 9])]
)
def test_a_queue_of_another_size_takes_the_latest(size, kept):
    """As a fork's does, whose option counts."""
    old, new = bound(queue=6), bound(queue=size)
    for ids in ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9]):
        old(batch(ids, [0] * 5), said(rows(3, ids[0], 5)), said(rows(5, ids[0] + 1, 5)))
        old.after_step(None)
    new.load_state_dict(old.state_dict())
    queue, before = new.queue, dict(zip(old.queue.sample_id.tolist(), old.queue.keys, strict=True))
    assert len(queue.keys) == len(queue.sample_id) == len(queue.label) == size
    assert sorted(each for each in queue.sample_id.tolist() if each != EMPTY) == kept
    for row, key in zip(queue.sample_id.tolist(), queue.keys, strict=True):
        assert row == EMPTY or torch.equal(key, before[row])
    queue.push(torch.ones(1, 4), torch.tensor([10]), torch.tensor([0]))
    assert (10 in queue.sample_id) == bool(size)
    assert 4 not in queue.sample_id or size == 8, "the oldest makes way"


def test_a_step_that_was_skipped_leaves_nothing_in_the_queue():
    """Nor does the next one find it, that has no rows for this loss."""
    loss = bound()
    loss.progress = Progress(step=3)
    loss(batch([0, 1], [0, 1]), said(rows(3, 0, 2)), said(rows(5, 1, 2)))
    loss.progress.step = 4
    loss.after_step(None)
    loss.progress.step = 3
    loss.after_step(None)
    assert (loss.queue.sample_id == EMPTY).all()
    loss(batch([0, 1], [0, 1]), said(rows(3, 0, 2)), said(rows(5, 1, 2)))
    loss.after_step(None)
    assert set(loss.queue.sample_id.tolist()) == {0, 1, EMPTY}
