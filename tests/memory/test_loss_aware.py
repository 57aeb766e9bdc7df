"""A loss-aware reservoir against the same rule in plain Python, row by row."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from clkd.memory.loss_aware import LossAware, drawn_by, expendable, row_losses
from clkd.seeding import generator
from clkd.signals import Batch, Signals

CLASS_IDS = torch.tensor([4, 0, 2])


def rows(ids: torch.Tensor) -> Batch:
    x, y, none = ids[:, None].to(torch.uint8), CLASS_IDS[ids % 3], ids * 0
    return Batch(x=x, y=y, sample_id=ids, domain=none, experience=none, new=len(ids))


class Plain:
    """Rows and their losses in lists."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seen, self.rows, self.loss = size, 0, [], []
        self.draws = generator(seed, "memory", "loss_aware")

    def learn(self, replayed: list[int], losses: list[float]) -> None:
        fresh: dict[int, float] = {}
        for row, loss in zip(replayed, losses, strict=True):
            fresh[row] = max(loss, fresh.get(row, -math.inf))
        for row, loss in fresh.items():
            self.loss[self.rows.index(row)] = loss

    def offer(self, ids: list[int], losses: list[float]) -> None:
        drawn = torch.rand(len(ids), generator=self.draws, dtype=torch.float64).tolist()
        entering = [i for i, u in enumerate(drawn) if u * (self.seen + i + 1) < self.size]
        self.seen += len(ids)
        for start in range(0, len(entering), self.size):
            piece = entering[start : start + self.size]
            while piece and len(self.rows) < self.size:
                i = piece.pop(0)
                self.rows.append(ids[i])
                self.loss.append(losses[i])
            if piece:
                for i, slot in zip(piece, self.leaving(len(piece)), strict=True):
                    self.rows[slot], self.loss[slot] = ids[i], losses[i]

    def leaving(self, n: int) -> list[int]:
        uniform = torch.rand(self.size, generator=self.draws).tolist()
        low, high = min(self.loss), max(self.loss)
        weight = [(high - loss) / (high - low) if high > low else 1.0 for loss in self.loss]
        keys = [math.log(u) / w if w else -math.inf for u, w in zip(uniform, weight, strict=True)]
        return sorted(range(self.size), key=lambda i: -keys[i])[:n]


@pytest.mark.parametrize("size", [3, 10, 50])
def test_it_is_the_rule_in_plain_python(size):
    memory, plain, draws = LossAware(size, seed=1), Plain(size, seed=1), torch.Generator().manual_seed(2)
    for start in range(0, 200, 8):
        new = rows(torch.arange(start, start + 8))
        replayed = (memory.sample(4, draws), memory.sample(4, draws))
        batch = new.joined(*replayed)
        logits = torch.randn(len(batch), 3, generator=draws) * 3
        columns = [CLASS_IDS.tolist().index(y) for y in batch.y.tolist()]
        losses = F.cross_entropy(logits, torch.tensor(columns), reduction="none").tolist()
        memory.observe(batch, Signals(logits, CLASS_IDS))
        plain.learn(batch.sample_id[8:].tolist(), losses[8:])
        plain.offer(batch.sample_id[:8].tolist(), losses[:8])
        assert memory.table.columns["sample_id"][: len(memory)].tolist() == plain.rows
        kept = memory.table.columns["extra.loss"][: len(memory)].tolist()
        assert kept == pytest.approx(plain.loss, rel=1e-5, abs=1e-6)


def test_rows_get_in_as_into_a_reservoir():
    """The last of 40 rows is there in a quarter of the runs, whatever the losses are; to 5 sigma."""
    runs, found = 800, 0
    for seed in range(runs):
        memory = LossAware(10, seed=seed)
        for start in range(0, 40, 8):
            batch = rows(torch.arange(start, start + 8))
            memory.observe(batch, Signals(torch.arange(24.0).view(8, 3).cos(), CLASS_IDS))
        found += bool((memory.table.columns["sample_id"] == 39).any())
    assert abs(found - runs / 4) < 5 * (runs * 3 / 16) ** 0.5


def test_the_row_with_the_highest_loss_never_leaves():
    memory = LossAware(5)
    for start in range(0, 100, 2):
        batch = rows(torch.arange(start, start + 2))
        logits = torch.zeros(2, 3)
        logits[torch.arange(2), batch.sample_id % 3] = 1.0 + batch.sample_id.float()  # the later, the surer
        memory.observe(batch, Signals(logits, CLASS_IDS))
        assert (memory.table.columns["sample_id"] == 0).any()


def test_draws_follow_the_weights():
    """The first and the second of two draws without replacement, to 5 sigma."""
    weight, runs, draws = torch.tensor([1.0, 2.0, 5.0, 0.0]), 6000, torch.Generator().manual_seed(0)
    counts = torch.zeros(2, 4)
    for _ in range(runs):
        at = drawn_by(weight, torch.rand(4, generator=draws), 2)
        counts[torch.arange(2), at] += 1
    p = weight / weight.sum()
    second = torch.tensor([sum(float(p[i] * p[j] / (1 - p[i])) for i in range(3) if i != j) for j in range(3)] + [0.0])
    for seen, wanted in zip(counts, (p, second), strict=True):
        assert ((seen - runs * wanted).abs() <= 5 * (runs * wanted * (1 - wanted)).sqrt()).all()


def test_where_all_losses_are_alike_any_row_may_leave():
    assert expendable(torch.full((3,), 2.0)).tolist() == [1, 1, 1]


def test_losses_are_cross_entropy():
    logits, y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([4, 0, 2, -1, 9])
    found = row_losses(logits, CLASS_IDS, y)
    torch.testing.assert_close(found[:3], F.cross_entropy(logits[:3], torch.tensor([0, 1, 2]), reduction="none"))
    assert found[3:].tolist() == [0, 0]
