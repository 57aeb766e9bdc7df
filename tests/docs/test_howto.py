"""What the guides of docs/howto show is what happens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import DOCS, Block, blocks

OWN = sorted((DOCS / "howto").glob("own_*.md"))
PARTS = [page for page in OWN if page.stem not in ("own_data", "own_teacher")]
SCENARIO = """
name: shown
stream: {dataset: {name: digits, rows_per_class: 6}, split: {by: class, experiences: 2}}
student: {model: mlp, head: linear}
teachers: {previous: previous}
losses: [cross_entropy, {kind: kd, between: [student, previous]}]
memory: {kind: reservoir, size: 20}
train: {batch_size: 10, optimizer: {kind: sgd, lr: 0.05}}
tracking: {mode: 'off'}
"""
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    return tmp_path


def commands(page: Path) -> list[list[str]]:
    return [words for block in blocks(page, "bash") for words in block.commands()]


def save(block: Block, home: Path) -> Path:
    """A plugin's first line says where it belongs."""
    path = home / block.text.splitlines()[0].removeprefix("# ")
    path.parent.mkdir()
    path.write_text(block.text)
    return path


@pytest.mark.parametrize("page", PARTS, ids=lambda page: page.stem)
def test_a_part_of_your_own_keeps_the_laws_and_trains(page: Path, home: Path, clkd: Command) -> None:
    (plugin,) = blocks(page, "python")
    save(plugin, home)
    shown = commands(page)
    assert [words[1] for words in shown] == ["plugin", "run"]
    for words in shown:
        code, out, err = clkd(*words[1:])
        assert code == 0, f"{words}\n{out}{err}"
        assert words[1] != "plugin" or "ok (1 part tried)" in out


def test_a_teacher_of_your_own_is_found_and_teaches(home: Path, clkd: Command) -> None:
    (plugin,) = blocks(DOCS / "howto/own_teacher.md", "python")
    save(plugin, home)
    names: dict[str, Any] = {}
    exec(plugin.text, names)
    torch.save(names["network"]().state_dict(), home / "expert.pt")
    (_, out, _), (code, _, err) = [clkd(*words[1:]) for words in commands(DOCS / "howto/own_teacher.md")]
    assert "weights: text  (required)" in out
    assert code == 0, err


@pytest.mark.slow
def test_images_of_your_own(home: Path, clkd: Command) -> None:
    draw = blocks(DOCS / "tutorial.md", "python")[0]
    exec(draw.text, {})
    trains(blocks(DOCS / "howto/own_data.md", "yaml")[0], home, clkd)


def test_arrays_of_your_own(home: Path, clkd: Command) -> None:
    page = DOCS / "howto/own_data.md"
    exec(blocks(page, "python")[0].text, {})
    trains(blocks(page, "yaml")[1], home, clkd)


def trains(scenario: Block, home: Path, clkd: Command) -> None:
    (home / "own.yaml").write_text(scenario.text)
    code, _, err = clkd("run", "own.yaml", "--tracking", "off", "--limit-batches", "2")
    assert code == 0, err


def test_data_of_your_own_takes_five_lines() -> None:
    stream = blocks(DOCS / "howto/own_data.md", "yaml")[0].text.partition("stream:")[2].partition("student:")[0]
    assert len(stream.strip().splitlines()) <= 5


def test_today_and_tomorrow(home: Path, clkd: Command) -> None:
    page = DOCS / "howto/tomorrow.md"
    (home / "today.yaml").write_text(blocks(page, "yaml")[0].text)
    told = []
    for words in commands(page):
        code, out, err = clkd(*words[1:], *(["--tracking", "off"] if words[1] in ("run", "extend") else []))
        assert code == 0, f"{words}\n{err}"
        told.append(out)
    assert len(re.findall(r"\bfinished\b", told[-1])) == 3
