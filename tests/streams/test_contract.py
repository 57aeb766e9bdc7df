"""Built-in streams keep the laws, and every law catches a stream that breaks it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from clkd.plugins import isolated
from clkd.seeding import generator
from clkd.streams.base import Chunk, Stream, assemble
from clkd.streams.shares import by_data
from clkd.testing.contract import check, check_stream
from clkd.testing.parts import check_part
from clkd.testing.stream_laws import STREAM_LAWS
from clkd.testing.tiny import Tiny

SAID = [
    {"by": "class", "experiences": 2},
    {"by": "class", "experiences": 2, "order": "random"},
    {"by": "class", "classes": [[3], [0, 1]]},
    {"by": "class", "experiences": 2, "blur": 25},
    {"by": "task", "experiences": 4},
    {"by": "repeated", "experiences": 3, "repetition": 0.5},
    {"by": "domain", "transform": "permuted", "experiences": 3},
    {"by": "domain", "transform": "rotated", "angles": [0, 30]},
    {"by": "data", "experiences": 2},
    {"by": "given"},
]


@pytest.mark.parametrize("said", SAID, ids=lambda said: " ".join(map(str, said.values())))
def test_built_in_streams_keep_the_contract(said, tmp_path):
    check_part(Tiny(tmp_path, isolated()), "streams", said)


plain = partial(by_data, experiences=2)


def changed(change, **asked):
    """The plain stream with each experience changed."""
    stream = plain(**asked)
    stream.experiences = tuple(change(e, asked["store"]) for e in stream)
    return stream


def misnumbered(**asked):
    return changed(lambda e, store: replace(e, index=e.index + 1), **asked)


def astray(**asked):
    """Rows that say they came in the first experience."""
    return changed(lambda e, store: replace(e, train=replace(e.train, experience=0)), **asked)


def relabelled(**asked):
    return changed(lambda e, store: replace(e, train=replace(e.train, y=e.train.y.flip(0))), **asked)


def unseen(**asked):
    return changed(lambda e, store: replace(e, seen=e.classes[:1], known=0), **asked)


def leaking(**asked):
    """Trains on test rows: the classic slip of taking one split for the other."""
    return changed(lambda e, store: replace(e, train=replace(e.test, experience=e.index)), **asked)


def repeated(**asked):
    def twice(e, store):
        rows = e.train
        return replace(e, train=rows.select(torch.arange(len(rows)).repeat(2)))

    return changed(twice, **asked)


def validated_on_tests(*, store, seed, validation=0.0):
    stream = plain(store=store, seed=seed)
    if validation:
        stream.experiences = tuple(replace(e, validation=e.test) for e in stream)
    return stream


def drawn(*, store, seed, validation=0.0):
    order = torch.randperm(len(store.train)).split(32)
    tests = torch.arange(len(store.test))
    return Stream("drawn", assemble([Chunk("a", at, tests) for at in order], store, seed, validation), store)


def batch_warp(x):
    return (x.float() - x.float().mean(0) + 128).clamp(0, 255).to(torch.uint8)


def mixing(*, store, seed, validation=0.0):
    """A domain that depends on the rows that stand beside a row."""
    every, tests = torch.arange(len(store.train)), torch.arange(len(store.test))
    chunk = Chunk("mixed", every, tests, warp=batch_warp)
    return Stream("mixing", assemble([chunk], store, seed, validation), store)


def writing(*, store, seed, validation=0.0):
    store.train.y[:4] = store.train.y[:4].flip(0).clone()
    store.train.x[0] = 0
    return plain(store=store, seed=seed, validation=validation)


def closed(*, store, seed, validation=0.0):
    """A domain that cannot be sent to another process."""
    every, tests = torch.arange(len(store.train)), torch.arange(len(store.test))
    return Stream("closed", assemble([Chunk("a", every, tests, warp=lambda x: x)], store, seed, validation), store)


BROKEN = {
    "experiences": misnumbered, "own_rows": astray, "classes": unseen, "separate": leaking,
    "validation": validated_on_tests, "seeded": drawn, "warped": mixing, "untouched": writing, "portable": closed,
}  # fmt: skip


def test_the_plain_example_keeps_the_contract():
    check_stream(plain)


@pytest.mark.parametrize("law", STREAM_LAWS)
def test_each_law_catches_a_stream_that_breaks_it(law):
    with pytest.raises(Exception) as caught:  # noqa: PT011  # pickle has words of its own
        check(BROKEN[law], {law: STREAM_LAWS[law]}, BROKEN[law])
    assert f"while checking the law '{law}' of {BROKEN[law].__name__}" in caught.value.__notes__


@pytest.mark.parametrize(("broken", "law"), [(relabelled, "own_rows"), (repeated, "separate")])
def test_so_are_other_slips(broken, law):
    with pytest.raises(AssertionError):
        check(broken, {law: STREAM_LAWS[law]}, broken)


def test_a_stream_that_draws_from_its_seed_is_fine():
    def shuffled(*, store, seed, validation=0.0):
        order = torch.randperm(len(store.train), generator=generator(seed, "mine")).split(32)
        tests = torch.arange(len(store.test))
        return Stream("mine", assemble([Chunk("a", at, tests) for at in order], store, seed, validation), store)

    check_stream(shuffled)
