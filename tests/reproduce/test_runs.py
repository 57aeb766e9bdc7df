"""Runs of a table: made once, kept, and made again where their scenario has changed."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clkd.cli.main import main
from clkd.errors import UserError
from clkd.reproduce import table

TINY = """\
title: Digits
paper: none
provenance: made up
spread: sd
seeds: 4
scenario:
  stream: {dataset: {name: digits, rows_per_class: 10}, split: {by: class, experiences: 2}}
  student: {model: {kind: mlp, hidden: [8]}, head: fixed}
  train: {optimizer: {kind: sgd, lr: 0.1}}
rows:
  none: {published: [50.0, 2.0], set: {method: finetune}}
  er: {set: {method: er}}
"""


@pytest.fixture
def reproduce(tmp_path, monkeypatch, capsys):
    """`clkd reproduce tiny`: exit code, what it printed as JSON, stderr."""
    monkeypatch.setattr(table, "HOME", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)

    def run(*words):
        code = main(["reproduce", "tiny", "--json", *words])
        said = capsys.readouterr()
        return code, json.loads(said.out), said.err

    return run


@pytest.mark.slow
def test_what_is_done_is_not_done_again(reproduce, tmp_path):
    code, told, said = reproduce("--seeds", "1")
    assert code == 0
    assert [row["seeds"] for row in told["rows"]] == [1, 1]
    assert "[2/2]" in said
    kept = tmp_path / "runs/reproduce/tiny/er/seed_0.json"
    before = kept.read_bytes(), kept.stat().st_mtime_ns
    code, told, said = reproduce("--seeds", "2")
    assert [row["seeds"] for row in told["rows"]] == [2, 2]
    assert "[2/2]" in said, "the second seed of each row alone"
    assert before == (kept.read_bytes(), kept.stat().st_mtime_ns)
    _, again, said = reproduce("--seeds", "2")
    assert again == told
    assert said == ""


@pytest.mark.slow
def test_a_changed_scenario_is_run_again_and_said(reproduce, tmp_path, caplog):
    reproduce("--seeds", "1")
    path = tmp_path / "tiny.yaml"
    path.write_text(path.read_text().replace("method: er}", "method: er, memory.size: 7}"))
    _, told, _ = reproduce("--seeds", "1", "--dry-run")
    assert [row["seeds"] for row in told["rows"]] == [1, 0], "a result of another scenario is none"
    with caplog.at_level(logging.INFO, "clkd.reproduce"):
        _, told, said = reproduce("--seeds", "1")
    assert "er, seed 0: its scenario or clkd has changed since it was run: again" in caplog.text
    assert "[1/1]" in said
    assert [row["seeds"] for row in told["rows"]] == [1, 1]


def test_a_dry_run_writes_nothing(reproduce, tmp_path):
    _, told, _ = reproduce("--dry-run")
    assert [row["seeds"] for row in told["rows"]] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_row_that_leaves_its_committed_range_fails(reproduce, tmp_path):
    ranges = tmp_path / "expected/tiny.yaml"
    ranges.parent.mkdir()
    ranges.write_text("none: [-6.0, -4.0]\n")
    code, told, _ = reproduce("--seeds", "1", "--row", "none")
    assert (code, told["rows"][0]["holds"]) == (1, False)
    ranges.write_text("none: [0, 100]\n")
    assert reproduce("--seeds", "1", "--row", "none", "--dry-run")[0] == 0


@pytest.mark.slow
def test_ranges_are_committed_around_what_was_measured(reproduce, tmp_path):
    ranges = tmp_path / "expected/tiny.yaml"
    ranges.parent.mkdir()
    ranges.write_text("none: [-6.0, -4.0]\n")
    _, told, _ = reproduce("--seeds", "2", "--row", "er", "--expect")
    (er,) = told["rows"]
    off = max(1, 3 * er["sd"])
    assert table.find("tiny").expected["er"] == pytest.approx((er["mean"] - off, er["mean"] + off), abs=0.006)
    assert table.find("tiny").expected["none"] == (-6.0, -4.0), "a row that was not asked for keeps its range"
    assert "# 2 seeds" in ranges.read_text()
    assert reproduce("--seeds", "2", "--row", "er")[0] == 0


@pytest.mark.slow
def test_the_table_is_written_between_its_marks(reproduce, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- clkd reproduce tiny -->\nold\n<!-- end of tiny -->\nafter\n")
    reproduce("--seeds", "2", "--write", str(page))
    filled = page.read_text()
    assert filled.startswith("before\n<!-- clkd reproduce tiny -->\n\n**Digits.**")
    assert filled.endswith("\n\n<!-- end of tiny -->\nafter\n")
    assert "| none | 50.00 ± 2.00 |" in filled
    assert "old" not in filled
    reproduce("--seeds", "2", "--write", str(page))
    assert page.read_text() == filled


def test_a_page_without_marks_and_a_part_of_a_table_are_refused(reproduce, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    assert main(["reproduce", "tiny", "--dry-run", "--write", str(page)]) == UserError.exit_code
    assert "has no place for the table: write the lines <!-- clkd reproduce tiny -->" in capsys.readouterr().err
    assert main(["reproduce", "tiny", "--dry-run", "--row", "er", "--write", str(page)]) == UserError.exit_code


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "runs"), [(["--row", "er"], "[1/1]"), ([], "[2/2]")])
@pytest.mark.timeout(600)  # Python is started for each worker, which takes minutes on a machine that is busy
def test_two_workers_make_the_same_numbers_as_one(reproduce, rows, runs):
    _, alone, _ = reproduce("--seeds", "1", *rows)
    _, both, said = reproduce("--seeds", "1", *rows, "--workers", "2", "--out", "elsewhere")
    assert runs in said
    assert [row["mean"] for row in alone["rows"]] == [row["mean"] for row in both["rows"]]


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_data_that_are_not_here_end_in_one_line(workers, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", "split_mnist_class", "--row", "none", "--row", "si", "--seeds", "1", "--workers", workers]
    assert main(words) == UserError.exit_code
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert re.search("(none|si), seed 0: mnist is not in ", said)  # with two workers, whichever is first


def test_the_number_is_that_of_a_plain_run(reproduce, tmp_path, capsys):
    _, told, _ = reproduce("--seeds", "1", "--row", "er")
    base = tmp_path / "runs/reproduce/tiny/scenario.yaml"
    words = ["--set", "method=er", "--seed", "0", "--tracking", "off", "-q", "--json"]
    assert main(["run", str(base), *words]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert told["rows"][0]["mean"] == 100 * plain["metrics"]["average_accuracy"]


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_run_that_diverges_is_named(workers, reproduce, tmp_path, capsys):
    path = tmp_path / "tiny.yaml"
    path.write_text(path.read_text().replace("lr: 0.1", "lr: 1.0e+30"))
    words = ["reproduce", "tiny", "--seeds", "1", "--workers", workers]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert re.search("^clkd: (er|none), seed 0: .* became NaN or infinite in experience 1", said, re.MULTILINE)
    assert "Traceback" not in said


def test_a_broken_result_is_named(reproduce, tmp_path):
    reproduce("--seeds", "1", "--row", "er")
    kept = tmp_path / "runs/reproduce/tiny/er/seed_0.json"
    kept.write_text("{")
    assert main(["reproduce", "tiny", "--seeds", "1", "--row", "er"]) == UserError.exit_code


def workers_of(pid):
    """Processes that it spawned for work."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are looked up in Linux's /proc")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_whoever_started_them(end, tmp_path):
    command = [sys.executable, "-m", "clkd", "reproduce", "digits_check", "--seeds", "50", "--workers", "2"]
    parent = subprocess.Popen([*command, "--out", str(tmp_path), "-q"], cwd=tmp_path)
    while not list(tmp_path.rglob("seed_*.json")):
        assert parent.poll() is None
        time.sleep(0.1)
    workers = workers_of(parent.pid)
    assert len(workers) == 2
    os.kill(parent.pid, end)
    parent.wait()
    until = time.monotonic() + 60
    while any(map(alive, workers)):
        assert time.monotonic() < until, "a worker goes on by itself"
        time.sleep(0.1)
