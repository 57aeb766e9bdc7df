"""Stored logits that are rewritten (X-DER): against a plain loop in NumPy, and what may never change."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch

from clkd.memory.base import Memory
from clkd.memory.offered import Offered
from clkd.memory.rewriting import held_below, rewritten
from clkd.models.backbones.mlp import MLP
from clkd.models.heads import Fixed, Head, Linear
from clkd.models.prototypes import NearestMean
from clkd.models.student import Student
from clkd.plugins import load_plugins
from clkd.signals import Batch, Needs
from clkd.testing import material
from clkd.testing.contract import check
from clkd.testing.memory_laws import MEMORY_LAWS

REGISTRY = load_plugins().registry
NAMES = tuple("abcdef")
GAMMA = 0.85
OFFERED = ("reservoir", "ring", "loss_aware", "gss")


def memory_of(kind: str = "reservoir", size: int = 25) -> Offered:
    raw = {"kind": kind, "size": size, "store": ["logits"], "rewrite": GAMMA}
    made = REGISTRY.build(REGISTRY.parse("memories", raw), seed=0, class_names=NAMES)
    assert isinstance(made, Offered)
    return made


def net(head: Head) -> Student:
    torch.manual_seed(0)
    made = Student(MLP(material.SHAPE, hidden=(material.WIDTH,), dropout=0.5), head, material.SHAPE)
    made.request((material.TAP,))
    return made


def life(memory: Memory, head: Head) -> Iterator[tuple[int, Student, dict[int, tuple[int, np.ndarray]]]]:
    """Shows the memory a stream, whose student changes all the time; before each end, what is kept by sample id."""
    student = net(head)
    for experience in material.experiences():
        student.grow(experience.classes, experience.index, torch.Generator().manual_seed(experience.index))
        student.train()
        for at in torch.arange(len(experience.train)).split(7):
            batch = experience.train.gather(at, torch.device("cpu"))
            x = memory.plain(batch.x)
            memory.observe(batch, student.signals(x, Needs(features=(material.TAP,))))
        with torch.no_grad():
            for weight in student.parameters():
                weight.mul_(1.5).add_(torch.randn(weight.shape))
        before = kept(memory)
        state = [p.clone() for p in student.state_dict().values()]
        memory.end(experience, student)
        assert student.training, "it is left as it was"
        assert all(map(torch.equal, state, student.state_dict().values()))
        yield experience.index, student, before


def kept(memory: Memory) -> dict[int, tuple[int, np.ndarray]]:
    rows = memory.sample(len(memory), torch.Generator())
    assert rows is not None
    ids = zip(rows.sample_id.tolist(), rows.y.tolist(), rows.extra["logits"].double().numpy(), strict=True)
    return {row: (y, logits) for row, y, logits in ids}


def by_hand(old: np.ndarray, said: np.ndarray, y: int, arrived: int, now: int, born: dict[int, int]) -> np.ndarray:
    """X-DER's update for one row, as one would write it."""
    if arrived == now:
        out, columns = said.copy(), [c for c, b in born.items() if 0 <= b < now]
    else:
        out, columns = old.copy(), [c for c, b in born.items() if b < 0 or b == now]
    if columns:
        own, top = out[y], max(said[c] for c in columns)
        for c in columns:
            if own > 0:
                out[c] = said[c] * (min(GAMMA * own / top, 1) if top > 0 else 1)
            else:
                out[c] = said[c] - max(top - own, 0)
    return out


