"""Data-incremental streams: more of the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from clkd.errors import UserError
from clkd.seeding import generator
from clkd.streams.base import Chunk, Stream, assemble

if TYPE_CHECKING:
    from clkd.data.store import Store


def by_data(*, store: Store, seed: int, experiences: int, validation: float = 0.0, offset: int = 0) -> Stream:
    """Each experience brings an equal, random share of the training rows.

    All experiences are tested on the whole test set, which is the same each time: row i of the accuracy matrix is
    constant, and forgetting is measured over time alone.
    """
    rows = len(store.train.y)
    if experiences > rows:
        raise UserError(f"experiences: {experiences} experiences need at least as many training rows, there are {rows}")
    shuffled = torch.randperm(rows, generator=generator(seed, "shares"))
    test = torch.arange(len(store.test.y))
    shares = torch.tensor_split(shuffled, experiences)
    chunks = [Chunk(f"share {offset + i}", share.sort().values, test) for i, share in enumerate(shares)]
    return Stream("data", assemble(chunks, store, seed, validation, offset), store)
