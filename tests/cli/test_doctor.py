"""`clkd doctor` finds what was broken on purpose, says what to do, and changes nothing."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from clkd.cli.main import main
from clkd.engine import doctor
from clkd.engine.doctor import findings
from clkd.plugins import load_plugins
from clkd.scenario.load import load
from clkd.testing.tiny import Tiny


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLKD_CACHE", str(tmp_path / "cache"))
    return tmp_path


def told(about: str) -> list[tuple[str, str, str]]:
    return [(each.status, each.told, each.remedy) for each in findings() if each.about == about]


def test_a_healthy_house_ends_with_0(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for about in ("versions", "device", "store", "plugins", "cache"):
        assert f"  {about} " in out
    assert "BAD" not in out
    assert [path.name for path in home.iterdir()] == ["cache"], "looking makes nothing but the cache's own folder"


def test_what_is_broken_ends_with_1_and_is_json_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLKD_DATA", "/nowhere")
    assert main(["doctor", "--json"]) == 1
    (bad,) = [each for each in json.loads(capsys.readouterr().out) if each["status"] == "bad"]
    assert bad["about"] == "data"
    assert bad["remedy"]


def test_a_version_that_is_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch>=99", "nosuchpackage_xyz>=1", "pytest>=8; extra == 'test'", "numpy>=1"]
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    bad = [each for each in told("versions") if each[0] == "bad"]
    assert [remedy for _, _, remedy in bad] == ["pip install 'torch>=99'", "pip install 'nosuchpackage_xyz>=1'"]
    assert "is not >=99" in bad[0][1]
    assert "is missing" in bad[1][1]


def test_a_file_store_is_refused_and_leftovers_are_noted(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    (home / "mlruns" / "0").mkdir(parents=True)
    (home / "mlruns" / "0" / "meta.yaml").touch()
    (status, text, remedy) = told("store")[-1]
    assert status == "note"
    assert "mlruns" in text
    assert remedy.startswith("mlflow migrate-filestore --source ")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:./mlruns")
    assert told("store")[0][0] == "bad"


@pytest.mark.slow
def test_a_database_of_another_mlflow(home: Path) -> None:
    with sqlite3.connect(home / "mlflow.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('0a0a0a')")
    ((status, text, remedy),) = told("store")
    assert status == "bad"
    assert "0a0a0a" in text
    assert remedy == f"mlflow db upgrade sqlite:///{home}/mlflow.db"


@pytest.mark.slow  # the schema's version is MLflow's own, which takes a second to be loaded
@pytest.mark.parametrize("name", ["a#b", "a%20b"])
@pytest.mark.parametrize("query", ["", "?timeout=5"])
def test_the_stores_path_may_hold_what_an_address_may_not(
    monkeypatch: pytest.MonkeyPatch, home: Path, empty_store: Path, name: str, query: str
) -> None:
    (home / name).mkdir()
    shutil.copy(empty_store, home / name / "mlflow.db")
    uri = f"sqlite:///{home}/{name}/mlflow.db{query}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert told("store") == [("ok", uri, "")]


def test_a_database_that_is_none(home: Path) -> None:
    (home / "mlflow.db").write_bytes(b"no database" * 500)
    assert told("store")[0][0] == "bad"


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    ((status, text, remedy),) = told("store")
    assert status == "bad"
    assert "does not answer" in text
    assert "clkd track sync" in remedy


def test_a_plugin_that_is_asked_for_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLKD_LOAD_PLUGINS", "nope")
    ((status, text, remedy),) = told("plugins")
    assert status == "bad"
    assert "'nope'" in text
    assert "CLKD_LOAD_PLUGINS" in remedy


def test_a_broken_plugin(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    site = home / "site"
    info = site / "clkd_torn-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clkd-torn\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[clkd]\ntorn = torn_module_xyz\n")
    monkeypatch.syspath_prepend(str(site))
    ((status, text, remedy),) = told("plugins")
    assert status == "bad"
    assert text.startswith("'torn' (clkd-torn) is broken: ModuleNotFoundError")
    assert "pip uninstall clkd-torn" in remedy


def test_an_altered_data_set(home: Path) -> None:
    tiny = Tiny(home / "work", load_plugins())
    (home / "work").mkdir()
    tiny.run()
    assert [each[0] for each in told("cache")] == ["ok"]
    (path,) = (home / "cache" / "data").glob("*/train_x.bin")
    path.write_bytes(b"\0" * path.stat().st_size)
    ((status, text, remedy),) = told("cache")
    assert status == "bad"
    assert "train_x.bin has another checksum" in text
    assert remedy.startswith("clkd cache clear ")
    assert main(["cache", "clear", remedy.split()[3], "--yes"]) == 0
    assert [each[0] for each in told("cache")] == ["ok"]
    assert load(tiny.scenario(), [], load_plugins().registry)


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    (home / "file").touch()
    monkeypatch.setenv("CLKD_CACHE", str(home / "file" / "cache"))
    ((status, _, remedy),) = told("cache")
    assert status == "bad"
    assert "CLKD_CACHE" in remedy


def test_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SHORT", 2**60)
    assert told("cache")[0][0] == "note"