@pytest.mark.parametrize("kind", OFFERED)
@pytest.mark.parametrize("head", [Fixed, Linear, NearestMean])
def test_it_is_the_plain_loop(kind: str, head: type[Fixed | Linear | NearestMean]) -> None:
    memory = memory_of(kind)
    made = Fixed(material.WIDTH, NAMES) if issubclass(head, Fixed) else head(material.WIDTH)
    lowered = 0
    for now, student, before in life(memory, made):
        born = dict(zip(student.class_ids, student.born, strict=True))
        student.eval()
        student.head.answers = False  # what the head may have gathered is not what is compared
        for row, (y, logits) in kept(memory).items():
            said = np.zeros(len(NAMES))
            x = memory.plain(material.pixels()[row : row + 1])
            said[list(student.class_ids)] = student(x).detach().double().numpy()[0]
            arrived = row // material.ROWS
            expected = by_hand(before[row][1], said, y, arrived, now, born)
            np.testing.assert_allclose(logits, expected, atol=1e-3, rtol=1e-5)
            if arrived < now:
                mine = [c for c, b in born.items() if 0 <= b < now]
                assert (logits[mine] == before[row][1][mine]).all(), "what it said of its own time stays, bit for bit"
                others = max(logits[c] for c, b in born.items() if b < 0 or b == now)
                assert others <= max(GAMMA * logits[y], logits[y] if logits[y] <= 0 else 0) + 1e-3
                lowered += bool((np.abs(logits - said)[[c for c, b in born.items() if b == now]] > 1e-3).all())
        student.train()
        if isinstance(student.head, NearestMean):
            student.head.gather([(torch.ones(1, material.WIDTH), torch.tensor(student.class_ids[-1:]))])
    assert lowered > 5, "some were lowered"


def test_held_below_never_exceeds_the_own_logit() -> None:
    draws = torch.Generator().manual_seed(0)
    logits, own = (3 * torch.randn(500, n, generator=draws, dtype=torch.float64) for n in (6, 1))
    part = torch.rand(500, 6, generator=draws) < 0.5
    part[:, 0] = True
    found = held_below(logits, part, own, GAMMA)
    top = found.masked_fill(~part, -torch.inf).amax(1, keepdim=True)
    assert bool((top <= torch.where(own > 0, GAMMA * own, own) + 1e-12).all())
    order = logits.masked_fill(~part, -torch.inf).argsort(1)
    assert torch.equal(order, found.masked_fill(~part, -torch.inf).argsort(1)), "their order stays"
    low = own > logits.amax(1, keepdim=True) / GAMMA
    assert torch.equal(found[low[:, 0]], logits[low[:, 0]]), "what is below stays"


def test_rows_without_a_label_stay() -> None:
    kept, said, yes = torch.randn(2, 3), torch.randn(2, 3), torch.ones(3, dtype=torch.bool)
    for arrived in (True, False):
        found = rewritten(kept, said, torch.tensor([-1, -1]), torch.tensor([arrived] * 2), yes, yes, GAMMA)
        assert torch.equal(found, kept)


def test_the_row_is_shown_in_its_stored_view() -> None:
    memory, asked = memory_of(), []

    def fixed(rows: Batch, number: torch.Tensor) -> Batch:
        asked.append((rows.sample_id.clone(), number.clone()))
        return rows.seen_as(memory.plain(rows.x), number)

    memory.fixed = fixed
    student = net(Linear(material.WIDTH))
    experience = next(material.experiences())
    student.grow(experience.classes, 0, torch.Generator())
    batch = experience.train.gather(torch.arange(20), torch.device("cpu"))
    x = memory.plain(batch.x)
    memory.observe(batch.seen_as(x, batch.sample_id % 3), student.signals(x, Needs()))
    memory.end(experience, student)
    ((ids, views),) = asked
    assert torch.equal(views, ids % 3)


@pytest.mark.parametrize("kind", OFFERED)
def test_it_keeps_the_other_laws(kind: str) -> None:
    laws = {name: partial(law, size=25) for name, law in MEMORY_LAWS.items() if name != "remembered"}
    check(lambda: memory_of(kind), laws)


def test_it_needs_logits_and_boundaries() -> None:
    with pytest.raises(ValueError, match=r"rewrite is about stored logits: add store: \[logits\]"):
        REGISTRY.parse("memories", {"kind": "reservoir", "rewrite": 0.5})
    assert memory_of().needs_boundaries
    assert not REGISTRY.build(REGISTRY.parse("memories", {"kind": "ring"}), seed=0).needs_boundaries
