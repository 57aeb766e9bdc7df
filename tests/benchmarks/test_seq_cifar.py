"""The benchmark for GPU machines runs where neither MLflow nor Avalanche is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BARE = f"""
import runpy, sys
sys.modules.update(dict.fromkeys(("mlflow", "avalanche", "torchvision", "sklearn", "matplotlib")))  # as if not there
sys.path.insert(0, {str(BENCHMARKS)!r})
sys.argv[0] = {str(BENCHMARKS / "seq_cifar.py")!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_it_runs_on_a_bare_machine(tmp_path: Path) -> None:
    words = "--steps 2 --rounds 1 --width 2 --variants eager"
    command = [sys.executable, "-c", BARE, *words.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Avalanche's row is left out: " in done.stdout
    for name in ("clkd, eager", "plain eager loop"):
        assert f"| {name} | " in done.stdout
    assert "`python benchmarks/seq_cifar.py --rounds 1 --steps 2 --variants eager" in done.stdout
