"""Rows without a label: which ones lose theirs, and where those go that never had one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from clkd.data.store import Store
from clkd.engine.material import digest
from clkd.errors import UserError
from clkd.registry import Registry
from clkd.streams import clkd_register_streams
from clkd.streams.avalanche import to_avalanche
from clkd.streams.base import Stream
from clkd.streams.joined import Piece, join
from clkd.streams.labels import hide

REGISTRY = Registry()
clkd_register_streams(register=REGISTRY.register_for("streams", "clkd.streams", "clkd"))
SPLITS = [
    {"by": "class", "experiences": 5},
    {"by": "task", "experiences": 3},
    {"by": "data", "experiences": 4},
    {"by": "domain", "transform": "permuted", "experiences": 3},
    {"by": "given"},
]


def cut(store: Store, seed: int = 0, **options) -> Stream:
    return REGISTRY.build(REGISTRY.parse("streams", options), store=store, seed=seed)


def declared(store: Store) -> Store:
    """The same store, whose rows name their experience."""
    columns = {
        n: replace(s, experience=torch.arange(len(s.y)) % 3) for n in ("train", "test") if (s := getattr(store, n))
    }
    return replace(store, **columns)


def nameless(store: Store, every: int = 4) -> Store:
    """The same store; each `every`-th training row has no label."""
    y = store.train.y.clone()
    y[::every] = -1
    return replace(store, train=replace(store.train, y=y))


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5])
@pytest.mark.parametrize("options", SPLITS, ids=lambda o: o["by"])
def test_a_share_of_each_class_keeps_its_label_and_nothing_else_changes(store, options, fraction):
    whole = cut(declared(store), **options, validation=0.2)
    hidden = hide(whole, store, fraction, seed=0)
    assert (hidden.name, hidden.task_labels, len(hidden)) == (whole.name, whole.task_labels, len(whole))
    for before, after in zip(whole, hidden, strict=True):
        for c in before.classes:
            rows = int((before.train.y == c).sum())
            assert int((after.train.y == c).sum()) == max(1, round(fraction * rows))
        kept = after.train.y >= 0
        assert torch.equal(after.train.y[kept], before.train.y[kept]), "a label is the row's own, or gone"
        assert torch.equal(after.train.index, before.train.index)
        assert (after.classes, after.seen) == (before.classes, before.seen)
        for split in ("validation", "test"):
            assert getattr(after, split) is getattr(before, split)


def labelled_ids(stream: Stream) -> list[set[int]]:
    return [set(e.train.sample_id[e.train.y >= 0].tolist()) for e in stream]


def test_which_rows_those_are_is_drawn_from_the_seed_and_the_rows_alone(store):
    stream = cut(store, by="class", experiences=5)
    one, again, other = (labelled_ids(hide(stream, store, 0.2, seed)) for seed in (0, 0, 1))
    assert one == again != other
    assert one != labelled_ids(hide(stream, store, 0.2, 0, offset=5)), "what comes later is drawn anew"
    more = labelled_ids(hide(stream, store, 0.5, 0))
    assert all(few < many for few, many in zip(one, more, strict=True)), "a larger share keeps those of a smaller one"
    domains = labelled_ids(hide(cut(store, by="domain", transform="permuted", experiences=3), store, 0.2, 0))
    assert domains[0] == domains[1] == domains[2] == set().union(*one), "the same rows in every domain and split"


def test_hidden_labels_change_what_identifies_a_stream_and_all_labels_change_nothing(store):
    stream = cut(store, by="class", experiences=5)
    hidden, other = hide(stream, store, 0.2, 0), hide(stream, store, 0.2, 1)
    assert len({each.fingerprint() for each in (stream, hidden, other)}) == 3
    assert len({digest(each[0]) for each in (stream, hidden, other)}) == 3
    assert digest(hide(stream, store, 1.0, 0)[0]) == digest(stream[0])
    told = hidden.describe()[0]
    assert told["labelled"] == int((hidden[0].train.y >= 0).sum())
    assert "labelled" not in stream.describe()[0]


@pytest.mark.parametrize("options", SPLITS, ids=lambda o: o["by"])
def test_rows_that_never_had_a_label_are_in_the_stream_but_no_class_and_no_validation(store, options):
    data = nameless(declared(store))
    stream = cut(data, **options, validation=0.3)
    rows = torch.cat([torch.cat([e.train.sample_id, e.validation.sample_id]) for e in stream])
    assert set(rows.tolist()) == set(range(len(data.train)))
    if options["by"] != "domain":
        assert len(rows) == len(data.train), "each in one experience"
    for e in stream:
        assert -1 not in e.classes
        assert -1 not in e.seen
        assert int(e.validation.y.min()) >= 0
        assert 0 < int((e.train.y < 0).sum()) < len(e.train)
        assert torch.equal(e.train.y, data.train.y[e.train.sample_id])


def test_a_class_stream_deals_them_out_evenly_and_by_the_seed(store):
    data = nameless(store)
    one, again, other = (
        [set(e.train.sample_id[e.train.y < 0].tolist()) for e in cut(data, seed, by="class", experiences=4)]
        for seed in (0, 0, 1)
    )
    sizes = [len(ids) for ids in one]
    assert one == again != other
    assert max(sizes) - min(sizes) <= 1


def test_the_first_experience_needs_a_label_and_later_ones_do_not(store):
    data = declared(store)
    y, column = data.train.y.clone(), data.train.experience
    y[column == 1] = -1
    stream = cut(replace(data, train=replace(data.train, y=y)), by="given", validation=0.2)
    assert stream[1].classes == ()
    assert stream[1].seen == stream[0].seen
    y[column == 0] = -1
    with pytest.raises(UserError, match=r"experience 0 .* has no row with a label"):
        cut(replace(data, train=replace(data.train, y=y)), by="given")


def test_of_a_stream_that_follows_another_one_known_classes_need_no_label(store):
    stream = cut(store, by="data", experiences=1)
    names = stream.class_names
    assert (hide(stream, store, [0.0], 0, offset=2, known=names)[0].train.y == -1).all()
    with pytest.raises(UserError, match=r"labelled: experience 2 .* brings new classes"):
        hide(stream, store, [0.0], 0, offset=2, known=names[1:])
    bare = replace(store, train=replace(store.train, y=torch.full_like(store.train.y, -1)))
    assert REGISTRY.build(REGISTRY.parse("streams", {"by": "data", "experiences": 1}), store=bare, seed=0, offset=1)


def test_joined_streams_leave_rows_without_a_label_without_one(make_store: Callable[..., Store]):
    first, second = make_store(4), nameless(make_store(6))
    pieces = [Piece(cut(each, by="data", experiences=1), len(each.train)) for each in (first, second)]
    joined = join(pieces, first)
    assert torch.equal(joined[1].train.y < 0, second.train.y < 0)
    assert -1 not in joined[1].classes


def test_avalanche_has_no_word_for_them(store):
    with pytest.raises(UserError, match="no rows without a label"):
        to_avalanche(hide(cut(store, by="class", experiences=5), store, 0.2, 0))


def test_each_experience_may_have_its_own_share(store: Store) -> None:
    stream = cut(store, by="domain", domains=["clean", "haze", "clean"], validation=0.2)
    hidden = hide(stream, store, (1.0, 0.0, 0.5), seed=3)
    known = [each.train.labelled() for each in hidden]
    assert known[0] is None
    assert not known[1].any()
    assert known[2].sum() == pytest.approx(len(stream[2].train) / 2, abs=10)
    assert torch.equal(hidden[2].train.y, hide(stream, store, 0.5, seed=3)[2].train.y)
    assert (hidden[1].classes, hidden[1].seen) == (stream[1].classes, stream[1].seen)
    with pytest.raises(UserError, match="one share for each of the 3 experiences, not 2"):
        hide(stream, store, (1.0, 0.0), seed=3)
    with pytest.raises(UserError, match=r"experience 0 .* brings new classes"):
        hide(stream, store, (0.0, 1.0, 1.0), seed=3)
