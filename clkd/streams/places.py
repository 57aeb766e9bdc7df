"""Classes that are called by their place in their experience, which makes domains of the experiences."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from clkd.experience import Experience, Rows
from clkd.streams.base import Stream, counted

if TYPE_CHECKING:
    from clkd.data.store import Store


def by_place(stream: Stream, store: Store) -> Stream:
    """A domain-incremental stream of a class-incremental one: the k-th class of each experience becomes class k.

    van de Ven & Tolias 2019, "Three scenarios for continual learning", split MNIST as domain-incremental learning.
    """
    most = max(len(experience.classes) for experience in stream)
    named = replace(store, class_names=tuple(f"place {k}" for k in range(most)))
    return Stream("domain", counted([_placed(e, len(store.class_names)) for e in stream]), named)


def _placed(own: Experience, classes: int) -> Experience:
    place = torch.full((classes + 1,), -1)  # the last answers for -1, no label
    place[torch.tensor(own.classes)] = torch.arange(len(own.classes))

    def called(rows: Rows) -> Rows:
        return replace(rows, y=place[rows.y], domain=own.index)

    return replace(
        own,
        classes=tuple(range(len(own.classes))),
        called=own.classes,
        train=called(own.train),
        validation=called(own.validation),
        test=called(own.test),
    )
