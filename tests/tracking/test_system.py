"""Samples of the machine: told in the run's record, brought into MLflow, and asked for only where they can be had."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from clkd.errors import UserError
from clkd.tracking import events, store
from clkd.tracking.jsonl import JsonlTracker
from clkd.tracking.sync import sync
from clkd.tracking.system import DEFAULT, Sampler, _gpus, interval


def samples(path: Path) -> list[dict[str, Any]]:
    told, _ = events.read(path)
    return [sample for event in told if event["event"] == events.SYSTEM for sample in event["samples"]]


def wait_for_one(sampler: Sampler) -> None:
    deadline = time.monotonic() + 30
    while not sampler._taken:
        assert time.monotonic() < deadline, "no sample comes"
        time.sleep(0.01)


def test_samples_are_told_between_the_moments_and_survive_a_resume(
    make_run: Any, drive: Any, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psutil")
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    run, tracker = make_run(), JsonlTracker(system_metrics=0.01)
    tracker.start(run)
    assert tracker._sampler is not None
    wait_for_one(tracker._sampler)
    drive.train(tracker, run, 0)
    drive.finish(tracker, run, 0)
    tracker._sampler.close()
    first = len(samples(run.directory / "metrics.jsonl"))
    assert first > 0
    again = make_run(trained=1)
    drive(JsonlTracker(), again)
    found = samples(again.directory / "metrics.jsonl")
    assert len(found) == first
    for sample in found:
        assert 0 < sample["metrics"]["system/system_memory_usage_percentage"] <= 100
        assert 10 < sample["metrics"]["system/process_memory_usage_megabytes"] < 1e6
        assert 0 <= sample["step"] < 100
    sync(again.directory)
    assert not sync(again.directory).brought
    client = store.open_client(store.resolve_uri(None))
    experiment = client.get_experiment_by_name("tiny").experiment_id
    (parent,) = client.search_runs([experiment], "tags.`clkd.run_id` = 'tiny-1'")
    steps = [p.step for p in client.get_metric_history(parent.info.run_id, "system/cpu_utilization_percentage")]
    assert steps
    assert set(steps) == {sample["step"] for sample in found}


def test_by_default_nobody_looks(make_run: Any, drive: Any) -> None:
    run = drive(JsonlTracker())
    assert not samples(run.directory / "metrics.jsonl")
    assert "system" not in json.dumps(events.read(run.directory / "metrics.jsonl")[0])


def test_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interval(False) is None
    if importlib.util.find_spec("psutil"):
        assert (interval(True), interval(2.5)) == (DEFAULT, 2.5)
    monkeypatch.setattr("clkd.tracking.system.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"tracking.system_metrics needs psutil: pip install 'clkd\[sysmetrics\]'"):
        interval(True)


def test_only_gpus_with_tensors_of_this_process_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none here: torch's answers are made up. Asking one for its memory would take some of it."""
    asked: list[int] = []

    def of_one(i: int) -> tuple[int, int]:
        asked.append(i)
        return 2**30, 2**32

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda i: 2**20 * (i == 1))
    monkeypatch.setattr(torch.cuda, "mem_get_info", of_one)
    monkeypatch.setattr("clkd.tracking.system.find_spec", lambda name: None)
    assert _gpus() == {"system/gpu_1_memory_usage_megabytes": 3072, "system/gpu_1_memory_usage_percentage": 75}
    assert asked == [1]
