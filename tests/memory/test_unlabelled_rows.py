"""No memory keeps rows without a label, unless it says so."""

from __future__ import annotations

import torch

from clkd.experience import Experience, Rows
from clkd.memory.balanced import Balanced
from clkd.memory.base import Memory
from clkd.plugins import load_plugins
from clkd.signals import Batch, Signals


def offered(memory: Memory, y: torch.Tensor) -> None:
    """Half of an experience's rows replayed behind the other, as a memory that compares sees them."""
    n = len(y)
    i = torch.arange(n)
    batch = Batch(x=torch.randn(n, 3), y=y, sample_id=i, domain=i * 0, experience=i * 0, new=n,
                  labelled=(y >= 0).nonzero().squeeze(1))  # fmt: skip
    said = Signals(torch.randn(n, 2), torch.arange(2), {"penultimate": torch.randn(n, 3)})
    memory.observe(*memory.eligible(batch, said))


def test_eligible_leaves_out_new_rows_without_a_label_and_keeps_those_behind_them() -> None:
    i = torch.arange(5)
    batch = Batch(x=i, y=torch.tensor([1, -1, 0, 1, 0]), sample_id=i, domain=i, experience=i, new=3,
                  extra={"k": torch.tensor([7, 8])}, labelled=torch.tensor([0, 2]))  # fmt: skip
    kept, said = Memory().eligible(batch.rows(0, 5), Signals(i[:, None].float(), torch.arange(1)))
    assert (kept.sample_id.tolist(), kept.new, kept.extra["k"].tolist()) == ([0, 2, 3, 4], 2, [7, 8])
    assert said.logits is not None
    assert said.logits.flatten().tolist() == [0, 2, 3, 4]


def test_every_memory_that_takes_rows_while_they_are_new() -> None:
    registry = load_plugins().registry
    y = torch.tensor([0, -1, 1, -1, 0, 1, -1, 0])
    tried = 0
    for name in registry.names("memories"):
        memory = registry.build(
            registry.parse("memories", {"kind": name} | ({} if name == "none" else {"size": 20})),
            seed=0, device="cpu", class_names=("a", "b"), context=None, student=None,
        )  # fmt: skip
        if isinstance(memory, Balanced) or name == "none":
            continue
        offered(memory, y)
        tried += 1
        assert memory.histogram().keys() <= {0, 1}, name
        assert len(memory) == 5, name
    assert tried >= 4


def test_every_memory_that_is_filled_at_an_experiences_end() -> None:
    registry = load_plugins().registry
    y = torch.tensor([0, -1, 1, -1, 0, 1, -1, 0])
    rows = Rows(torch.randn(8, 3), y, torch.arange(8), torch.arange(8))
    experience = Experience(
        index=0, classes=(0, 1), seen=(0, 1), train=rows, validation=rows, test=rows, name="0", count=1
    )
    for name in ("random", "class_balanced", "experience_balanced"):
        memory = registry.build(
            registry.parse("memories", {"kind": name, "size": 20}), seed=0, device="cpu", context=None
        )
        memory.end(experience, None)
        assert memory.histogram() == {0: 3, 1: 2}, name
