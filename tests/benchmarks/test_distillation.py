"""The table of distillation losses: its arithmetic, its scenarios, and that it goes on where it was."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "distillation.py"


@pytest.fixture(scope="module")
def made() -> ModuleType:
    spec = importlib.util.spec_from_file_location("distillation", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["distillation"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def asked(made: ModuleType, *words: str) -> argparse.Namespace:
    parsed: argparse.Namespace = made.options().parse_args(words)
    return parsed


@pytest.mark.parametrize(
    "words", [(), ("--smoke",), ("--full", "--device", "cuda", "--teacher", "resnet56", "--student", "resnet20")]
)
def test_every_scenario_of_every_variant_is_right(made: ModuleType, words: tuple[str, ...], tmp_path: Path) -> None:
    registry = load_plugins().registry
    todo = made.work(asked(made, *words))
    file = tmp_path / "s.yaml"
    for scenario in (todo.teaching(), *(todo.learning(row, "t.safetensors") for row in made.SOURCES)):
        file.write_text(to_yaml(scenario))
        checked = load(file, [], registry).scenario
        assert checked.device == ("cuda" if "--full" in words else "cpu")
        assert checked.tracking.mode == "off"


def test_a_result_belongs_to_all_that_decides_it(made: ModuleType) -> None:
    def key(row: str, *words: str) -> str:
        found: str = made.work(asked(made, *words)).key(row)
        return found

    assert key("kd") == key("kd", "--jobs", "1", "--threads", "2", "--seeds", "7")
    changes = [(), ("--epochs", "3"), ("--teacher-epochs", "3"), ("--rows-per-class", "9"), ("--full",), ("--smoke",)]
    keys = {key(row, *words) for row in made.SOURCES for words in changes}
    assert len(keys) == len(made.SOURCES) * len(changes)
    assert key("teacher") == key("teacher", "--epochs", "3")
    assert key("teacher") != key("teacher", "--teacher-epochs", "3")


def test_the_table_has_the_numbers_reckoned_by_hand(made: ModuleType) -> None:
    """Differences are 1, 3 and 2 points: mean 2, standard deviation 1, standard error 1/√3. Seed 9 has no partner."""
    none = dict(zip([(made.BASE, seed) for seed in range(3)], (0.50, 0.52, 0.54), strict=True))
    kd = dict(zip([("kd", seed) for seed in (0, 1, 2, 9)], (0.51, 0.55, 0.56, 0.56), strict=True))
    lines = made.table({**none, **kd, ("crd", 0): 0.49}, made.SOURCES).splitlines()
    assert [line.split(" | ")[:4] for line in lines[2:]] == [
        ["| no distillation", "52.00 ± 2.00", "–", "3"],
        ["| kd", "54.50 ± 2.38", "+2.00 ± 0.58", "4"],
        ["| crd", "49.00", "-1.00", "1"],
    ]


@pytest.mark.slow
def test_every_result_is_kept_at_once_and_nothing_is_trained_twice(tmp_path: Path) -> None:
    """A whole small table; then a line is lost, as if the table had been stopped, and only its training comes again."""

    def run(*more: str) -> str:
        words = ["--smoke", "--rows", "no distillation", "kd", "--seeds", "0", "--results", "r.jsonl", *more]
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = run()
    results = tmp_path / "r.jsonl"
    lines = results.read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines][:1] == ["teacher"]
    assert {json.loads(line)["row"] for line in lines} == {"teacher", "no distillation", "kd"}
    results.write_text("\n".join(lines[:2]) + "\n")
    assert run() == first, "the same bits, so the same table"
    assert sorted(line.partition('"seconds"')[0] for line in results.read_text().splitlines()) == sorted(
        line.partition('"seconds"')[0] for line in lines
    )
    assert run("--table").splitlines()[:-1] == first.splitlines()[:-1]
    assert "| kd | " in first


def test_lines_of_other_settings_are_left_alone(made: ModuleType, tmp_path: Path) -> None:
    ours, other = made.work(asked(made)), made.work(asked(made, "--epochs", "3"))
    results = tmp_path / "results.jsonl"
    for todo, accuracy in ((other, 0.1), (ours, 0.5)):
        made.keep(results, {"key": todo.key("kd"), "row": "kd", "seed": 0, "accuracy": accuracy, "seconds": 1.0})
    assert made.kept(results, ours, made.SOURCES, [0]) == {("kd", 0): 0.5}
    assert made.kept(results, other, made.SOURCES, [0, 1]) == {("kd", 0): 0.1}
