"""Every built-in memory keeps the laws, and every law catches a memory that breaks it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from clkd.memory.reservoir import Reservoir
from clkd.memory.table import EXTRA
from clkd.plugins import load_plugins
from clkd.testing import material
from clkd.testing.contract import check, check_memory
from clkd.testing.memory_laws import MEMORY_LAWS

REGISTRY = load_plugins().registry
SIZE = 10


SIZED = {name: "size" in REGISTRY.get("memories", name).options.model_fields for name in REGISTRY.names("memories")}


@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name in SIZED for size in ([1, SIZE, 1000] if SIZED[name] else [SIZE])]
)
def test_built_in_memories_keep_the_contract(name, size):
    raw = {"kind": name} | ({"size": size} if SIZED[name] else {})
    check_memory(lambda: REGISTRY.build(REGISTRY.parse("memories", raw), seed=0, student=material.student()), size)


FILLED = dict.fromkeys(("random", "class_balanced", "experience_balanced", "domain_balanced", "herding"), 8)
"""They store what is said when an experience ends: tests/memory/test_balanced.py."""
STORING = {"reservoir": 0, "ring": 8, "loss_aware": 4, "gss": 4, **FILLED}
"""What can store something beside rows, and the bytes that each keeps beside them anyway."""


def test_all_that_can_store_something_are_known():
    found = [
        name for name in REGISTRY.names("memories") if "store" in REGISTRY.get("memories", name).options.model_fields
    ]
    assert found == sorted(STORING)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, SIZE, 1000])
@pytest.mark.parametrize("name", STORING)
@pytest.mark.parametrize("store", [["logits"], ["penultimate"], ["logits", "penultimate"]], ids=" ".join)
def test_so_do_those_that_store_what_was_said(name, size, store):
    part = REGISTRY.parse("memories", {"kind": name, "size": size, "store": store})
    names = tuple(str(c) for c in range(7))
    laws = MEMORY_LAWS if (store, size) == (["logits"], SIZE) else {"remembered": MEMORY_LAWS["remembered"]}
    laws = {law: keeps for law, keeps in laws.items() if law != "remembered" or name not in FILLED}
    check(lambda: REGISTRY.build(part, seed=0, class_names=names), {k: partial(v, size=size) for k, v in laws.items()})
    memory = REGISTRY.build(part, seed=0, class_names=names)
    MEMORY_LAWS["bounded"](lambda: memory, size)
    rows = memory.sample(1, torch.Generator())
    assert {*store, "view"} <= rows.extra.keys()
    pixels, ids, view = 4, 4 * 8, 8
    beside = sum({"logits": 7 * 4, "penultimate": material.WIDTH * 4}[each] for each in store)
    row = pixels + ids + beside + view + STORING[name]
    assert memory.nbytes() == size * row, "what is stored beside rows is counted"


def test_a_ring_of_experiences_keeps_the_contract():
    part = REGISTRY.parse("memories", {"kind": "ring", "size": SIZE, "per": "experience"})
    check_memory(lambda: REGISTRY.build(part, seed=0), SIZE)


class NeverEmpty(Reservoir):
    def __len__(self):
        return max(super().__len__(), 1)


class TooLarge(Reservoir):
    def __init__(self):
        super().__init__(SIZE + 1)


class Floating(Reservoir):
    def sample(self, n, generator):
        rows = super().sample(n, generator)
        return rows and replace(rows, x=rows.x.float())


class Twice(Reservoir):
    def sample(self, n, generator):
        if not len(self):
            return None
        return self.table.read(torch.randint(len(self), (min(n, len(self)),), generator=generator))


class OwnDraws(Reservoir):
    def sample(self, n, generator):
        return super().sample(n, self.draws)


class Uncounted(Reservoir):
    def histogram(self):
        return {0: 1}


class HoldsTheBatch(Reservoir):
    def observe(self, batch, signals):
        super().observe(batch, signals)
        self.last = batch.y[:1]


class RestartsCounting(Reservoir):
    def load_state_dict(self, state):
        super().load_state_dict(state | {"seen": len(state["table"]["y"])})


class Moving(Reservoir):
    def state_dict(self):
        return super().state_dict() | {"table": {name: c[: len(self)] for name, c in self.table.columns.items()}}


class Shuffled(Reservoir):
    def __init__(self, size):
        super().__init__(size, store=("logits",), class_names=tuple("abcdef"))

    def _beside(self, batch, signals, at):
        return super()._beside(batch, signals, (at + 1) % len(batch))


class NeverTheLast(Reservoir):
    def sample(self, n, generator):
        return self.table.read(torch.randperm(len(self) - 1, generator=generator)[:n]) if len(self) else None


class AnySeed(Reservoir):
    def __init__(self, size):
        super().__init__(size, seed=int(torch.randint(2**31, ())))


BROKEN = {
    "empty": NeverEmpty, "bounded": TooLarge, "faithful": Floating, "distinct": Twice, "even": NeverTheLast,
    "repeatable": OwnDraws, "seeded": AnySeed, "counted": Uncounted, "weighed": HoldsTheBatch, "remembered": Shuffled,
    "state": RestartsCounting, "resumed": RestartsCounting, "snapshot": Moving,
}  # fmt: skip


@pytest.mark.parametrize("law", MEMORY_LAWS)
def test_each_law_catches_a_memory_that_breaks_it(law):
    make = TooLarge if law == "bounded" else (lambda: BROKEN[law](SIZE))
    with pytest.raises(AssertionError) as caught:
        check(make, {law: lambda made: MEMORY_LAWS[law](made, SIZE)})
    assert f"while checking the law '{law}' of {BROKEN[law].__name__}" in caught.value.__notes__


class Stateless(Reservoir):
    """Forgets to tell of what it holds."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize("law", ["state", "resumed", "snapshot"])
def test_a_memory_whose_state_leaves_its_rows_out_is_caught(law):
    with pytest.raises(AssertionError, match="does the state have"):
        check(lambda: Stateless(SIZE), {law: lambda made: MEMORY_LAWS[law](made, SIZE)})


class Unlisted(Reservoir):
    """Its state has the rows, but not what it stores beside them."""

    def __init__(self, size):
        super().__init__(size, store=("logits",), class_names=tuple("abcdef"))

    def state_dict(self):
        state = super().state_dict()
        return state | {"table": {name: column for name, column in state["table"].items() if "logits" not in name}}

    def load_state_dict(self, state):
        rows = state["table"]
        super().load_state_dict(state | {"table": rows | {f"{EXTRA}logits": torch.zeros(len(rows["y"]), 6)}})


def test_so_is_one_whose_state_leaves_out_what_it_stores():
    with pytest.raises(AssertionError, match="rows differ in extra"):
        check(lambda: Unlisted(SIZE), {"state": lambda made: MEMORY_LAWS["state"](made, SIZE)})
