"""Streamed rows are the resident rows, read ahead by a thread that leaves nothing behind."""

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from clkd import checkpoint
from clkd.data.store import Store
from clkd.engine import residence
from clkd.engine.batches import AHEAD, batches
from clkd.engine.execute import execute
from clkd.experience import Rows
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest
from clkd.streams.domains import Permuted, Rotated

CPU = torch.device("cpu")
CLASSES = {"by": "class", "experiences": 2}
ROTATED = {"by": "domain", "transform": "rotated", "experiences": 2, "validation": 0.1}


def some_rows(n: int = 40, **facts: Any) -> Rows:
    draw = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (n + 5, 3, 6, 7), generator=draw, dtype=torch.uint8)
    index = torch.randperm(n + 5, generator=draw)[:n]
    return Rows(x, index % 3, index, index, domain=4, experience=2, **facts)


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "read-ahead" in thread.name]


@pytest.mark.parametrize("warp", [None, Permuted(3), Rotated(33.0)])
def test_a_streamed_batch_is_the_resident_one(warp: Any) -> None:
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    resident = batches(some_rows(warp=warp).ready("cpu"), order, 7, CPU)
    streamed = batches(some_rows(warp=warp, resident=False), order, 7, CPU)
    for a, b in zip(resident, streamed, strict=True):
        assert a.new == b.new
        for name in ("x", "y", "sample_id", "domain", "experience"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert not readers()


@pytest.mark.parametrize("warp", [Permuted(3), Rotated(33.0)])
def test_a_warp_turns_each_row_by_itself(warp: Any) -> None:
    x = some_rows(300).x
    whole = warp(x)
    for at in (torch.tensor([7]), torch.arange(64), torch.tensor([299, 3, 3])):
        assert torch.equal(warp(x[at]), whole[at])


def test_the_thread_stays_ahead_by_little_and_ends_with_the_epoch() -> None:
    asked: list[int] = []

    class Watched(Rows):
        def stored(self, at: torch.Tensor) -> Any:
            asked.append(len(asked))
            return super(Watched, self).stored(at)

    made = some_rows(resident=False)
    rows = Watched(made.x, made.y, made.index, made.sample_id, resident=False)
    with pytest.raises(KeyboardInterrupt), closing(batches(rows, torch.arange(40), 2, CPU)) as coming:
        for place, _ in enumerate(coming):
            assert readers()
            if place == 3:
                raise KeyboardInterrupt
    assert len(asked) <= 4 + AHEAD
    assert not readers()


def test_what_goes_wrong_in_the_thread_is_raised_where_the_batch_was_wanted() -> None:
    order = torch.tensor([0, 1, 2, 1000])
    with closing(batches(some_rows(resident=False), order, 2, CPU)) as coming:
        next(coming)
        with pytest.raises(IndexError, match="1000"):
            next(coming)
    assert not readers()


def scenario(home: Path, split: dict[str, Any], resident: bool, **changes: Any) -> RunRequest:
    data = {
        "name": "tiny",
        "output": str(home / f"run-{resident}"),
        "stream": {"dataset": {"name": "digits", "rows_per_class": 30}, "split": split, "resident": resident},
        "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
        "teachers": {
            "previous": "previous",
            "external": {"kind": "fit", "model": {"kind": "mlp", "hidden": [24]}, "epochs": 1},
        },
        "losses": [
            "cross_entropy",
            {"kind": "kd", "between": ["student", "previous"]},
            {"kind": "kd", "between": ["student", "external"]},
        ],
        "memory": {"kind": "class_balanced", "size": 25},
        "train": {"epochs": 2, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05}},
        "tracking": {"mode": "off"},
        **changes,
    }
    path = home / f"{resident}.yaml"
    path.write_text(to_yaml(data))
    return RunRequest(scenario=path, quiet=True)


@pytest.mark.parametrize("split", [CLASSES, ROTATED], ids=["classes", "rotated"])
def test_a_streamed_run_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: dict[str, Any]
) -> None:
    """The teacher that is fitted, too: each run has a cache of its own."""
    states = []
    for resident in (True, False):
        monkeypatch.setenv("CLKD_CACHE", str(tmp_path / f"cache-{resident}"))
        result = execute(scenario(tmp_path, split, resident), load_plugins())
        last = checkpoint.latest(tmp_path / f"run-{resident}" / "checkpoints")
        assert last is not None
        states.append((checkpoint.load(last), result["metrics"]))
    (a, numbers), (b, same) = states
    assert numbers == same
    assert list(tensors(a)) == list(tensors(b))
    for place, tensor in tensors(a).items():
        assert torch.equal(tensor, tensors(b)[place]), place
    assert any("student" in place for place in tensors(a))
    assert not readers()


def tensors(state: Any, place: str = "") -> dict[str, torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return {place: state}
    inner = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else ()
    return {where: t for key, value in inner for where, t in tensors(value, f"{place}.{key}").items()}


def test_auto_streams_what_does_not_fit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    rows = some_rows()
    split = type("Split", (), {"x": rows.x})
    store: Store = type("Data", (), {"train": split, "test": split})()  # type: ignore[assignment]
    size = 2 * rows.x.nbytes
    assert residence.footprint(store, []) == size  # type: ignore[arg-type]
    for room, fits in ((size, True), (size - 1, False)):
        monkeypatch.setattr(residence, "memory_of", lambda device, room=room: room / residence.SHARE)
        assert residence.stays_resident("auto", store, [], CPU) is fits  # type: ignore[arg-type]
        assert residence.stays_resident(False, store, [], CPU) is False  # type: ignore[arg-type]
        assert residence.stays_resident(True, store, [], CPU) is True  # type: ignore[arg-type]
