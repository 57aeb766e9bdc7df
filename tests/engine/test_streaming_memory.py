"""Rows that stream take no more of a process's memory than was declared, however many there are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

SIDE, ROWS = 64, 8192
DATA = ROWS * 3 * SIDE * SIDE
"""96 MiB, which each domain's training rows are."""
BUDGET = 32 * 2**20

SCRIPT = """
import json, re, sys
from pathlib import Path
import torch
from clkd.cache import cache_directory
from clkd.engine import residence
from clkd.engine.compose import Composer
from clkd.engine.loop import Loop
from clkd.options import Parsing
from clkd.plugins import load_plugins
from clkd.scenario.model import Scenario

resident, budget = sys.argv[1], int(sys.argv[2])
residence.memory_of = lambda device: budget / residence.SHARE
registry = load_plugins().registry


def peak():
    # Of this process alone; ru_maxrss begins with what the process had that started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def train(dataset, resident):
    data = {
        "name": "long",
        "stream": {
            "dataset": dataset,
            "split": {"by": "domain", "transform": "permuted", "experiences": 2},
            "resident": {"auto": "auto", "true": True}[resident],
        },
        "student": {"model": {"kind": "mlp", "hidden": [4]}, "head": "linear"},
        "train": {"batch_size": 256, "optimizer": {"kind": "sgd", "lr": 0.01}},
    }
    scenario = Scenario.model_validate(data, context=Parsing(registry))
    composed = Composer(scenario, registry, torch.device("cpu"), cache_directory(), Path.cwd()).compose()
    loop = Loop(composed.parts, scenario.train, seed=0)
    for experience in composed.stream:
        loop.train(experience, composed.parts.begin(experience, 0))
        composed.parts.end(experience)
    return composed.stream[0].train.resident


train("digits", "true")  # whatever torch loads in a first step
before = peak()
streamed = not train({"name": "arrays", "path": "long.npz"}, resident)
print(json.dumps({"streamed": streamed, "grown": peak() - before}))
"""


def trained(home: Path, resident: str) -> dict[str, int]:
    command = [sys.executable, "-c", SCRIPT, resident, str(BUDGET)]
    done = subprocess.run(command, cwd=home, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_peak_memory_of_rows_that_exceed_the_budget(tmp_path: Path) -> None:
    """Pages of the store's file count in the peak, though the system takes them back at will: at most once each."""
    x = np.random.default_rng(0).integers(0, 256, (ROWS, 3, SIDE, SIDE), dtype=np.uint8)
    y = np.arange(ROWS) % 10
    np.savez(tmp_path / "long.npz", x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])
    trained(tmp_path, "auto")  # decodes
    streamed, resident = trained(tmp_path, "auto"), trained(tmp_path, "true")
    assert streamed["streamed"]
    assert not resident["streamed"]
    assert streamed["grown"] < DATA + BUDGET, f"{streamed['grown'] / 2**20:.0f} MiB"
    assert resident["grown"] > 2 * DATA, f"{resident['grown'] / 2**20:.0f} MiB: this test would notice nothing"
