"""What people wrote may hold a password: the store has it nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from addresses import nobody

from clkd.errors import TrackingError
from clkd.tracking import artifacts, store
from clkd.tracking.sync import sync

RESOLVED = """\
name: tiny
tracking: {uri: null, experiment: null, child_runs: true, tags: {}}
"""


@pytest.mark.parametrize("over", [False, True])
def test_files_go_to_the_store_without_it(tmp_path: Path, over: bool) -> None:
    for name in ("scenario.yaml", "resolved.yaml"):
        (tmp_path / name).write_text("tracking: {uri: 'http://me:s3cret@host:5000'}\n")
    made = {name: content() for name, content in artifacts.of(tmp_path, [], "title", over).items()}
    assert made.keys() == {"scenario.yaml", "config.resolved.yaml"}
    assert set(made.values()) == {"tracking: {uri: 'http://host:5000'}\n"}


def test_a_server_that_does_not_answer_is_named_without_it() -> None:
    with nobody() as address, pytest.raises(TrackingError, match=rf"http://{address} does not answer"):
        store.check_reachable(f"http://me:s3cret@{address}")


def test_what_went_wrong_is_told_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("API request to http://me:s3cret@host:5000/api failed")

    class Broken:
        def __init__(self, *_: object) -> None:
            raise error

    monkeypatch.setattr("clkd.tracking.sync.Upload", Broken)
    (tmp_path / "run.json").write_text('{"id": "0123456789ab"}')
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "resolved.yaml").write_text(RESOLVED)
    with pytest.raises(TrackingError) as caught:
        sync(tmp_path, "http://me:s3cret@host:5000")
    for said in (str(caught.value), store.told(error)):
        assert "http://host:5000/api failed" in said
        assert "s3cret" not in said


@pytest.mark.parametrize("name", [".", "..", "..."])
def test_a_name_of_dots_does_not_lead_out(tmp_path: Path, name: str) -> None:
    folder = store._artifacts(name, f"sqlite:///{tmp_path}/mlflow.db")
    assert folder == (tmp_path / "mlartifacts" / "_").as_uri()
    assert store._artifacts("v1.2", f"sqlite:///{tmp_path}/mlflow.db") == (tmp_path / "mlartifacts" / "v1.2").as_uri()
