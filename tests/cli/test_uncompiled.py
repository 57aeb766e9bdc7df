"""A run that compiles nothing does not load torch's compiler, and whoever wants it afterwards gets it whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCENARIO = """\
name: tiny
stream: {dataset: {name: digits, rows_per_class: 8}, split: {by: class, experiences: 2}}
student: {model: {kind: mlp, hidden: [8]}, head: linear}
train: {batch_size: 8, optimizer: {kind: KIND, lr: 0.05}, scheduler: {kind: cosine}}
tracking: {mode: "off"}
"""
RUN = """
import sys, warnings
from clkd.cli.main import main
assert main(["run", "tiny.yaml", "-q"]) == 0
assert "torch._dynamo.convert_frame" not in sys.modules, "it was loaded"
warnings.simplefilter("ignore")
"""
ASKS = {
    "compile": "import torch; assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item() == 2",
    "submodule": "import torch._dynamo.config; assert torch._dynamo.config.recompile_limit > 0",
}
STILL = """
import torch
assert sys.modules["torch._dynamo"] is torch._dynamo and torch._dynamo.__file__
weight = torch.ones(2, requires_grad=True)
optimizer = torch.optim.SGD([weight], lr=1.0)
weight.sum().backward()
optimizer.step()
optimizer.zero_grad()
assert weight.tolist() == [0, 0] and weight.grad is None
"""
EACH = """
import os
for name, ask in ASKS.items():
    child = os.fork()
    if child == 0:
        try:
            exec(ask + STILL)
        except BaseException as error:
            print(name, repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""


@pytest.mark.slow
def test_it_is_there_when_it_is_asked_for(tmp_path: Path) -> None:
    """In whatever way: each is tried in a process of its own, which goes on from the run's end."""
    code = f"{RUN}\nASKS, STILL = {ASKS!r}, {STILL!r}\n{EACH}"
    assert_ends_well(tmp_path, code, "adam")


@pytest.mark.slow  # compiles
def test_a_run_that_compiles_gets_it(tmp_path: Path) -> None:
    code = RUN.replace('"-q"', '"-q", "--set", "train.compile=true"').replace("not in", "in")
    assert_ends_well(tmp_path, code, "sgd")


def assert_ends_well(home: Path, code: str, optimizer: str) -> None:
    (home / "tiny.yaml").write_text(SCENARIO.replace("KIND", optimizer))
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
