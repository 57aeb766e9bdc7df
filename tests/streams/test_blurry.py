"""Boundaries that are not sharp: how many rows move, where to, when, and that none is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from streams_cut import cut, table

from clkd.data.store import Store
from clkd.streams.base import Stream
from clkd.streams.blurry import mixed
from clkd.streams.joined import Piece, join

BLURRED = [
    {"blur": 10},
    {"blur": 60, "disjoint": 50},
    {"fuzzy": 100},
    {"fuzzy": 40, "blur": 30, "order": "random", "sizes": "random"},
    {"blur": 99, "first": 4},
]


@pytest.mark.parametrize("options", BLURRED, ids=str)
@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_every_row_comes_once_and_every_test_row_counts_once(store: Store, options: dict, validation: float) -> None:
    stream = cut(store, by="class", experiences=4, **options, validation=validation)
    rows = torch.cat([torch.cat([e.train.sample_id, e.validation.sample_id]) for e in stream])
    assert rows.sort().values.tolist() == list(range(len(store.train)))
    assert torch.cat([e.test.sample_id for e in stream]).sort().values.tolist() == list(range(len(store.test)))
    for e in stream:
        assert set(e.train.y.tolist()) <= set(e.classes)
        assert set(e.test.y.tolist()) <= set(e.classes)
        assert torch.equal(e.train.y, store.train.y[e.train.sample_id])


def test_blur_takes_that_share_of_each_class_and_spreads_it_evenly(store: Store) -> None:
    sharp, blurry = (table(cut(store, by="class", experiences=5, blur=b)) for b in (0, 40))
    for c in range(10):
        home, rows = int(sharp[:, c].argmax()), int(sharp[:, c].sum())
        away = int(0.4 * rows)
        assert int(blurry[home, c]) == rows - away
        others = blurry[:, c][torch.arange(5) != home]
        assert others.sum() == away
        assert others.max() - others.min() <= 1


def test_the_classes_that_stay_together_are_as_many_as_said_and_random(store: Store) -> None:
    """Each of 10 classes is among 4 of 10 with probability 0.4: of 200 draws 80 ± 6.9; five deviations are allowed."""
    counts = torch.zeros(10)
    for seed in range(200):
        apart = (table(cut(store, seed, by="class", experiences=5, blur=50, disjoint=40)) > 0).sum(0) == 1
        assert apart.sum() == 4
        counts += apart
    assert ((counts - 80).abs() < 5 * 6.93).all()


def test_no_row_and_no_experience_is_preferred(make_store: Callable[..., Store]) -> None:
    """A row moves with probability 1/2, and to each of 3 others with 1/6: of 300 draws 50 ± 6.5."""
    store = make_store(4)
    came = torch.zeros(len(store.train), 4)
    for seed in range(300):
        for e in cut(store, seed, by="class", experiences=4, blur=50):
            came[e.train.sample_id, e.index] += 1
    even = [c for c in range(4) if int((store.train.y == c).sum()) % 2 == 0]
    for c in even:
        own = came[store.train.y == c]
        assert ((own[:, c] - 150).abs() < 5 * 8.7).all()
        away = own[:, [i for i in range(4) if i != c]]
        assert ((away - 50).abs() < 5 * 6.5).all()
        assert ((away.mean(0) - 50).abs() < 1).all(), "which experience gets one more is random"


@pytest.mark.parametrize("width", [0.2, 1.0])
def test_the_mixture_changes_linearly_around_each_boundary_and_nothing_thins_out(width: float) -> None:
    """Shares of the later experience's rows in 20 windows of a boundary, within five deviations."""
    rows, home = 40_000, torch.arange(3).repeat_interleave(40_000)
    time = mixed(home, 3, width, torch.Generator().manual_seed(0))
    assert time.min() >= 0
    assert time.max() < 3
    for boundary in (1, 2):
        for k in range(20):
            low = boundary + width * (k / 20 - 0.5)
            inside = (time >= low) & (time < low + width / 20)
            count = int(inside.sum())
            assert abs(count - rows * width / 20) < 5 * (rows * width / 20) ** 0.5
            later = int((home[inside] == boundary).sum()) / count
            assert abs(later - (k + 0.5) / 20) < 5 * 0.5 / count**0.5
    outside = (time >= 1 + width / 2) & (time < 2 - width / 2)
    assert (home[outside] == 1).all()


def test_fuzzy_rows_stand_in_the_order_of_their_arrival(make_store: Callable[..., Store]) -> None:
    store = make_store(2)
    first, second = cut(store, by="class", experiences=2, fuzzy=100)
    assert first.train.ordered
    assert second.train.ordered
    y = torch.cat([first.train.y, second.train.y]).double()
    quarters = [float(part.mean()) for part in torch.tensor_split(y, 4)]
    assert quarters == sorted(quarters)
    assert quarters[0] < 0.1
    assert quarters[3] > 0.9
    assert (store.train.y[: len(y) // 4] == 1).any(), "in the data they come in random order"
    assert not cut(store, by="class", experiences=2, blur=10)[0].train.ordered


def test_sizes_are_random_cuts_of_the_order(store: Store) -> None:
    """The first of 3 experiences with 10 classes: 36 cuts, 8 of which give it one class: of 600 draws 133 ± 10."""
    sizes = [
        tuple(len(e.classes) for e in cut(store, s, by="class", experiences=3, sizes="random")) for s in range(600)
    ]
    assert all(sum(each) == 10 and min(each) > 0 for each in sizes)
    assert len(set(sizes)) == 36
    assert abs(sum(each[0] == 1 for each in sizes) - 133.3) < 5 * 10.2


@pytest.mark.parametrize("options", BLURRED, ids=str)
def test_the_seed_decides(store: Store, options: dict) -> None:
    one, again, other = (cut(store, s, by="class", experiences=4, **options).fingerprint() for s in (3, 3, 4))
    assert one == again != other


def test_rows_without_a_label_are_mixed_in_and_counted_once(store: Store) -> None:
    y = store.train.y.clone()
    y[::3] = -1
    stream = cut(replace(store, train=replace(store.train, y=y)), by="class", experiences=3, blur=20, fuzzy=50)
    rows = torch.cat([e.train.sample_id for e in stream])
    assert rows.sort().values.tolist() == list(range(len(y)))
    assert all(-1 not in e.classes and (e.train.y < 0).any() for e in stream)


def test_names_say_the_dealt_classes_also_after_joining(make_store: Callable[..., Store]) -> None:
    first = make_store(4)
    second = replace(make_store(4), class_names=("e", "f", "g", "h"))
    pieces = [Piece(cut(each, by="class", experiences=2, blur=50), len(each.train)) for each in (first, second)]
    joined: Stream = join(pieces, first)
    pairs = ("[0, 1]", "[2, 3]", "[4, 5]", "[6, 7]")
    assert [e.name for e in joined] == [f"{pair} + rows of 2 others" for pair in pairs]
    assert joined[2].old_classes == (0, 1, 2, 3)
    assert joined[3].new_classes == ()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"by": "task", "experiences": 2, "blur": 10}, "use by: class"),
        ({"by": "class", "experiences": 1, "fuzzy": 10}, "only one experience"),
        ({"by": "class", "classes": [[0, 1]], "blur": 10}, "only one experience"),
        ({"by": "class", "experiences": 2, "disjoint": 10}, "give blur"),
        ({"by": "class", "experiences": 2, "first": 3, "sizes": "random"}, "leave out classes and first"),
        ({"by": "class", "experiences": 2, "blur": 100}, "less than 100"),
    ],
)
def test_what_cannot_be_is_refused(store: Store, options: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        cut(store, **options)
