"""Batches in their order: gathered on the device where rows are resident, read ahead by a thread where they are not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from clkd.experience import Rows
from clkd.signals import Batch

AHEAD = 2
"""Batches that are read before they are needed."""


def batches(rows: Rows, order: Tensor, size: int | list[int], device: torch.device) -> Generator[Batch]:
    """The rows at positions `order` (`[n]` int64), `size` at a time or as many as each of the sizes says, on `device`.

    The thread that reads streamed rows ahead ends with the generator: wrap it in `contextlib.closing`, so that this is
    not left to the garbage collector. What the thread raises is raised here.
    """
    cuts = cut(order.to(rows.index.device), size)
    if rows.resident:
        yield from map(rows.gather, cuts)
        return

    def read(at: Tensor) -> Batch:
        batch = rows.stored(at)
        return batch.pinned() if device.type == "cuda" else batch

    for batch in _read_ahead(read, cuts):
        yield rows.warped(batch.to(device))  # on the device, where resident rows are warped too


def cut(order: Tensor, size: int | list[int]) -> tuple[Tensor, ...]:
    """The positions of each batch. Of no position there is no batch, unless sizes say so."""
    return torch.split(order, size) if len(order) or isinstance(size, list) else ()


def named(coming: Iterable[Batch], labelled: Tensor | None, order: Tensor, size: int | list[int]) -> Iterator[Batch]:
    """The batches of `batches`, told which of their rows have a label (`[rows]` bool on the CPU; None means all)."""
    if labelled is None:
        yield from coming
        return
    for batch, at in zip(coming, cut(order, size), strict=True):
        yield replace(batch, labelled=labelled[at].nonzero().squeeze(1))


def _read_ahead(read: Callable[[Tensor], Batch], cuts: Iterable[Tensor]) -> Generator[Batch]:
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(1, "clkd-read-ahead") as thread:
        try:
            for at in cuts:
                waiting.append(thread.submit(read, at))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
