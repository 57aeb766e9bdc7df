"""The latest embeddings of a teacher, with the row and the class that each is about."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

EMPTY = -2
"""The row of a place that is empty; -1 is that of rows that a memory made up."""


class EmbeddingQueue:
    """A ring of `size` embeddings; the oldest make way. Nothing here waits for the device.

    >>> queue = EmbeddingQueue(size=2, dim=1)
    >>> queue.push(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([7, 8, 9]), torch.tensor([0, 0, 1]))
    >>> queue.sample_id.tolist(), queue.label.tolist()
    ([8, 9], [0, 1])
    """

    def __init__(self, size: int, dim: int) -> None:
        self.keys = torch.zeros(size, dim)
        self.sample_id = torch.full((size,), EMPTY)
        self.label = torch.full((size,), -1)
        self.next = 0

    def to(self, device: torch.device) -> EmbeddingQueue:
        """Itself, on `device`."""
        if self.keys.device != device:
            self.keys, self.sample_id, self.label = (
                tensor.to(device) for tensor in (self.keys, self.sample_id, self.label)
            )
        return self

    def push(self, keys: Tensor, sample_id: Tensor, label: Tensor) -> None:
        """Keep `[n, dim]` embeddings of rows `[n]`; of more than there is room for, the last."""
        size = len(self.keys)
        keys, sample_id, label = (tensor[max(len(tensor) - size, 0) :] for tensor in (keys, sample_id, label))
        if not size or not len(keys):
            return
        at = torch.arange(self.next, self.next + len(keys), device=keys.device) % size
        self.keys[at], self.sample_id[at], self.label[at] = keys.to(self.keys.dtype), sample_id, label
        self.next = (self.next + len(keys)) % size

    def state(self) -> dict[str, Any]:
        """What `load` takes."""
        return {"keys": self.keys, "sample_id": self.sample_id, "label": self.label, "next": self.next}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state, which stays its owner's; of one of another size, with the latest that have room."""
        size, old = len(self.keys), len(state["keys"])
        self.keys, self.sample_id, self.label = (state[name].clone() for name in ("keys", "sample_id", "label"))
        self.sample_id[~self.keys.any(1)] = EMPTY  # which earlier versions said by -1
        self.next = state["next"]
        if size != old:
            self._resize(size)

    def _resize(self, size: int) -> None:
        order = (self.next + torch.arange(len(self.keys), device=self.keys.device)) % max(len(self.keys), 1)
        oldest_first = order[self.sample_id[order] != EMPTY]
        held = [tensor[oldest_first] for tensor in (self.keys, self.sample_id, self.label)]
        fresh = EmbeddingQueue(size, self.keys.shape[1]).to(self.keys.device)
        self.keys, self.sample_id, self.label, self.next = fresh.keys, fresh.sample_id, fresh.label, 0
        self.push(held[0], held[1], held[2])
