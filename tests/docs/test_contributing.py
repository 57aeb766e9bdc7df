"""CONTRIBUTING.md: eight steps, and what they name is there; step 3 to 5 are taken, on a copy of the house."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clkd.scaffold import new

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_there_are_eight_steps() -> None:
    assert re.findall(r"^(\d)\. \*\*", TEXT, re.MULTILINE) == list("12345678")


def test_what_it_names_is_there() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make (\w+)`", TEXT)) <= set(targets)
    named = set(re.findall(r"`((?:clkd|tests|docs)/[\w/.]+)`", TEXT)) | set(re.findall(r"\]\(([\w/.]+)\)", TEXT))
    made = {"clkd/losses/my_kd.py", "tests/losses/test_my_kd.py"}
    assert made < named
    assert [place for place in named - made if not (ROOT / place).exists()] == []
    assert len((ROOT / "clkd/losses/less_forget.py").read_text().splitlines()) < 40


@pytest.mark.slow
def test_the_steps_lead_to_a_loss_that_keeps_the_laws(tmp_path: Path) -> None:
    house = tmp_path / "house"
    for part in ("clkd", "tests/losses", "tests/support"):
        shutil.copytree(ROOT / part, house / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / file, house / file)
    new("my-kd", "loss", tmp_path)
    shutil.copy(tmp_path / "clkd-my-kd/clkd_my_kd/my_kd.py", house / "clkd/losses/my_kd.py")
    door = house / "clkd/losses/__init__.py"
    line = '    register("my_kd", "clkd.losses.my_kd:MyKd", summary="mine")\n'
    text = door.read_text()
    at = text.index("    register(")
    door.write_text(text[:at] + line + text[at:])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "tests/losses/test_contract.py",
        "clkd/losses/my_kd.py",
        "-k",
        "my_kd",
    ]
    here = {**os.environ, "PYTHONPATH": str(house)}
    done = subprocess.run(command, cwd=house, env=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
