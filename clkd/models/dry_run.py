"""Trying a model on one row without leaving a trace in it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from clkd.frozen import Module, freeze
from clkd.seeding import forked


@contextmanager
def dry_run(model: Module, shape: tuple[int, ...]) -> Iterator[tuple[Module, Tensor]]:
    """A frozen copy of the model and one row of zeros `[1, *shape]`; model and random state stay as they are."""
    device = _device(model)
    with torch.no_grad(), forked(device):
        yield freeze(copy.deepcopy(model)), torch.zeros(1, *shape, device=device)


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
