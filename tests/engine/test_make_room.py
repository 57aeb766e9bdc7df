"""Several runs in one process: none holds on to what the one before it took."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clkd.engine.compose import Composer, Composition
from clkd.models.student import Student
from clkd.reproduce.runner import Task, run
from clkd.scenario.document import to_yaml

SCENARIO: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 20}, "split": {"by": "class", "experiences": 2}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
    "train": {"epochs": 1, "batch_size": 32, "optimizer": {"kind": "sgd", "lr": 0.05}},
    "tracking": {"mode": "off"},
}


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many students of earlier runs are still there when each run is composed; nothing is collected by chance."""
    compose, made, counts = Composer.compose, list[weakref.ref[Student]](), list[int]()

    def watched(self: Composer, teach: bool = True) -> Composition:
        counts.append(sum(each() is not None for each in made))
        composed = compose(self, teach)
        made.append(weakref.ref(composed.parts.student))
        return composed

    monkeypatch.setattr(Composer, "compose", watched)
    gc.disable()
    yield counts
    gc.enable()


def write(home: Path) -> Path:
    path = home / "tiny.yaml"
    path.write_text(to_yaml(SCENARIO))
    return path


@pytest.mark.slow
def test_several_seeds(
    left: list[int], tmp_path: Path, clkd: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, _ = clkd("run", str(write(tmp_path)), "--seed", "0", "1", "2", "-q")
    assert (code, left) == (0, [0, 0, 0])


@pytest.mark.slow
def test_the_rows_of_a_table(left: list[int], tmp_path: Path) -> None:
    for seed in range(3):
        run(Task(write(tmp_path), (), "average_accuracy", "row", seed, "digest"))
    assert left == [0, 0, 0]
