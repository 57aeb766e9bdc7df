"""The table of transfer strategies: its arithmetic, its scenarios, and that it goes on where it was."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "domains.py"


@pytest.fixture(scope="module")
def made() -> ModuleType:
    spec = importlib.util.spec_from_file_location("domains_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["domains_benchmark"] = module
    spec.loader.exec_module(module)
    return module


def test_every_scenario_is_right_and_every_strategy_has_a_row(made: ModuleType, tmp_path: Path) -> None:
    registry, file = load_plugins().registry, tmp_path / "s.yaml"
    for task in made.TASKS:
        for row in made.ROWS:
            file.write_text(to_yaml(made.scenario(task, row)))
            assert load(file, [], registry).scenario.stream.normalize == "first"
    given = [strategy if isinstance(strategy, list) else [strategy] for strategy, _ in made.ROWS.values()]
    used = {each["kind"] for strategies in given for each in strategies if each}
    assert used | {"none"} == set(registry.names("transfers"))


def test_a_result_belongs_to_its_task_and_row(made: ModuleType) -> None:
    assert len({made.key(task, row) for task in made.TASKS for row in made.ROWS}) == len(made.TASKS) * len(made.ROWS)


def test_differences_are_paired_by_seed(made: ModuleType, tmp_path: Path) -> None:
    """Two seeds with gains of 1 and 3 points: 2 ± 1, though the seeds themselves are 20 apart."""
    file = tmp_path / "r.jsonl"
    for row, seed, target in (("none", 0, 0.5), ("none", 1, 0.7), ("dann", 0, 0.51), ("dann", 1, 0.73)):
        matrix = [[0.9, 0.4], [0.8, target]]
        line = {"key": made.key("digits_mnist", row), "task": "digits_mnist", "row": row, "seed": seed}
        made.keep(file, {**line, "matrix": matrix, "seconds": 2.0})
    made.keep(file, {"key": "of old", "task": "digits_mnist", "row": "dann", "seed": 0, "matrix": matrix, "seconds": 1})
    there = made.kept(file)
    assert len(there) == 4
    none, dann = made.table(there, "digits_mnist", ["none", "dann"], [0, 1, 2]).splitlines()[2:]
    assert none == "| none | 60.0 ± 14.1 | – | 80.0 ± 0.0 | – | 2.0 | 2 | replayed labels alone |"
    assert dann == "| dann | 62.0 ± 15.6 | +2.0 ± 1.0 | 80.0 ± 0.0 | +0.0 ± 0.0 | 2.0 | 2 | 1 |"


@pytest.mark.slow
def test_a_finished_training_is_not_trained_again(
    made: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"name": "digits", "rows_per_class": 5}
    monkeypatch.setitem(made.TASKS, "digits_mnist", ("few", {**made.two(few, few), "epochs": 1}))
    file = tmp_path / "r.jsonl"
    words = ["--tasks", "digits_mnist", "--rows", "none", "mmd", "--results", str(file), "--seeds"]
    for seeds in (["0"], ["0", "1"]):
        monkeypatch.setattr(sys, "argv", ["domains.py", *words, *seeds])
        made.main()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(one["row"], one["seed"]) for one in lines] == [("none", 0), ("mmd", 0), ("none", 1), ("mmd", 1)]
    assert capsys.readouterr().out.count("| mmd |") == 2


def test_the_page_has_the_tables_of_the_results_that_are_kept(
    made: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing it anew changes nothing, and mends what was changed by hand."""
    published = (ROOT / "docs" / "transfer.md").read_text()
    page = tmp_path / "page.md"
    page.write_text(published.replace("| dan | ", "| dan | 9"))
    assert page.read_text() != published
    monkeypatch.setattr(sys, "argv", ["domains.py", "--table", "--write", str(page)])
    made.main()
    assert page.read_text() == published


@pytest.mark.parametrize("part", [["--rows", "none"], ["--seeds", "0"]])
def test_a_part_of_a_table_is_not_written(
    made: ModuleType, part: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["domains.py", "--table", *part, "--write", str(tmp_path / "page.md")])
    with pytest.raises(SystemExit):
        made.main()
