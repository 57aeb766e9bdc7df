"""Rows that stream take no more of a process's memory than was declared, however many there are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clkd.cache import cache_directory
from clkd.data.prepare import prepare
from clkd.plugins import load_plugins

ROWS, SHAPE = 8192, (3, 64, 64)
DATA = ROWS * 3 * 64 * 64
"""96 MiB, which each domain's training rows are."""
BUDGET = 32 * 2**20

SCRIPT = """
import re, sys
from pathlib import Path
import torch
from clkd.cache import cache_directory
from clkd.engine import residence
from clkd.engine.compose import Composer
from clkd.engine.loop import Loop
from clkd.options import Parsing
from clkd.plugins import load_plugins
from clkd.scenario.model import Scenario

wanted, budget, base = {"auto": "auto", "true": True}[sys.argv[1]], int(sys.argv[2]), Path(sys.argv[3])
residence.memory_of = lambda device: budget / residence.SHARE
registry = load_plugins().registry


def peak():
    # Of this process alone: ru_maxrss begins with what the process had that started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def train(dataset, resident):
    data = {
        "name": "long",
        "stream": {
            "dataset": dataset,
            "split": {"by": "domain", "transform": "permuted", "experiences": 2},
            "resident": resident,
        },
        "student": {"model": {"kind": "mlp", "hidden": [4]}, "head": "linear"},
        "train": {"batch_size": 32, "optimizer": {"kind": "sgd", "lr": 0.01}},
    }
    scenario = Scenario.model_validate(data, context=Parsing(registry))
    composed = Composer(scenario, registry, torch.device("cpu"), cache_directory(), base).compose()
    loop = Loop(composed.parts, scenario.train, seed=0)
    for experience in composed.stream:
        loop.train(experience, composed.parts.begin(experience, 0))
        composed.parts.end(experience)
    return composed.stream[0].train.resident


train({"name": "digits", "rows_per_class": 9}, True)  # whatever torch loads in its first step
before = peak()
streamed = not train({"name": "arrays", "path": "long.npz"}, wanted)
print(f'{{"streamed": {str(streamed).lower()}, "grown": {peak() - before}}}')
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with more rows than the budget has room for, decoded already."""
    x = np.random.default_rng(0).integers(0, 256, (ROWS, *SHAPE), dtype=np.uint8)
    y = np.arange(ROWS) % 10
    np.savez(tmp_path / "long.npz", x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])
    registry = load_plugins().registry
    part = registry.parse("datasets", {"name": "arrays", "path": "long.npz"})
    prepare(part, build=registry.build, cache=cache_directory(), base=tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("resident", ["auto", "true"])
def test_peak_memory_of_rows_that_exceed_the_budget(home: Path, resident: str) -> None:
    """Pages of the store's file count in the peak, though the system takes them back at will: at most once each.

    Kept resident, rows need more, which shows that the bound says something.
    """
    command = [sys.executable, "-c", SCRIPT, resident, str(BUDGET), str(home)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    if resident == "auto":
        assert found["streamed"]
        assert found["grown"] < DATA + BUDGET, f"{found['grown'] / 2**20:.0f} MiB"
    else:
        assert found["grown"] > 2 * DATA, f"{found['grown'] / 2**20:.0f} MiB"
