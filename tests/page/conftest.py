"""One real run, which page after page is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import clkd

SCENARIO = """\
name: told
stream: {dataset: {name: digits, rows_per_class: 20}, split: {by: class, experiences: 3}}
student: {model: {kind: mlp, hidden: [16]}, head: linear}
teachers: {previous: previous}
losses: [cross_entropy, {kind: kd, between: [student, previous]}]
memory: {kind: reservoir, size: 30}
train: {epochs: 2, batch_size: 8, optimizer: {kind: sgd, lr: 0.1}}
report: {cka: [], rows: 300}
"""


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scenario, and its run in `runs/first`."""
    home = tmp_path_factory.mktemp("home")
    (home / "told.yaml").write_text(SCENARIO)
    done = clkd("run", "told.yaml", "--tracking", "off", "-q", "--set", "output=runs/first", cwd=home)
    assert done.returncode == 0, done.stderr
    return home
