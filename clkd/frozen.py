"""Models that teach must not move: freezing them, and noticing when they moved after all."""

from __future__ import annotations

import hashlib
import itertools
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def freeze(module: Module) -> Module:
    """The same module in eval mode, with no parameter that asks for a gradient."""
    module.eval()
    module.requires_grad_(False)
    return module


def state_hash(module: nn.Module) -> str:
    """SHA-256 over the name, dtype, shape and bytes of every parameter and buffer (also non-persistent ones).

    The memory layout does not count: channels-last or not, the same numbers give the same hash. Reads everything
    back to the host, so it belongs between experiences, not into a step.
    """
    digest = hashlib.sha256()
    for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    """Viewed as uint8 because numpy has no bfloat16."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
