"""Classes that come again: when, with which rows, and what is old then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from streams_cut import cut, table

from clkd.data.store import Store
from clkd.errors import UserError
from clkd.streams.repeated import occurrences

OPTIONS = [
    {"experiences": 8, "repetition": 0.3},
    {"experiences": 6, "repetition": 0.0, "first_occurrence": 0.5},
    {"experiences": 5, "repetition": 0.5, "rows": 60},
    {"experiences": 5, "repetition": 1.0, "first_occurrence": 1.0, "test": "all"},
]


def times(draws: int, *options: float) -> torch.Tensor:
    """`[D, C, E]`."""
    generator = torch.Generator().manual_seed(1)
    return torch.stack([occurrences(5, *options, generator) for _ in range(draws)])


def test_a_class_comes_again_with_that_probability() -> None:
    """About 9,000 chances with probability 0.3. Many classes, so that hardly an experience would be empty."""
    comes = occurrences(2_000, 10, 0.3, 0.0, torch.Generator().manual_seed(0))
    after = comes.cumsum(1) - comes.long() > 0
    share = float(comes[after].double().mean())
    assert abs(share - 0.3) < 5 * (0.3 * 0.7 / int(after.sum())) ** 0.5


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_first_occurrences_are_geometric_and_cut_off(p: float) -> None:
    comes = occurrences(4_000, 6, 0.0, p, torch.Generator().manual_seed(0))
    first = torch.bincount(comes.long().argmax(1), minlength=6).double() / 4_000
    chance = (1 - p) ** torch.arange(6).double()
    assert ((first - chance / chance.sum()).abs() < 5 * 0.5 / 4_000**0.5).all()


@pytest.mark.parametrize("options", [(6, 0.0, 0.0), (6, 0.4, 0.3), (20, 0.05, 0.0)])
def test_no_experience_is_empty_and_each_class_comes(options: tuple) -> None:
    comes = times(200, *options)
    assert comes.any(1).all()
    assert comes.any(2).all()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("validation", [0.0, 0.25])
def test_old_and_new_classes_are_counted_right(store: Store, options: dict, validation: float) -> None:
    stream, seen = cut(store, by="repeated", **options, validation=validation), []
    for e in stream:
        assert e.classes == tuple(sorted(set(e.train.y.tolist())))
        assert e.old_classes == tuple(seen)
        assert set(e.new_classes) == set(e.classes) - set(seen)
        seen += e.new_classes
        tested = set(range(10)) if options.get("test") == "all" else set(e.classes)
        assert set(e.test.y.tolist()) == tested
        assert len(e.test) == sum(int((store.test.y == c).sum()) for c in tested)
    assert sorted(seen) == list(range(10))


def test_each_row_comes_once_and_a_class_evenly(store: Store) -> None:
    stream = cut(store, by="repeated", experiences=8, repetition=0.3)
    assert torch.cat([e.train.sample_id for e in stream]).sort().values.tolist() == list(range(len(store.train)))
    for column in table(stream).T:
        came = column[column > 0]
        assert came.max() - came.min() <= 1
    assert (table(stream) > 0).sum() > 10, "or no class would have come again"


def test_with_rows_all_experiences_are_equally_large_and_even_over_their_classes(store: Store) -> None:
    stream = cut(store, by="repeated", experiences=30, repetition=0.5, rows=40)
    for e in stream:
        wanted = torch.bincount(e.train.y)[list(e.classes)]
        whole = torch.bincount(store.train.y)[list(e.classes)]
        assert int(wanted.max() - wanted.min()) <= 1 or (wanted == whole).any()
        assert len(e.train) <= 40
        assert len(set(e.train.sample_id.tolist())) == len(e.train)
    every = torch.cat([e.train.sample_id for e in stream])
    assert len(set(every.tolist())) < len(every), "rows come again in other experiences"


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_seed_decides(store: Store, options: dict) -> None:
    one, again, other = (cut(store, s, by="repeated", **options).fingerprint() for s in (3, 3, 4))
    assert one == again != other


def test_rows_without_a_label_are_dealt_out_once(store: Store) -> None:
    y = store.train.y.clone()
    y[::4] = -1
    stream = cut(replace(store, train=replace(store.train, y=y)), by="repeated", experiences=4, repetition=0.5)
    nameless = torch.cat([e.train.sample_id[e.train.y < 0] for e in stream])
    assert nameless.sort().values.tolist() == list(range(0, len(y), 4))


def test_too_few_rows_are_told(make_store: Callable[..., Store]) -> None:
    with pytest.raises(UserError, match=r"class 0 has 20 training rows, and would come 40 times"):
        cut(make_store(2), by="repeated", experiences=40, repetition=1.0, first_occurrence=1.0)
    with pytest.raises(UserError, match="has 2 classes, and only 1 rows"):
        cut(make_store(2), by="repeated", experiences=2, repetition=1.0, first_occurrence=1.0, rows=1)
