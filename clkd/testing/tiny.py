"""A stream that trains in a moment: two experiences of 32 rows each, and runs on it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clkd.cache import cache_directory
from clkd.context import Context
from clkd.data.source import Split
from clkd.data.store import Store, statistics
from clkd.engine.compose import Composer, Composition
from clkd.engine.execute import execute
from clkd.experience import Experience
from clkd.models.backbones.mlp import MLP
from clkd.models.heads import Linear
from clkd.models.student import Student
from clkd.plugins import Plugins
from clkd.registry import Registry
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load
from clkd.scenario.request import RunRequest
from clkd.seeding import generator
from clkd.signals import Batch
from clkd.streams.base import Stream
from clkd.streams.classes import by_class

CLASSES = ("top", "bottom", "left", "right")
"""Which half of the picture is bright; two classes come in each experience."""
SHAPE = (1, 8, 8)
ROWS = 32
"""Training rows of each experience; half as many are for tests."""
SCENARIO: dict[str, Any] = {
    "name": "tiny",
    "device": "cpu",
    "stream": {"dataset": {"name": "arrays", "path": "tiny.npz"}, "split": {"by": "class", "experiences": 2}},
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "losses": ["cross_entropy"],
    "train": {"epochs": 2, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.1}},
    "tracking": {"mode": "off"},
}
"""What a run of `Tiny` is, but for the sections that are given."""


def split(rows: int, seed: int) -> Split:
    """So many pictures of every class, class by class, with the experience that each belongs to."""
    noise = torch.randint(0, 128, (rows * len(CLASSES), *SHAPE), generator=generator(seed, "tiny"), dtype=torch.uint8)
    y = torch.arange(len(CLASSES)).repeat_interleave(rows)
    bright = torch.zeros(len(CLASSES), *SHAPE, dtype=torch.uint8)
    bright[0, :, :4], bright[1, :, 4:], bright[2, ..., :4], bright[3, ..., 4:] = 127, 127, 127, 127
    return Split(noise + bright[y], y, experience=y // 2)


def store() -> Store:
    """The data set, in memory."""
    train = split(ROWS // 2, 0)
    mean, std = statistics(train.x)
    return Store("tiny", train, split(ROWS // 4, 1), CLASSES, mean, std, "tiny", requested="tiny")


def stream() -> Stream:
    """Its two experiences."""
    return by_class(store=store(), seed=0, experiences=2)


def student() -> Student:
    """A small student that knows no class yet, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Student(MLP(SHAPE, hidden=(16,)), Linear(16), SHAPE)
    made.request(("penultimate",))
    return made


def grow(model: Student, experience: Experience) -> None:
    """Make room for an experience's classes, as a run does."""
    model.grow(experience.classes, experience.index, generator(0, "head", experience.index))


def learn(model: Student, experience: Experience) -> None:
    """One step of gradient descent on all of an experience's rows."""
    rows = experience.train.gather(torch.arange(len(experience.train)))
    place = {c: i for i, c in enumerate(model.class_ids)}
    target = torch.tensor([place[c] for c in rows.y.tolist()])
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    optimizer.zero_grad()
    torch.autograd.backward(torch.nn.functional.cross_entropy(model.train()(seen(rows).x), target))
    optimizer.step()


def seen(rows: Batch) -> Batch:
    """Rows as models see them."""
    return rows.seen_as(rows.x.float() / 255)


def batch(experience: Experience) -> Batch:
    """Eight new rows of an experience, and four of the stream's first, as if a memory replayed them."""
    spread = torch.arange(0, ROWS, ROWS // 8)
    draws = generator(0, "tiny", "stored")
    stored = {name: torch.randn(4, width, generator=draws) for name, width in (("logits", 4), ("penultimate", 16))}
    replayed = replace(stream()[0].train.gather(spread[:4] + 1), new=0, extra=stored)
    return seen(experience.train.gather(spread).joined(replayed))


def equal_rows(x: Tensor) -> Iterator[bytes]:
    """Each row's bytes, by which two rows are the same."""
    flat = np.ascontiguousarray(x.flatten(1).numpy())
    return (row.tobytes() for row in flat)


class Tiny:
    """The stream, and scenarios on it, for tests of a plugin.

    Args:
        folder: where files go; empty.
        plugins: whose parts scenarios may name.
        cache: for decoded data; by default `$CLKD_CACHE`.
    """

    def __init__(self, folder: Path, plugins: Plugins, cache: Path | None = None) -> None:
        self.folder, self.plugins, self._cache = folder, plugins, cache
        self._count = itertools.count()

    @property
    def registry(self) -> Registry:
        return self.plugins.registry

    @cached_property
    def stream(self) -> Stream:
        """Two experiences of 32 training rows."""
        return stream()

    @cached_property
    def context(self) -> Context:
        """What factories may ask for by the parameter `context`."""
        return self._composer({}).ground().context

    def scenario(self, **sections: Any) -> Path:
        """A scenario file on this data, each of its top-level `sections` instead of the usual one.

        Relative paths in it start at `folder`.
        """
        self._write_rows()
        path = self.folder / f"tiny-{next(self._count)}.yaml"
        path.write_text(to_yaml({"output": str(self.folder / "runs" / path.stem), **SCENARIO, **sections}))
        return path

    def compose(self, **sections: Any) -> Composition:
        """All objects that such a scenario names, built and tried as before a run."""
        return self._composer(sections).compose()

    def run(self, **sections: Any) -> dict[str, Any]:
        """Train such a scenario to its end: what `clkd run --json` prints."""
        return execute(RunRequest(scenario=self.scenario(**sections), quiet=True), self.plugins)

    def _composer(self, sections: dict[str, Any]) -> Composer:
        loaded = load(self.scenario(**sections), [], self.registry)
        return Composer(
            loaded.scenario, self.registry, torch.device("cpu"), self._cache or cache_directory(), loaded.base
        )

    def _write_rows(self) -> None:
        path = self.folder / "tiny.npz"
        if not path.exists():
            train, test = store().train, store().test
            np.savez(
                path,
                class_names=np.array(CLASSES),
                x_train=train.x.numpy(),
                y_train=train.y.numpy(),
                x_test=test.x.numpy(),
                y_test=test.y.numpy(),
            )
