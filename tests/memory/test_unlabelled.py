"""No memory keeps rows without a label, unless it says so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from clkd.memory.base import Memory
from clkd.plugins import load_plugins
from clkd.signals import Batch, Signals
from clkd.testing import material

REGISTRY = load_plugins().registry
KEEPING = [name for name in REGISTRY.names("memories") if name not in ("none", "generator")]  # which keep rows


def lived(raw, nameless):
    memory, said = REGISTRY.build(REGISTRY.parse("memories", raw), seed=0), None
    for each in material.experiences():
        rows = each.train
        each = replace(each, train=replace(rows, y=torch.where(nameless(rows.sample_id), -1, rows.y)))
        for at in torch.split(torch.arange(len(rows)), 7):
            batch = each.train.gather(at, torch.device("cpu"))
            batch = replace(batch, labelled=(batch.y >= 0).nonzero().squeeze(1))
            logits, features = torch.randn(len(at), 2), {"penultimate": torch.randn(len(at), material.WIDTH)}
            said = Signals(logits, torch.tensor(each.classes[:2]), features)
            memory.observe(*memory.eligible(batch, said))
        memory.end(each, material.student())
    return memory


@pytest.mark.parametrize("name", KEEPING)
def test_rows_without_a_label_are_left_out(name):
    memory = lived({"kind": name, "size": 1000}, lambda sample_id: sample_id % 3 == 0)
    assert len(memory)
    assert -1 not in memory.histogram()


@pytest.mark.parametrize("name", KEEPING)
def test_a_stream_without_any_label_leaves_it_empty(name):
    assert not len(lived({"kind": name, "size": 10}, lambda sample_id: sample_id >= 0))


def test_a_reservoir_keeps_them_that_says_so():
    memory = lived({"kind": "reservoir", "size": 1000, "unlabelled": True}, lambda sample_id: sample_id % 3 == 0)
    assert memory.histogram()[-1]


def test_what_comes_behind_the_new_rows_stays():
    i = torch.arange(5)
    batch = Batch(x=i, y=torch.tensor([1, -1, 0, 1, 0]), sample_id=i, domain=i, experience=i, new=3,
                  extra={"k": torch.tensor([7, 8])}, labelled=torch.tensor([0, 2]))  # fmt: skip
    kept, said = Memory().eligible(batch.rows(0, 5), Signals(i[:, None].float(), torch.arange(1)))
    assert (kept.sample_id.tolist(), kept.new, kept.extra["k"].tolist()) == ([0, 2, 3, 4], 2, [7, 8])
    assert said.logits.flatten().tolist() == [0, 2, 3, 4]
