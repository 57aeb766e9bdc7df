"""Fewer training rows of some classes, or in some experiences, than the data has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from clkd.errors import UserError
from clkd.experience import Experience, Rows
from clkd.seeding import generator
from clkd.streams.base import Stream, labels_in, positions

if TYPE_CHECKING:
    from clkd.data.store import Store


def thinned(
    store: Store,
    split: Callable[[Store], Stream],
    seed: int,
    ratio: float | None = None,
    order: Literal["natural", "random"] = "natural",
    rows: int | Sequence[int] | None = None,
    rows_per_experience: int | Sequence[int] | None = None,
    offset: int = 0,
) -> Stream:
    """The stream that `split` makes of a store with fewer training rows. Test rows are all there.

    Classes are thinned before the split, whatever it is, and experiences after it. Each row of the data set draws one
    number, and those with the smallest stay: so more rows hold those of fewer. Rows without a label all stay where
    classes are thinned. A split sees the labels, experiences and domains of the rows, not their pixels. Options are
    those of `clkd.scenario.stream.Imbalance`; `offset` is as for `clkd.streams.labels.hide`.

    Raises:
        UserError: there are not so many rows, or not so many classes or experiences.
    """
    key = torch.rand(len(store.train), generator=generator(seed, "imbalance", offset), dtype=torch.float64)
    y, names = store.train.y, store.class_names
    counts = torch.bincount(y[y >= 0], minlength=len(names)).tolist()
    stream = None
    if ratio is not None or rows is not None:
        wanted = long_tail(counts, ratio, _order(order, len(names), seed)) if ratio else _listed(rows, names, "class")
        _refuse_scarce(counts, wanted, names)
        kept = positions(_smallest(y, key, wanted) | (y < 0))
        stream = _widened(split(_thin(store, kept)), store, kept)
    stream = stream or split(store)
    if rows_per_experience is None:
        return stream
    each = _listed(rows_per_experience, tuple(e.name for e in stream), "experience")
    shorter = [_shortened(e, n, key) for e, n in zip(stream, each, strict=True)]
    return stream.changed(shorter, store)


def long_tail(counts: Sequence[int], ratio: float, order: Sequence[int]) -> list[int]:
    """How many rows of each class stay: `n ρ^(−i/(C − 1))` of the i-th in `order`, rounded, and at least one.

    ρ is the largest class's rows over the smallest's. Cui et al. 2019, "Class-Balanced Loss Based on Effective Number
    of Samples"; Liu et al. 2022, "Long-Tailed Class Incremental Learning", for class-incremental streams. n is the
    largest for which each class has rows enough: where all have as many, all of them. A class without rows has none.

    >>> long_tail([100, 100, 100], 100, [0, 1, 2])
    [100, 10, 1]
    >>> long_tail([100, 100, 100], 100, [2, 1, 0])
    [1, 10, 100]
    """
    present = [c for c in order if counts[c]]
    shares = {c: ratio ** (-i / max(len(present) - 1, 1)) for i, c in enumerate(present)}
    most = min(counts[c] / share for c, share in shares.items())
    return [max(1, round(most * shares[c])) if c in shares else 0 for c in range(len(counts))]


def _order(order: str, classes: int, seed: int) -> list[int]:
    if order == "natural":
        return list(range(classes))
    drawn: list[int] = torch.randperm(classes, generator=generator(seed, "imbalance order")).tolist()
    return drawn


def _listed(given: int | Sequence[int] | None, names: Sequence[str], what: str) -> list[int]:
    """One number for all, or one for each."""
    if isinstance(given, int):
        return [given] * len(names)
    listed = list(given or ())
    if len(listed) != len(names):
        key = "rows" if what == "class" else "rows_per_experience"
        raise UserError(
            f"stream.imbalance.{key}: give one number for each {what}: {len(names)} of them, not {len(listed)}"
        )
    return listed


def _refuse_scarce(counts: Sequence[int], wanted: Sequence[int], names: Sequence[str]) -> None:
    for c, (has, wants) in enumerate(zip(counts, wanted, strict=True)):
        if has < wants:
            raise UserError(f"stream.imbalance.rows: class {c} ({names[c]}) has {has} training rows, not {wants}")


def _smallest(y: Tensor, key: Tensor, wanted: Sequence[int]) -> Tensor:
    """`[N]` bool: of each class, so many rows with the smallest keys."""
    stays = torch.zeros(len(y), dtype=torch.bool)
    for c, count in enumerate(wanted):
        own = positions(y == c)
        stays[own[key[own].argsort()[:count]]] = True
    return stays


def _thin(store: Store, kept: Tensor) -> Store:
    """Only the rows at `kept`. Their pixels stay where they are: a copy of large data would not fit into memory."""
    blank = torch.empty(len(kept), *store.shape, dtype=store.train.x.dtype, device="meta")
    columns = {name: column[kept] for name, column in store.train.columns().items() if name != "x"}
    return replace(store, train=type(store.train)(x=blank, **columns))


def _widened(stream: Stream, store: Store, kept: Tensor) -> Stream:
    """In the whole store's numbering again."""

    def wide(rows: Rows) -> Rows:
        return replace(rows, x=store.train.x, index=kept[rows.index], sample_id=kept[rows.sample_id])

    wider = [replace(e, train=wide(e.train), validation=wide(e.validation)) for e in stream]
    return stream.changed(wider, store)


def _shortened(experience: Experience, count: int, key: Tensor) -> Experience:
    """With `count` training rows: at least one of each class, and of all classes about the same share.

    Rows without a label are a class of their own.
    """
    rows = experience.train
    present = [*labels_in(rows.y), *([-1] if bool((rows.y < 0).any()) else [])]
    if not len(present) <= count <= len(rows):
        raise UserError(
            f"stream.imbalance.rows_per_experience: experience {experience.index} ({experience.name}) has "
            f"{len(rows)} training rows of {len(present)} classes, so {count} cannot stay: give {len(present)} to "
            f"{len(rows)}"
        )
    place = torch.empty(len(rows), dtype=torch.float64)
    for c in present:
        own = positions(rows.y == c)
        rank = key[rows.sample_id[own]].argsort().argsort()
        place[own] = torch.where(rank == 0, -1.0, (rank.double() + 0.5) / len(own))
    return replace(experience, train=rows.select(place.argsort(stable=True)[:count].sort().values))
