"""The table of methods beside Avalanche's: its scenarios, its arithmetic, and the Fisher information in it."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("methods")


def test_every_row_has_a_training_of_each_tool_and_every_scenario_is_one(made: ModuleType, tmp_path: Path) -> None:
    assert {row.ours for row in made.ROWS} == set(made.OURS)
    assert {row.theirs for row in made.ROWS} == set(made.THEIRS)
    registry = load_plugins().registry
    for sections in made.OURS.values():
        (tmp_path / "methods.yaml").write_text(to_yaml(made.scenario(sections)))
        load(tmp_path / "methods.yaml", [], registry)


def test_a_difference_is_bold_where_it_is_more_than_its_noise(made: ModuleType) -> None:
    def said(*ours: float) -> str:
        cells: list[str] = made.compared([({"accuracy": own}, {"accuracy": 0.5}) for own in ours], "accuracy")
        return cells[-1]

    assert said(0.65, 0.7, 0.75) == "**+20.0 ± 2.9**"
    assert said(0.6, 0.7, 0.8) == "+20.0 ± 5.8"  # 3.5 standard errors are chance's of three pairs, not of five
    assert said(0.6, 0.7, 0.8, 0.6, 0.8) == "**+20.0 ± 4.5**"
    assert said(0.4, 0.6, 0.8) == "+10.0 ± 11.5"


def test_the_page_has_the_table_that_the_results_give(made: ModuleType) -> None:
    rows, seeds = list(made.ROWS), [0, 1, 2, 3, 4]
    wanted = made.trainings(rows, seeds)
    found = made.kept(Path(made.__file__).parent / "results" / "methods.jsonl", wanted)
    assert set(wanted) <= set(found)
    assert made.table(found, rows, seeds) in (Path(__file__).parents[2] / "docs" / "methods.md").read_text()


def test_squares_are_those_of_each_rows_own_gradient(made: ModuleType) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    x, y = torch.randn(7, 2, 3), torch.randint(3, (7,))
    expected = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for row in range(7):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[row : row + 1]), y[row : row + 1]).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            expected[name] += parameter.grad.square()
    found = made.altered.row_squares(model, x, y)
    assert set(found) == set(expected)
    for name, squares in expected.items():
        torch.testing.assert_close(found[name], squares)


def test_seconds_are_compared_seed_by_seed(made: ModuleType) -> None:
    pairs = [({"seconds": 1.0}, {"seconds": 2.0}), ({"seconds": 3.0}, {"seconds": 9.0})]
    assert made.timed(pairs) == ["2.0", "5.5", "2.5"]
    assert math.isclose(made.share(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 0])), 0.75)
