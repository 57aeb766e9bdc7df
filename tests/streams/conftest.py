"""Small stores that streams are cut from."""

from collections.abc import Callable

import pytest
import torch

from clkd.data.source import Split
from clkd.data.store import Store


def split(y: torch.Tensor, shape: tuple[int, ...], **columns: torch.Tensor) -> Split:
    g = torch.Generator().manual_seed(len(y))
    return Split(torch.randint(0, 256, (len(y), *shape), generator=g, dtype=torch.uint8), y, **columns)


@pytest.fixture
def make_store() -> Callable[..., Store]:
    """A store of `classes` classes with unequal numbers of rows in random order."""

    def make(classes: int = 10, shape: tuple[int, ...] = (1, 5, 7), **names: tuple[str, ...]) -> Store:
        g = torch.Generator().manual_seed(classes)
        train = torch.cat([torch.full((20 + 3 * c,), c) for c in range(classes)])
        test = torch.cat([torch.full((5 + c,), c) for c in range(classes)])
        train, test = train[torch.randperm(len(train), generator=g)], test[torch.randperm(len(test), generator=g)]
        class_names = names.get("class_names", tuple(f"name {c}" for c in range(classes)))
        return Store("small", split(train, shape), split(test, shape), class_names, torch.zeros(1), torch.ones(1), "f")

    return make


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    return make_store()
