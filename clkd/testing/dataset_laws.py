"""The laws of data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from torch import Tensor

from clkd.data.source import Found, Lazy, Places, Raw, Source, Split, chunks
from clkd.data.store import open_or_build
from clkd.testing.tiny import equal_rows

Make = Callable[[], Source]
LEAK = 0.01
"""The share of test rows that training rows may repeat: published data sets have some that were collected twice."""


def found(make: Make, base: Path) -> None:
    """`find` names files that are there, and nothing is decoded until it is read."""
    source = make()
    assert isinstance(source, Source), f"it is a {type(source).__name__}, not a Source"
    told = _find(source, base)
    assert isinstance(told, Found), f"find gives a {type(told).__name__}, not a Found"
    missing = [str(path) for path in told.files if not path.exists()]
    assert not missing, f"find names files that are not there: {', '.join(missing[:3])}"


def rows(make: Make, base: Path) -> None:
    """Rows are uint8 images `[N, C, H, W]` or finite float32 vectors `[N, D]`, alike in training and test."""
    raw = _read(make, base)
    kinds = set()
    for name, split in _splits(raw):
        assert len(split), f"there are no {name} rows"
        for part in chunks(split.x):
            image = part.dtype == torch.uint8 and part.dim() == 4
            vector = part.dtype == torch.float32 and part.dim() == 2
            assert image or vector, f"{name} rows are {part.dtype} {tuple(part.shape[1:])}"
            assert not vector or torch.isfinite(part).all(), f"a {name} row is not finite"
            kinds.add((part.dtype, tuple(part.shape[1:])))
        assert tuple(split.x.shape[1:]) in {shape for _, shape in kinds}, f"{name} rows are not of the shape declared"
    assert len(kinds) == 1, f"rows are of several kinds: {kinds}"


def columns(make: Make, base: Path) -> None:
    """Every column has an int64 entry for every row."""
    for name, split in _splits(_read(make, base)):
        count = sum(len(part) for part in chunks(split.x))
        for column, tensor in split.columns().items():
            assert len(tensor) == count, f"{len(tensor)} {name} entries of '{column}' for {count} rows"
            assert column == "x" or tensor.dtype == torch.int64, f"'{column}' is {tensor.dtype}"


def labels(make: Make, base: Path) -> None:
    """Labels count from 0 up to the number of class names; only training rows may have none (-1)."""
    raw = _read(make, base)
    for name, split in _splits(raw):
        least = -1 if split is raw.train else 0
        lowest, highest = int(split.y.min()), int(split.y.max())
        assert lowest >= least, f"a {name} row has label {lowest}"
        assert highest < len(raw.class_names), f"a {name} row has label {highest} of {len(raw.class_names)} classes"


def classes(make: Make, base: Path) -> None:
    """Classes have names, no two alike, and each has training rows and test rows."""
    raw = _read(make, base)
    names = raw.class_names
    assert all(isinstance(name, str) and name for name in names), "a class has no name"
    assert len(set(names)) == len(names), "two classes have one name"
    for kind, split in _splits(raw):
        missing = [name for c, name in enumerate(names) if not (split.y == c).any()]
        assert not missing, f"no {kind} row of class {', '.join(missing[:3])}"


def disjoint(make: Make, base: Path) -> None:
    """No test row is a training row; at most one in a hundred repeats one."""
    raw = _read(make, base)
    train = {row for part in chunks(raw.train.x) for row in equal_rows(part)}
    again = sum(row in train for part in chunks(raw.test.x) for row in equal_rows(part))
    assert again <= LEAK * len(raw.test), f"{again} of {len(raw.test)} test rows are training rows, too"


def repeatable(make: Make, base: Path) -> None:
    """Read again, the same rows come in the same order."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        one = _read(make, base)
        torch.manual_seed(1)
        other = _read(make, base)
    assert one.class_names == other.class_names, "classes have other names when it is read again"
    for (name, a), (_, b) in zip(_splits(one), _splits(other), strict=True):
        assert torch.equal(a.y, b.y), f"{name} labels differ when it is read again"
        assert all(map(torch.equal, chunks(a.x), chunks(b.x))), f"{name} rows differ when it is read again"


def stored(make: Make, base: Path) -> None:
    """What is kept in the cache is what was read."""
    raw = _read(make, base)
    with TemporaryDirectory() as cache:
        store = open_or_build("checked", "0", Path(cache), lambda scratch: raw)
        for (name, read), kept in zip(_splits(raw), (store.train, store.test), strict=True):
            assert torch.equal(_whole(read.x), kept.x), f"{name} rows differ in the store"
            assert torch.equal(read.y, kept.y), f"{name} labels differ in the store"
        assert torch.isfinite(store.mean).all(), "rows have no mean"
        assert (store.std > 0).all(), "rows have no deviation"


class Law(Protocol):
    """A law of data sets; `base` is where relative paths start."""

    def __call__(self, make: Make, base: Path) -> None: ...


DATASET_LAWS: dict[str, Law] = {
    law.__name__: law for law in (found, rows, columns, labels, classes, disjoint, repeatable, stored)
}


def _find(source: Source, base: Path) -> Any:
    return source.find(Places(base, base, source.root))


def _read(make: Make, base: Path) -> Raw:
    with TemporaryDirectory() as scratch:
        raw: Raw = _find(make(), base).read(Path(scratch))
        return Raw(_decoded(raw.train), _decoded(raw.test), raw.class_names, raw.skipped)


def _decoded(split: Split) -> Split:
    """Rows that wait to be made are made while the scratch folder is there."""
    made = _whole(split.x) if isinstance(split.x, Lazy) else split.x
    return Split(**{**split.columns(), "x": made})


def _whole(x: Tensor | Lazy) -> Tensor:
    return torch.cat(list(chunks(x)))


def _splits(raw: Raw) -> Iterator[tuple[str, Split]]:
    yield "training", raw.train
    yield "test", raw.test
