"""A tiny stream of coloured noise that a small network can learn, without any data set."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from clkd.data.augment import Augment
from clkd.engine.bar import Bar
from clkd.experience import Experience, Rows
from clkd.models.backbones.mlp import MLP
from clkd.models.heads import Linear
from clkd.models.student import Student
from clkd.plugins import Plugins, load_plugins
from clkd.schedules.base import Progress

WAITS = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "nonzero")
CLASSES, PER_CLASS, SHAPE = 4, 24, (3, 8, 8)


@pytest.fixture
def augment() -> Augment:
    return Augment(torch.full((3,), 0.5), torch.full((3,), 0.25), crop=0, flip=False)


@pytest.fixture
def table() -> tuple[Tensor, Tensor]:
    """`[96, 3, 8, 8]` uint8 and labels: each class has its own mean image."""
    draw = torch.Generator().manual_seed(7)
    centres = torch.randint(60, 200, (CLASSES, *SHAPE), generator=draw)
    y = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    noise = torch.randint(-50, 50, (len(y), *SHAPE), generator=draw)
    return (centres[y] + noise).clamp(0, 255).to(torch.uint8), y


def rows_of(table: tuple[Tensor, Tensor], classes: tuple[int, ...], experience: int) -> Rows:
    x, y = table
    index = torch.isin(y, torch.tensor(classes)).nonzero().flatten()
    return Rows(x, y[index], index, index, domain=0, experience=experience)


@pytest.fixture
def experiences(table: tuple[Tensor, Tensor]) -> list[Experience]:
    """Two experiences of two classes each."""
    made = []
    for i, classes in enumerate([(0, 1), (2, 3)]):
        rows = rows_of(table, classes, i)
        seen = tuple(range(2 * i + 2))
        made.append(Experience(i, classes, seen, rows, rows, rows, f"{list(classes)}", 2, known=2 * i))
    return made


@pytest.fixture
def make_student() -> Callable[[], Student]:
    def make() -> Student:
        torch.manual_seed(3)
        return Student(MLP(SHAPE, hidden=(16, 16)), Linear(16), SHAPE)

    return make


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the waiting calls made."""
    seen: list[str] = []
    for name in WAITS:
        plain = getattr(Tensor, name)

        def watched(self: Tensor, *args: Any, _name: str = name, _plain: Any = plain, **kwargs: Any) -> Any:
            seen.append(_name)
            return _plain(self, *args, **kwargs)

        monkeypatch.setattr(Tensor, name, watched)
    return seen


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps after which a real SIGTERM comes."""
    steps: list[int] = []
    draw = Bar.__call__

    def watched(self: Bar, progress: Progress) -> None:
        draw(self, progress)
        if progress.step in steps and self.what == "experience":
            steps.remove(progress.step)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Bar, "__call__", watched)
    return steps


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    """What clkd ships; a test that adds to it loads its own."""
    return load_plugins()
