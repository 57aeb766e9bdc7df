"""A run's directory takes nothing from whoever has files there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clkd.cli.main import main
from clkd.engine.directory import create, find
from clkd.engine.execute import execute
from clkd.errors import UserError
from clkd.plugins import Plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

BROKEN = {
    "name": "broken",
    "stream": {"dataset": {"name": "arrays", "path": "nowhere.npz"}, "split": {"by": "class", "experiences": 2}},
    "student": {"model": {"kind": "mlp", "hidden": [4]}, "head": "linear"},
    "losses": ["cross_entropy"],
    "train": {"optimizer": {"kind": "sgd", "lr": 0.1}},
    "tracking": {"mode": "off"},
}


def test_a_scenario_that_lies_where_its_run_shall_be_stays(plugins: Plugins, tmp_path: Path) -> None:
    """The run has its copy there; a mistake takes that back, and not the file."""
    own = tmp_path / "scenario.yaml"
    own.write_bytes(
        b"\xef\xbb\xbf" + to_yaml({**BROKEN, "output": str(tmp_path)}).encode()
    )  # with the mark of some editors
    before = own.read_bytes()
    with pytest.raises(UserError, match=r"nowhere\.npz"):
        execute(RunRequest(scenario=own, quiet=True), plugins)
    assert [path.name for path in tmp_path.iterdir()] == ["scenario.yaml"]
    assert own.read_bytes() == before


@pytest.mark.parametrize("name", ["scenario.yaml", "result.json", "metrics.jsonl", "teachers", "checkpoints"])
def test_what_a_run_would_write_over_is_told(tmp_path: Path, name: str) -> None:
    place = tmp_path / "mine" / name
    place.parent.mkdir()
    place.write_bytes(b"years of work \xff") if "." in name else place.mkdir()
    with pytest.raises(UserError, match=rf"mine/{name} is there already"):
        create(str(tmp_path / "mine"), "tiny", "0" * 12, tmp_path, "name: tiny")
    assert {path.name for path in (tmp_path / "mine").iterdir()} - {".lock"} == {name}
    assert place.is_dir() or place.read_bytes() == b"years of work \xff"


def test_a_run_below_a_folder_that_is_not_utf_8_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        home.mkdir()
    except OSError:
        pytest.skip(reason="this file system has names in UTF-8 only")
    monkeypatch.setenv("CLKD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    made = create(str(home / "run"), "tiny", "0" * 12, tmp_path / "cache", "name: tiny")
    monkeypatch.chdir(home)  # runs below the directory that the tests are started in would come first
    assert find("0" * 12, tmp_path / "cache").path == made.path == home / "run"
    for words in (["runs"], ["runs", "--json"]):
        assert main(words) == 0
        assert "0" * 12 in capsys.readouterr().out
