"""Streams that the data itself declares, row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from clkd.errors import UserError
from clkd.streams.base import Chunk, Stream, assemble, positions

if TYPE_CHECKING:
    from clkd.data.store import Store

ALL = -1
"""In a test row's experience column: this row tests every experience."""


def as_given(*, store: Store, seed: int, validation: float = 0.0, offset: int = 0) -> Stream:
    """The experiences of the data's `experience` columns, in ascending order; domains from its `domain` columns.

    Within an experience, rows arrive in the order of the data.

    Raises:
        UserError: the data has no such columns, an experience mixes domains, or one is empty.
    """
    train, test = store.train.experience, store.test.experience
    if train is None or test is None:
        raise UserError(f"by: given needs data that names each row's experience, and {store.name} does not")
    chunks = []
    for index, number in enumerate(torch.unique(torch.cat([train, test[test != ALL]])).tolist()):
        own, tests = positions(train == number), positions((test == number) | (test == ALL))
        chunks.append(Chunk(f"given {number}", own, tests, domain=_domain(store.train, own, index), ordered=True))
    return Stream("given", assemble(chunks, store, seed, validation, offset), store)


def _domain(split: Any, rows: torch.Tensor, index: int) -> int:
    """The one domain of an experience's training rows."""
    if split.domain is None:
        return 0
    domains: list[int] = torch.unique(split.domain[rows]).tolist()
    if len(domains) > 1:
        raise UserError(f"experience {index} mixes domains {domains}: an experience has one")
    return domains[0] if domains else 0
