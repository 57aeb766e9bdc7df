"""Class- and task-incremental streams: new classes in each experience."""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from clkd.errors import UserError, did_you_mean
from clkd.seeding import generator
from clkd.streams import ClassName, ClassOptions
from clkd.streams.base import Chunk, Stream, assemble, dealt, positions
from clkd.streams.blurry import blurred
from clkd.streams.places import by_place

if TYPE_CHECKING:
    from clkd.data.store import Store

Groups = Sequence[Sequence[ClassName]]
Order = Literal["natural", "random"] | Sequence[ClassName]


def by_class(
    *,
    store: Store,
    seed: int,
    experiences: int | None = None,
    classes: Groups | None = None,
    first: int | None = None,
    order: Order = "natural",
    order_seed: int | None = None,
    sizes: Literal["even", "random"] = "even",
    blur: float = 0.0,
    disjoint: float = 0.0,
    fuzzy: float = 0.0,
    labels: Literal["own", "place"] = "own",
    validation: float = 0.0,
    offset: int = 0,
) -> Stream:
    """Class-incremental: the classes are dealt out to the experiences, and a test may ask about all of them.

    Rows without a label belong to no class: they are dealt out evenly, at random.

    With `blur` and `fuzzy`, training rows come in other experiences than their class's own (`clkd.streams.blurry`).
    Each row still comes once, and each experience is tested on the classes dealt to it, so that each test row counts
    once. Options are those of `clkd.streams.ClassOptions`.

    Raises:
        UserError: a class does not exist or is named twice, or an experience would be empty.
    """
    if classes is not None:
        groups = [_ids(group, store.class_names) for group in classes]
        _refuse_repeated([c for group in groups for c in group], store.class_names)
    else:
        assert experiences is not None, "ClassOptions asks for experiences where there are no classes"
        problem = ClassOptions(experiences=experiences, first=first).problem(len(store.class_names))
        if problem:
            raise UserError(problem)
        ordered = _ordered(order, store.class_names, seed if order_seed is None else order_seed)
        cuts = generator(seed, "sizes", offset)
        groups = deal(ordered, experiences, first) if sizes == "even" else deal_at_random(ordered, experiences, cuts)
    chunks = _chunks(groups, store, generator(seed, "unlabelled", offset))
    if blur or fuzzy:
        chunks = blurred(chunks, store.train.y, blur, disjoint, fuzzy, generator(seed, "blurry", offset))
    stream = Stream("class", assemble(chunks, store, seed, validation, offset), store)
    return by_place(stream, store) if labels == "place" else stream


@wraps(by_class, assigned=())  # whoever asks for its parameters is told those of `by_class`
def by_task(**options: Any) -> Stream:
    """Task-incremental: the experiences of `by_class`, and a test says which experience a row belongs to."""
    stream = by_class(**options)
    return Stream("task", stream, options["store"], task_labels=True)


def deal(ordered: Sequence[int], experiences: int, first: int | None = None) -> list[list[int]]:
    """Spread classes over experiences as `numpy.array_split` does.

    >>> deal(range(10), 4)
    [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    >>> deal(range(10), 3, first=6)
    [[0, 1, 2, 3, 4, 5], [6, 7], [8, 9]]
    """
    if first is not None:
        return [list(ordered[:first]), *deal(ordered[first:], experiences - 1)]
    return [part.tolist() for part in np.array_split(np.asarray(ordered), experiences)]


def deal_at_random(ordered: Sequence[int], experiences: int, draw: torch.Generator) -> list[list[int]]:
    """Cut the order at random places: every way to give each experience at least one class is equally probable."""
    inner = 1 + torch.randperm(len(ordered) - 1, generator=draw)[: experiences - 1].sort().values
    return [part.tolist() for part in np.split(np.asarray(ordered), inner.numpy())]


def _ordered(order: Order, names: tuple[str, ...], seed: int) -> list[int]:
    if order == "natural":
        return list(range(len(names)))
    if order == "random":
        drawn: list[int] = torch.randperm(len(names), generator=generator(seed, "class order")).tolist()
        return drawn
    ids = _ids([order] if isinstance(order, str) else order, names)
    _refuse_repeated(ids, names)
    missing = [names[c] for c in range(len(names)) if c not in ids]
    if missing:
        raise UserError(
            f"order: {', '.join(missing)} missing: name every class once, or use `classes` to leave some out"
        )
    return ids


def _ids(classes: Sequence[ClassName], names: tuple[str, ...]) -> list[int]:
    return [_id(c, names) for c in classes]


def _id(c: ClassName, names: tuple[str, ...]) -> int:
    """A class's id, whether it was given by id or by name."""
    if isinstance(c, str):
        if c not in names:
            raise UserError(f"class '{c}' does not exist, {did_you_mean(c, names)}")
        return names.index(c)
    if not 0 <= c < len(names):
        raise UserError(f"class {c} does not exist, the data set has classes 0 to {len(names) - 1}")
    return c


def _refuse_repeated(ids: list[int], names: tuple[str, ...]) -> None:
    for c in ids:
        if ids.count(c) > 1:
            raise UserError(f"class {c} ({names[c]}) is named {ids.count(c)} times: each class arrives once")


def _refuse_empty(ids: list[int], store: Store) -> None:
    """A class that nobody can learn is left out by name, not in silence."""
    rows = torch.bincount(store.train.y[store.train.y >= 0], minlength=len(store.class_names))
    for c in ids:
        if not rows[c]:
            raise UserError(
                f"class {c} ({store.class_names[c]}) has no training rows: leave it out by listing the others in "
                f"`classes`"
            )


def _chunks(groups: list[list[int]], store: Store, draw: torch.Generator) -> list[Chunk]:
    _refuse_empty([c for group in groups for c in group], store)
    nameless = dealt(positions(store.train.y < 0), len(groups), draw)
    chunks = []
    for group, more in zip(groups, nameless, strict=True):
        of_group = torch.tensor(group, dtype=torch.int64)
        train, test = (positions(torch.isin(split.y, of_group)) for split in (store.train, store.test))
        chunks.append(Chunk(str(group), torch.cat([train, more]).sort().values, test, classes=tuple(group)))
    return chunks
