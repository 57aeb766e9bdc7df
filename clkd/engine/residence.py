"""Where rows live while they are trained on: on the device, or in the store."""

from __future__ import annotations

import logging
import os

import torch

from clkd.data.store import Store
from clkd.streams.base import Stream

log = logging.getLogger("clkd.engine")

SHARE = 0.5
"""How much of the device's memory rows may take, so that models, gradients and other programs find room."""


def stays_resident(wanted: bool | str, store: Store, stream: Stream, device: torch.device) -> bool:
    """What `stream.resident` comes to for this data on this device."""
    if isinstance(wanted, bool):
        return wanted
    size, room = footprint(store, stream), SHARE * memory_of(device)
    if size > room:
        log.info(
            "rows stay in the store and are read ahead: they would take %.1f GB of %s, where %.1f GB are theirs",
            size / 1e9, device, room / 1e9,
        )  # fmt: skip
    return size <= room


def footprint(store: Store, stream: Stream) -> int:
    """Bytes of all rows, and of the largest experience's warped copy."""
    selections = [rows for e in stream for rows in (e.train, e.validation, e.test)]
    own = store.train.x, store.test.x
    added = {id(rows.x): rows.x.nbytes for rows in selections if not any(rows.x is x for x in own)}
    warped = [len(rows) * rows.x[:1].nbytes for rows in selections if rows.warp is not None]
    return int(sum(x.nbytes for x in own)) + sum(added.values()) + max(warped, default=0)


def memory_of(device: torch.device) -> int:
    """Bytes that are free on a GPU; for the CPU all of the machine's, since the system takes pages back by itself."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES"))
