"""Fewer rows: how many of each class, in which splits, and that tests are all there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from streams_cut import cut, table

from clkd.data.store import Store
from clkd.errors import UserError
from clkd.scenario.stream import Imbalance
from clkd.streams.base import Stream
from clkd.streams.imbalance import long_tail, thinned

SPLITS: list[dict[str, Any]] = [
    {"by": "class", "experiences": 5},
    {"by": "class", "experiences": 4, "blur": 30, "fuzzy": 50},
    {"by": "task", "experiences": 2, "order": "random"},
    {"by": "repeated", "experiences": 3, "repetition": 0.2},
    {"by": "data", "experiences": 2},
    {"by": "given"},
]


def declared(store: Store) -> Store:
    columns = {n: replace(s, experience=s.y % 3) for n in ("train", "test") if (s := getattr(store, n))}
    return replace(store, **columns)


def thin(store: Store, split: dict[str, Any], seed: int = 0, **options: Any) -> Stream:
    chosen = Imbalance(**options).model_dump()
    return thinned(store, lambda some: cut(some, seed, **split), seed, **chosen)


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("validation", [0.0, 0.3])
def test_the_histogram_follows_the_formula_in_every_split(store: Store, split: dict, validation: float) -> None:
    data = declared(store)
    stream = thin(data, {**split, "validation": validation}, ratio=4)
    rows = torch.cat([torch.cat([e.train.sample_id, e.validation.sample_id]) for e in stream])
    counts = torch.bincount(store.train.y[rows], minlength=10)
    # Class c has 20 + 3c rows, so class 0 decides: n = 20.
    assert counts.tolist() == [round(20 * 4 ** (-c / 9)) for c in range(10)]
    assert (counts.max(), counts.min()) == (20, 5)
    assert len(set(rows.tolist())) == len(rows)
    for e in stream:
        assert torch.equal(e.train.y, store.train.y[e.train.sample_id])
        assert torch.equal(e.train.x[e.train.index], store.train.x[e.train.sample_id]), "pixels are the row's own"
        assert e.test.x.device.type == e.train.x.device.type == "cpu"
    whole = cut(data, **split)
    if split["by"] != "repeated":  # which classes come when is the same, so all is tested that was
        assert [e.test.index.tolist() for e in stream] == [e.test.index.tolist() for e in whole]


def test_a_domain_stream_is_thinned_in_each_domain_alike(store: Store) -> None:
    stream = thin(store, {"by": "domain", "transform": "permuted", "experiences": 2}, rows=3)
    assert torch.equal(stream[0].train.sample_id, stream[1].train.sample_id)
    assert table(stream).tolist() == [[3] * 10] * 2


def test_n_is_the_most_that_all_classes_allow() -> None:
    assert long_tail([50, 1000, 30], 10, [0, 1, 2]) == [50, round(50 * 10**-0.5), 5]
    assert long_tail([50, 1000, 30], 10, [1, 2, 0]) == [9, 95, 30], "30 / 10^-0.5 = 94.9"
    assert long_tail([500, 0, 500], 100, [0, 1, 2]) == [500, 0, 5]
    assert long_tail([7], 100, [0]) == [7]


def test_a_random_order_is_another_for_another_seed(store: Store) -> None:
    split = {"by": "data", "experiences": 1}
    one, again, other = (table(thin(store, split, s, ratio=8, order="random")).tolist() for s in (0, 0, 1))
    assert one == again != other


def test_rows_of_each_class_and_which_they_are(store: Store) -> None:
    split = {"by": "class", "experiences": 2}
    stream = thin(store, split, rows=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
    assert table(stream).sum(0).tolist() == list(range(1, 11))
    few, more = (set(thin(store, split, rows=n)[0].train.sample_id.tolist()) for n in (3, 6))
    assert few < more, "more rows hold those of fewer"
    came = torch.zeros(len(store.train))
    for seed in range(200):
        for e in thin(store, split, seed, rows=10):
            came[e.train.sample_id] += 1
    for c in (0, 9):  # 10 of 20 and of 47 rows
        share = 10 / (20 + 3 * c)
        assert ((came[store.train.y == c] / 200 - share).abs() < 5 * (share * (1 - share) / 200) ** 0.5).all()


def test_rows_of_each_experience_keep_the_shares_of_its_classes(store: Store) -> None:
    stream = thin(store, {"by": "class", "experiences": 2}, rows_per_experience=(50, 5))
    assert [len(e.train) for e in stream] == [50, 5]
    assert table(stream)[1].tolist() == [0] * 5 + [1] * 5
    whole = table(cut(store, by="class", experiences=2))[0]
    assert ((table(stream)[0] - 50 * whole / whole.sum()).abs() <= 1).all()
    both = thin(store, {"by": "class", "experiences": 2}, rows=10, rows_per_experience=20)
    assert table(both).tolist() == [[4] * 5 + [0] * 5, [0] * 5 + [4] * 5]


def test_rows_without_a_label_stay(store: Store) -> None:
    y = store.train.y.clone()
    y[::2] = -1
    stream = thin(replace(store, train=replace(store.train, y=y)), {"by": "class", "experiences": 2}, rows=2)
    assert sum(int((e.train.y < 0).sum()) for e in stream) == int((y < 0).sum())
    assert table(stream).sum(0).tolist() == [2] * 10


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rows": 21}, r"class 0 \(name 0\) has 20 training rows, not 21"),
        ({"rows": (1, 2)}, "one number for each class: 10 of them, not 2"),
        ({"rows_per_experience": (9, 9, 9)}, "one number for each experience: 2 of them, not 3"),
        ({"rows_per_experience": 4}, r"of 5 classes, so 4 cannot stay: give 5 to"),
    ],
)
def test_rows_that_are_not_there_are_told(store: Store, options: dict, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        thin(store, {"by": "class", "experiences": 2}, **options)


@pytest.mark.parametrize(
    "options", [{}, {"ratio": 10, "rows": 5}, {"rows": 5, "order": "random"}, {"ratio": 0.1}], ids=str
)
def test_options_that_contradict_each_other_are_refused(options: dict, make_store: Callable[..., Store]) -> None:
    with pytest.raises(ValueError, match=r"give|greater"):
        Imbalance(**options)
