"""GSS-Greedy against its algorithm in plain Python, with gradients that autograd makes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clkd.memory.gss import GSS, likeness
from clkd.seeding import generator
from clkd.signals import Batch, Signals

CLASS_IDS = torch.tensor([2, 0, 1])


def rows(ids: Tensor) -> Batch:
    x, y, none = ids[:, None].to(torch.uint8), CLASS_IDS[ids % 3], ids * 0
    return Batch(x=x, y=y, sample_id=ids, domain=none, experience=none, new=len(ids))


def head(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(4, 3)


def features(batch: Batch) -> Tensor:
    """Each row its own."""
    return (batch.sample_id[:, None] * torch.arange(1.0, 5.0)).sin()


def gradients(layer: nn.Linear, batch: Batch) -> Tensor:
    """`[B, 15]` of each row's cross-entropy, one backward pass a row."""
    found = []
    for feature, y in zip(features(batch), batch.y.tolist(), strict=True):
        loss = F.cross_entropy(layer(feature)[None], (y == CLASS_IDS).nonzero().squeeze(1))
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(layer.parameters()))]))
    return torch.stack(found).double()


def test_the_closed_form_is_the_cosine_of_the_gradients():
    layer, batch = head(0), rows(torch.arange(20))
    said = Signals(layer(features(batch)), CLASS_IDS, {"penultimate": features(batch)})
    g = F.normalize(gradients(layer, batch), dim=1)
    torch.testing.assert_close(likeness(said, batch.y).double(), g @ g.T, atol=1e-5, rtol=0)


class Plain:
    """Algorithm 2, a row at a time; rows of a batch meet different kept rows."""

    def __init__(self, size: int) -> None:
        self.size, self.rows, self.score, self.replaced = size, [], [], 0
        self.draws = generator(0, "memory", "gss")

    def offer(self, ids: list[int], new: Tensor, old: Tensor) -> None:
        c = [1 + (max(F.cosine_similarity(g[None], old)).item() if len(old) else 0.1) for g in new]
        for start in range(0, len(ids), self.size):
            piece = list(range(start, min(start + self.size, len(ids))))
            while piece and len(self.rows) < self.size:
                i = piece.pop(0)
                self.rows.append(ids[i])
                self.score.append(c[i])
            if piece:
                drawn = torch.rand(self.size + len(piece), generator=self.draws).double()
                keys = [float(u) ** (1 / w) if w > 0 else -1.0 for u, w in zip(drawn, self.score, strict=False)]
                met = sorted(range(self.size), key=lambda slot: -keys[slot])
                for i, slot, r in zip(piece, met, drawn[self.size :].tolist(), strict=False):
                    if c[i] < 1 and r < self.score[slot] / (self.score[slot] + c[i]):
                        self.rows[slot], self.score[slot] = ids[i], c[i]
                        self.replaced += 1


@pytest.mark.parametrize("size", [3, 12, 40])
def test_it_is_the_algorithm(size):
    memory, plain, draws = GSS(size), Plain(size), torch.Generator().manual_seed(1)
    for step, start in enumerate(range(0, 160, 8)):
        layer = head(step)
        batch = rows(torch.arange(start, start + 8)).joined(memory.sample(2, draws))
        memory.observe(batch, Signals(layer(features(batch)), CLASS_IDS, {"penultimate": features(batch)}))
        g = gradients(layer, batch)
        plain.offer(batch.sample_id[:8].tolist(), g[:8], g[8:])
        assert memory.table.columns["sample_id"][: len(memory)].tolist() == plain.rows
        scores = memory.table.columns["extra.score"][: len(memory)].tolist()
        assert scores == pytest.approx(plain.score, abs=1e-5)
    assert plain.replaced >= 3


def test_a_row_like_those_that_are_kept_changes_nothing():
    memory, layer, same = GSS(4), head(0), rows(torch.arange(4))
    said = Signals(layer(features(same)), CLASS_IDS, {"penultimate": features(same)})
    memory.observe(same, said)
    before = memory.state_dict()["table"]
    again = same.joined(memory.sample(4, torch.Generator()))
    for _ in range(20):
        memory.observe(again, Signals(layer(features(again)), CLASS_IDS, {"penultimate": features(again)}))
    assert all(torch.equal(column, before[name]) for name, column in memory.state_dict()["table"].items())
