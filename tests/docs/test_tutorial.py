"""docs/tutorial.md, walked from an empty folder to the comparison of five seeds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pages import DOCS, blocks
from processes import clkd

PAGE = DOCS / "tutorial.md"


@pytest.mark.slow
def test_every_command_of_the_tutorial(tmp_path: Path) -> None:
    """In its order, with the files that it says to save, one epoch each; what it installs lies in its own folder."""
    (draw,), (scenario,) = blocks(PAGE, "python"), blocks(PAGE, "yaml")
    (tmp_path / "draw.py").write_text(draw.text)
    (tmp_path / "shapes.yaml").write_text(scenario.text)
    installed = tmp_path / "installed"
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH", "")]))
    said = {}
    for words in (words for block in blocks(PAGE, "bash") if not block.reason for words in block.commands()):
        match words:
            case ["clkd", *rest]:
                short = ["--set", "train.epochs=1"] if rest[0] == "run" else []
                done = clkd(*rest, *short, cwd=tmp_path, PYTHONPATH=path)
                assert done.returncode == 0, f"{words}\n{done.stderr}"
                said[rest[0]] = done.stdout
            case ["python", script]:
                subprocess.run([sys.executable, script], cwd=tmp_path, check=True)
            case ["pip", "install", "-e", place]:
                pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
                subprocess.run([*pip, "--target", str(installed), place], cwd=tmp_path, check=True)
            case _:
                raise AssertionError(f"nobody knows how to do this: {words}")
    assert said["report"]
    table = said["compare"]
    assert "shapes_my_kd" in table
    assert "5" in table


def test_what_nobody_runs_is_the_installation_and_the_server() -> None:
    kept = [words for block in blocks(PAGE, "bash") if block.reason for words in block.commands()]
    assert [words[1] for words in kept if words[0] == "clkd"] == ["ui"]
