"""Runs as their directories hold them, with numbers that are known."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Write a run below ./runs; returns its directory."""
    monkeypatch.chdir(tmp_path)
    count = 0

    def run(name, seed, accuracy, **about):
        nonlocal count
        count += 1
        identity = about.get("id", f"{count:012x}")
        sha = about.get("sha", "ab" * 32)
        home = tmp_path / "runs" / f"{name}-{identity}"
        home.mkdir(parents=True)
        status = about.get("status", "finished")
        manifest = {
            "id": identity,
            "name": name,
            "created": 1000.0 + count,
            "limit_batches": about.get("limit_batches"),
            "origin": about.get("origin"),
            "stream": [{"fingerprint": about.get("print", "f0")}],
            "status": status,
        }
        tags = {
            "clkd.group": f"{name}-{sha[:8]}",
            "clkd.seed": str(seed),
            "clkd.config_sha": sha,
            "clkd.dataset": "cifar10",
            "clkd.version": about.get("version", "0.1.0"),
        }
        if stand_in := about.get("stand_in"):
            tags["clkd.stand_in"] = stand_in
        (home / "run.json").write_text(json.dumps(manifest))
        (home / "metrics.jsonl").write_text(json.dumps({"event": "start", "tags": tags}) + "\n")
        result = {
            "metrics": {"average_accuracy": accuracy, "forgetting": about.get("forgetting"), "backward_transfer": None}
            | about.get("metrics", {}),
            "compute": {"training_macs": about.get("macs", 1e9), "memory_bytes": about.get("memory", 1000)},
            "seconds": {"total": 10.0 * count},
            "rows_per_second": 100.0,
        }
        (home / "result.json").write_text(json.dumps(result))
        return home

    return run
