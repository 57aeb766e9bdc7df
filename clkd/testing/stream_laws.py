"""The laws of streams."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator

import torch

from clkd.data.store import Store
from clkd.errors import UserError
from clkd.experience import Experience, Rows
from clkd.streams.base import Stream, labels_in
from clkd.testing import tiny

Make = Callable[..., Stream]
"""Called with `store`, `seed` and `validation`."""


def experiences(make: Make) -> None:
    """Experiences are numbered from 0, know how many there are, have names, and rows to train and to test on."""
    stream = _cut(make)
    assert len(stream), "it has no experience"
    for i, experience in enumerate(stream):
        assert experience.index == i, f"experience {i} says that it is number {experience.index}"
        assert experience.count == len(stream), f"experience {i} counts {experience.count} of {len(stream)}"
        assert experience.name, f"experience {i} has no name"
        assert len(experience.train), f"experience {i} has no training rows"
        assert len(experience.test), f"experience {i} has no test rows"


def own_rows(make: Make) -> None:
    """Each row says the experience it came in, and has the label, pixels and number that it has in the data."""
    store = tiny.store()
    for experience, kind, rows in _rows(_cut(make, store=store)):
        where, split = f"{kind} rows of experience {experience.index}", store.test if kind == "test" else store.train
        assert rows.experience == experience.index, f"{where} say that they came in {rows.experience}"
        assert int(rows.sample_id.max()) < len(split), f"{where} have numbers that no row of the data has"
        known = rows.y >= 0
        assert torch.equal(rows.y[known], split.y[rows.sample_id][known]), f"{where} have other labels than the data"
        assert torch.equal(rows.x[rows.index], split.x[rows.sample_id]), f"{where} have other pixels than the data"


def classes(make: Make) -> None:
    """`classes` are those of its labelled training rows; `seen` and `known` keep account of them."""
    seen: tuple[int, ...] = ()
    for experience in _cut(make):
        where = f"of experience {experience.index}"
        assert set(labels_in(experience.train.y)) <= set(experience.classes), f"classes {where} leave out a row's"
        assert experience.old_classes == seen, f"the old classes {where} are not those of earlier ones"
        seen += tuple(c for c in experience.classes if c not in seen)
        assert experience.seen == seen, f"the seen classes {where} are not those that came so far"
        assert set(labels_in(experience.test.y)) <= set(seen), f"test rows {where} are of classes that have not come"


def separate(make: Make) -> None:
    """No row to train on is a test row or a validation row, and none comes twice within an experience."""
    store = tiny.store()
    tests = set(tiny.equal_rows(store.test.x))
    stream = _cut(make, store=store, validation=0.25)
    for experience, kind, rows in _rows(stream):
        at = rows.sample_id.tolist()
        assert len(set(at)) == len(at), f"{kind} rows of experience {experience.index} come twice"
        if kind != "test":
            assert not tests & set(tiny.equal_rows(rows.x[rows.index])), f"{kind} rows hold test rows"
    aside = {at for experience in stream for at in experience.validation.sample_id.tolist()}
    for experience in stream:
        both = aside & set(experience.train.sample_id.tolist())
        assert not both, f"experience {experience.index} trains on {len(both)} validation rows"


def validation(make: Make) -> None:
    """`validation` takes its share out of training rows, class by class, and leaves test rows alone."""
    try:
        whole, cut = _cut(make), _cut(make, validation=0.25)
    except UserError:  # says that experiences are too small for it
        return
    assert all(not len(experience.validation) for experience in whole), "without a share, there are validation rows"
    for a, b in zip(whole, cut, strict=True):
        both = torch.cat([b.train.sample_id, b.validation.sample_id]).sort().values
        assert torch.equal(both, a.train.sample_id.sort().values), f"experience {a.index} has other rows than without"
        assert torch.equal(a.test.sample_id, b.test.sample_id), f"experience {a.index} has other test rows than without"
        for c in labels_in(a.train.y):
            wanted, got = math.floor(0.25 * int((a.train.y == c).sum())), int((b.validation.y == c).sum())
            assert got == wanted, f"{got} validation rows of class {c} in experience {a.index}; a quarter is {wanted}"


def seeded(make: Make) -> None:
    """The seed decides which rows come when, and nothing else does: torch's global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        one = _cut(make, validation=0.25).fingerprint()
        assert torch.equal(before, torch.get_rng_state()), "it draws from torch's global generator"
        torch.manual_seed(1)
        assert one == _cut(make, validation=0.25).fingerprint(), "made twice with one seed, it has different rows"


def warped(make: Make) -> None:
    """A domain changes each row by itself, and neither its shape nor its type."""
    for experience, kind, rows in _rows(_cut(make)):
        if rows.warp is None:
            continue
        where = f"{kind} rows of experience {experience.index}"
        x = rows.x[rows.index[:6]]
        held = x.clone()
        whole = rows.warp(x)
        assert torch.equal(x, held), f"its domain changes the stored {where}"
        assert (whole.shape, whole.dtype) == (x.shape, x.dtype), f"its domain changes shape or type of {where}"
        alone = torch.cat([rows.warp(x[at : at + 1]) for at in range(len(x))])
        assert torch.equal(whole, alone), f"its domain makes {where} depend on each other"


def untouched(make: Make) -> None:
    """The data is left as it was."""
    store = tiny.store()
    before = [column.clone() for split in (store.train, store.test) for column in split.columns().values()]
    for _, _, rows in _rows(_cut(make, store=store)):
        rows.gather(torch.arange(len(rows)))
    after = [column for split in (store.train, store.test) for column in split.columns().values()]
    assert all(map(torch.equal, before, after)), "a tensor of the store has other values afterwards"


def portable(make: Make) -> None:
    """It can be described, and comes out of pickling (as between processes) with the same rows."""
    stream = _cut(make)
    assert len(stream.describe()) == len(stream), "it does not describe each experience"
    again: Stream = pickle.loads(pickle.dumps(stream))
    assert again.fingerprint() == stream.fingerprint(), "pickled, it has other rows"


STREAM_LAWS: dict[str, Callable[[Make], None]] = {
    law.__name__: law
    for law in (experiences, own_rows, classes, separate, validation, seeded, warped, untouched, portable)
}


def _cut(make: Make, validation: float = 0.0, store: Store | None = None) -> Stream:
    return make(store=store or tiny.store(), seed=0, validation=validation)


def _rows(stream: Stream) -> Iterator[tuple[Experience, str, Rows]]:
    for experience in stream:
        for kind in ("train", "validation", "test"):
            rows: Rows = getattr(experience, kind)
            if len(rows):
                yield experience, kind, rows
