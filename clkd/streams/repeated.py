"""Streams in which classes come again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from clkd.errors import UserError
from clkd.seeding import generator
from clkd.streams.base import Chunk, Stream, assemble, dealt, labels_in, positions

if TYPE_CHECKING:
    from clkd.data.store import Store


def by_repeated(
    *,
    store: Store,
    seed: int,
    experiences: int,
    repetition: float,
    first_occurrence: float = 0.0,
    rows: int | None = None,
    test: Literal["own", "all"] = "own",
    validation: float = 0.0,
    offset: int = 0,
) -> Stream:
    """Class-incremental with repetition: a class comes first at a random time, and again with a probability.

    Hemati et al. 2023, "Class-Incremental Learning with Repetition". With `rows` it is their sampling-based generator,
    with a geometric first occurrence (cut off at the stream's end) and one probability of repetition for all classes:
    rows come again, too. Without, a class's rows are split over the experiences that it comes in, so that each row
    comes once, as in their slot-based generator.

    An experience in which no class would come has one of those that came before, drawn evenly. Rows without a label are
    dealt out evenly, at random. Options are those of `clkd.streams.RepeatedOptions`.

    Raises:
        UserError: there are too few rows for so many experiences.
    """
    y, draw = store.train.y, generator(seed, "repeated", offset)
    ids = labels_in(y)
    comes = occurrences(len(ids), experiences, repetition, first_occurrence, draw)
    taken = _split(y, ids, comes, draw) if rows is None else _sampled(y, ids, comes, rows, draw)
    nameless = dealt(positions(y < 0), experiences, draw)
    every, chunks = torch.arange(len(store.test)), []
    for own, more in zip(taken, nameless, strict=True):
        classes = labels_in(y[own])
        tests = every if test == "all" else positions(torch.isin(store.test.y, torch.tensor(classes)))
        chunks.append(Chunk(str(classes), torch.cat([own, more]).sort().values, tests, classes=tuple(classes)))
    return Stream("repeated", assemble(chunks, store, seed, validation, offset), store)


def occurrences(
    classes: int, experiences: int, repetition: float, first_occurrence: float, draw: torch.Generator
) -> Tensor:
    """`[C, E]` bool, which class comes when.

    >>> occurrences(2, 3, 1.0, 1.0, torch.Generator()).tolist()
    [[True, True, True], [True, True, True]]
    """
    time = torch.arange(experiences)
    chance = (1 - first_occurrence) ** time.double()
    first = torch.multinomial(chance, classes, replacement=True, generator=draw)
    first[first.argmin()] = 0  # the stream begins with a class
    again = torch.rand(classes, experiences, generator=draw) < repetition
    comes = (time == first[:, None]) | ((time > first[:, None]) & again)
    for i in positions(~comes.any(0)).tolist():
        seen = positions(first < i)
        comes[seen[torch.randint(len(seen), (), generator=draw)], i] = True
    return comes


def _split(y: Tensor, ids: list[int], comes: Tensor, draw: torch.Generator) -> list[Tensor]:
    """Each row once: those of a class are dealt to the experiences that it comes in."""
    taken: list[list[Tensor]] = [[] for _ in range(comes.shape[1])]
    for c, when in zip(ids, comes, strict=True):
        own, times = positions(y == c), positions(when).tolist()
        if len(own) < len(times):
            raise UserError(
                f"class {c} has {len(own)} training rows, and would come {len(times)} times: take fewer experiences, a "
                "lower repetition, or give `rows`, with which rows come again"
            )
        for i, part in zip(times, dealt(own, len(times), draw), strict=True):
            taken[i].append(part)
    return [torch.cat(parts) for parts in taken]


def _sampled(y: Tensor, ids: list[int], comes: Tensor, rows: int, draw: torch.Generator) -> list[Tensor]:
    """In each experience `rows` of all rows of its classes, as many of each, each row at most once."""
    taken = []
    for i in range(comes.shape[1]):
        present = [ids[at] for at in positions(comes[:, i]).tolist()]
        if rows < len(present):
            raise UserError(f"rows: experience {i} has {len(present)} classes, and only {rows} rows: raise it")
        more = set(torch.randperm(len(present), generator=draw)[: rows % len(present)].tolist())
        parts = []
        for place, c in enumerate(present):
            own = positions(y == c)
            wanted = rows // len(present) + (place in more)
            parts.append(own[torch.randperm(len(own), generator=draw)[:wanted]])
        taken.append(torch.cat(parts))
    return taken
