"""`clkd plugin check` tells a good plugin from a broken one, and says why in words."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from clkd.cli.main import main
from clkd.testing.audit import audit

EXAMPLE = Path(__file__).parents[2] / "plugins" / "clkd-example"
BAD = """
from clkd import Loss, Options, hookimpl


class FarOptions(Options):
    power: float = 2.0


class Far(Loss):
    def __init__(self, power=2.0):
        super().__init__()
        self.power = power

    def forward(self, batch, a, b=None):
        return -(a.logits[:, :2] - b.logits[:, :2]).square().mean(1)


class Odd(Loss):
    def __init__(self, power, colour):
        super().__init__()


class Asks(Loss):
    sides = 1

    def __init__(self, path: str):
        super().__init__()


@hookimpl
def clkd_register_losses(register):
    register("far", Far, config=FarOptions, summary="wrong in several ways")
    register("odd", Odd, config=FarOptions, summary="needs what nobody gives")
    register("asks", Asks, summary="needs a path")


@hookimpl
def clkd_register_schedules(register):
    register("slow", lambda: 1.0, summary="of a kind without laws")
"""


@pytest.fixture(autouse=True)
def path_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked by its folder is put on Python's path; other tests must not find it there."""
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_the_worked_example_keeps_all_laws(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin", "check", str(EXAMPLE)]) == 0
    out = capsys.readouterr().out
    assert "verdict: ok (3 parts tried)" in out
    assert "loss" in out
    assert "19 laws kept" in out


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.py"
    path.write_text(BAD)
    return path


def test_what_is_broken_is_told_with_the_law_and_the_reason(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin", "check", str(bad)]) == 1
    out = capsys.readouterr().out
    assert "loss far: one_direction broken" in out
    assert "law: A gradient reaches the first side" in out
    assert "why: a gradient reaches the second side" in out
    assert "its factory needs 'colour', which is neither an option nor offered" in out
    assert "option 'path' has no default and no example" in out
    assert "it loads; there are no laws of this kind" in out
    assert out.rstrip().endswith("verdict: broken: far, odd (3 parts tried, 1 not)")


def test_as_json(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["plugin", "check", str(bad), "--json"])
    (told,) = json.loads(capsys.readouterr().out)
    assert {part["name"]: part["status"] for part in told["parts"]} == {
        "far": "broken", "odd": "broken", "asks": "not tried", "slow": "ok"
    }  # fmt: skip


def test_one_that_does_not_load_ends_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "torn.py").write_text("import nosuchmodule_xyz")
    assert main(["plugin", "check", str(tmp_path / "torn.py")]) == 3
    assert "torn does not load: ModuleNotFoundError: No module named 'nosuchmodule_xyz'" in capsys.readouterr().out


@pytest.mark.slow
def test_a_front_door_that_loads_torch_is_told(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "clkd-heavy"\n[project.entry-points.clkd]\nh = "heavy_xyz"\n'
    )
    (tmp_path / "heavy_xyz.py").write_text("import torch\n")
    (told,) = audit(str(tmp_path))
    assert told.exit_code == 1
    assert "importing heavy_xyz loads torch" in told.troubles[0]


@pytest.mark.parametrize(
    ("files", "what", "message"),
    [
        ({}, "nowhere", "plugin 'nowhere': no such file or folder, and none is installed"),
        ({"a.txt": ""}, ".", "has no pyproject.toml"),
        ({"pyproject.toml": "[project]\nname = 'x'\n"}, ".", "declares no plugin"),
        ({"pyproject.toml": "[project\n"}, ".", "pyproject.toml: "),
    ],
)
def test_a_mistake_is_one_line(
    files: dict[str, str], what: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert main(["plugin", "check", what]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_part_whose_file_is_not_there_is_not_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And one that refuses only now and then breaks those laws."""
    (tmp_path / "filed.py").write_text(
        "from typing import Annotated\n"
        "from pydantic import Field\n"
        "from clkd import Memory, Options, hookimpl\n"
        "from clkd.errors import UserError\n"
        "class Filed(Options):\n"
        "    file: Annotated[str, Field(examples=['rows.pt'])]\n"
        "def filed(file):\n"
        "    raise UserError(f'{file} does not exist')\n"
        "class Moody(Memory):\n"
        "    def observe(self, batch, signals):\n"
        "        raise UserError('not today')\n"
        "@hookimpl\n"
        "def clkd_register_memories(register):\n"
        "    register('filed', filed, config=Filed, summary='rows from a file')\n"
        "    register('moody', Moody, summary='refuses rows')\n"
    )
    assert main(["plugin", "check", str(tmp_path / "filed.py")]) == 1
    out = capsys.readouterr().out
    assert re.search(r"filed +not tried +rows\.pt does not exist", out)
    assert out.rstrip().endswith("verdict: broken: moody (1 part tried, 1 not)")


EXCUSED = """
from clkd import Loss, hookimpl
from clkd.losses.base import common_columns, logits_of


class Far(Loss):
    contract_optouts = {"agreement": "drives models apart", "non_negative": "the further apart, the better"}

    reads_known = True

    def bind(self, a, b):
        self.at_a, self.at_b = common_columns(a, b)

    def forward(self, batch, a, b=None):
        squares = (logits_of(a)[:, self.at_a] - logits_of(b)[:, self.at_b].detach()).square()
        return -(squares if b.known is None else squares.where(b.known[:, self.at_b], 0.0)).mean(1)


def made():
    return Far()


@hookimpl
def clkd_register_losses(register):
    register("far", made, summary="made by a function")
"""


def test_what_a_class_opts_out_of_counts_where_a_function_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "excused.py").write_text(EXCUSED)
    main(["plugin", "check", str(tmp_path / "excused.py")])
    out = capsys.readouterr().out
    assert "17 laws kept, 2 opted out of" in out
