"""Several streams as one: what came later follows what came before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clkd.experience import Experience, Rows
from clkd.streams.base import Stream, counted

if TYPE_CHECKING:
    from clkd.data.store import Store


@dataclass(frozen=True, slots=True)
class Piece:
    """One of the streams that are joined.

    Attributes:
        stream: with classes, experiences and sample ids of its own, all from 0.
        rows: how many training rows its data set has.
        new_domain: whether its domains are others than those before it.
    """

    stream: Stream
    rows: int
    new_domain: bool = False


def join(pieces: Sequence[Piece], store: Store) -> Stream:
    """The experiences of all pieces, in one numbering of classes, experiences, domains and rows.

    A class is known by its name: those that no earlier piece has get the next ids, in their own data set's order. Rows
    are numbered on, so that two pieces give the same numbers as one data set that holds the rows of both, in order.
    A name, whether tasks are told, and the normalization are the first piece's. `store` gives all but the class names.
    """
    first, names = pieces[0].stream, list(pieces[0].stream.class_names)
    experiences: list[Experience] = []
    rows = domains = 0
    for piece in pieces:
        offset = domains if piece.new_domain or piece.stream.name == "domain" else 0
        move = _Move(_ids(piece.stream, names), len(experiences), rows, offset)
        experiences += (move.experience(each) for each in piece.stream)
        rows += piece.rows
        domains = max(domains, *(each.train.domain + 1 for each in experiences))
    return Stream(first.name, counted(experiences), replace(store, class_names=tuple(names)), first.task_labels)


def _ids(stream: Stream, names: list[str]) -> tuple[int, ...]:
    """The global id of each of a stream's classes, -1 for one that it never brings; `names` is extended."""
    seen = set(stream[-1].seen)
    ids = []
    for own, name in enumerate(stream.class_names):
        if name not in names and own in seen:
            names.append(name)
        ids.append(names.index(name) if name in names else -1)
    return tuple(ids)


@dataclass(frozen=True, slots=True)
class _Move:
    """Into the joined numbering: the global id of each class, and what is added to the other numbers."""

    ids: tuple[int, ...]
    experiences: int
    rows: int
    domains: int

    def experience(self, own: Experience) -> Experience:
        classes = tuple(self.ids[c] for c in own.classes)
        return replace(
            own,
            index=own.index + self.experiences,
            classes=classes,
            name=self._name(own),
            train=self._rows(own.train, own.index),
            validation=self._rows(own.validation, own.index),
            test=self._rows(own.test, own.index),
        )

    def _name(self, own: Experience) -> str:
        """A name that begins with ids of its classes says the new ones."""
        for count in range(len(own.classes), 0, -1):
            told = str(list(own.classes[:count]))
            if own.name.startswith(told):
                return str([self.ids[c] for c in own.classes[:count]]) + own.name.removeprefix(told)
        return own.name

    def _rows(self, own: Rows, index: int) -> Rows:
        return replace(
            own,
            y=torch.tensor((*self.ids, -1))[own.y],  # the last answers for -1, no label
            sample_id=self._sample_id(own.sample_id),
            domain=own.domain + self.domains,
            experience=index + self.experiences,
        )

    def _sample_id(self, own: Tensor) -> Tensor:
        return own + self.rows if self.rows else own
