"""A teacher that moves while it teaches is found out, by name, and the run fails."""

from __future__ import annotations

from pathlib import Path

from processes import clkd

SCENARIO = """\
name: tiny
stream: {dataset: {name: digits, rows_per_class: 6}, split: {by: class, experiences: 2}}
student: {model: {kind: mlp, hidden: [8]}, head: linear}
teachers: {restless: restless}
losses: [cross_entropy, {kind: kd, between: [student, restless]}]
train: {optimizer: {kind: sgd, lr: 0.05}}
"""
PLUGIN = """\
import torch
from clkd import hookimpl
from clkd.teachers.previous import Previous


class Restless(Previous):
    def signals(self, batch, needs):
        with torch.no_grad():
            next(iter(self.network.parameters())).add_(1e-6)
        return super().signals(batch, needs)


@hookimpl
def clkd_register_teachers(register):
    register("restless", Restless)
"""


def test_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "restless.py").write_text(PLUGIN)
    (tmp_path / "s.yaml").write_text(SCENARIO)
    done = clkd("run", "s.yaml", "--plugins-dir", "plugins", "--tracking", "off", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "teachers.restless: its parameters or buffers moved while it taught" in done.stderr
    assert "Traceback" not in done.stderr
