"""Published tables: every row is a scenario that may be run, and what is made of results."""

import math
from pathlib import Path

import pytest

from clkd.errors import UserError
from clkd.reproduce.report import markdown
from clkd.reproduce.results import Line, Place, Result, in_standard_errors, line
from clkd.reproduce.runner import Plan
from clkd.reproduce.table import Cell, Table, find, names

TABLES = ("digits_check", "permuted_mnist", "rotated_mnist", "seq_cifar10", "seq_cifar10_small", "sequential_mnist",
          "split_mnist_class", "split_mnist_domain", "split_mnist_task")  # fmt: skip
TINY = """\
title: Digits
paper: none
provenance: made up
spread: {spread}
seeds: 4
scenario:
  stream: {{dataset: {{name: digits, rows_per_class: 10}}, split: {{by: class, experiences: 2}}}}
  student: {{model: {{kind: mlp, hidden: [8]}}, head: fixed}}
  train: {{optimizer: {{kind: sgd, lr: 0.1}}}}
rows:
  none:
    published: [50.0, 2.0]
    set: {{method: finetune}}
  er:
    set: {{method: er}}
    at:
      5: {{published: [60.0, 1.0]}}
      10: {{published: [70.0, 1.0], why: larger, set: {{train.optimizer.lr: 0.2}}}}
"""


def tiny(home, spread="sd"):
    path = home / "tiny.yaml"
    path.write_text(TINY.format(spread=spread))
    (home / "expected").mkdir(exist_ok=True)
    (home / "expected/tiny.yaml").write_text("none: [49.0, 51.0]  # 3 seeds\n")
    return Table.read(path)


def test_all_tables_are_tried_here():
    assert set(TABLES) <= set(names())


@pytest.mark.parametrize("name", names())
def test_every_row_is_a_scenario_and_no_two_are_the_same(name, tmp_path):
    table = find(name)
    plan = Plan(table, table.rows, 1, Place(tmp_path))
    assert len(set(plan.digests.values())) == len(table.rows) > 0
    assert {task.row for task in plan.missing()} == {row.name for row in table.rows}


@pytest.mark.parametrize("name", names())
def test_every_table_has_its_place_on_the_page(name):
    page = (Path(__file__).parents[2] / "docs/reproductions.md").read_text(encoding="utf-8")
    _, begun, rest = page.partition(f"<!-- clkd reproduce {name} -->")
    assert begun
    assert f"<!-- end of {name} -->" in rest


def test_rows_by_memory_size_are_spelt_out(tmp_path):
    rows = {row.name: row for row in tiny(tmp_path).rows}
    assert list(rows) == ["none", "er_5", "er_10"]
    assert rows["er_10"].settings == ("method=er", "memory.size=10", "train.optimizer.lr=0.2")
    assert (rows["er_5"].cell.why, rows["er_10"].cell.why) == ("", "larger")


def test_a_name_without_its_size_means_all_sizes(tmp_path):
    table = tiny(tmp_path)
    assert [row.name for row in table.choose(("er",))] == ["er_5", "er_10"]
    assert [row.name for row in table.choose(("er_10", "none"))] == ["none", "er_10"]


def test_unknown_names_get_a_suggestion(tmp_path):
    with pytest.raises(UserError, match="did you mean 'split_mnist_class'"):
        find("split_mnist_clas")
    with pytest.raises(UserError, match="did you mean 'none'"):
        tiny(tmp_path).choose(("nonne",))


def test_a_table_that_says_what_none_says_is_refused(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(TINY.format(spread="sd").replace("paper:", "papers:"))
    with pytest.raises(UserError, match="papers: unknown key"):
        Table.read(path)


def test_what_is_said_twice_is_refused(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(TINY.format(spread="sd") + "    set: {method: der}\n")
    with pytest.raises(UserError, match=r"rows\.er\.set is said twice"):
        Table.read(path)


def test_ranges_that_are_none_are_refused(tmp_path):
    tiny(tmp_path)
    (tmp_path / "expected/tiny.yaml").write_text("none: [49.0]\n")
    with pytest.raises(UserError, match=r"expected/tiny\.yaml: each row has two numbers"):
        Table.read(tmp_path / "tiny.yaml")


def test_a_table_of_anothers_rows_has_its_scenarios_and_none_of_its_numbers(tmp_path):
    whole = tiny(tmp_path)
    (tmp_path / "small.yaml").write_text("title: Small\nof: tiny\nset: {train.optimizer.lr: 0.3}\n")
    small = Table.read(tmp_path / "small.yaml")
    assert [row.name for row in small.rows] == [row.name for row in whole.rows]
    assert all(row.cell == Cell() and row.settings[-1] == "train.optimizer.lr=0.3" for row in small.rows)
    assert (small.expected, small.text.splitlines()[1:]) == ({}, whole.text.splitlines()[1:])


def test_a_scenario_that_is_not_here_is_named(tmp_path):
    (tmp_path / "lost.yaml").write_text("title: Lost\nrows: {er: {scenario: paper/lost.yaml}}\n")
    lost = Table.read(tmp_path / "lost.yaml")
    with pytest.raises(UserError, match=r"paper/lost\.yaml is not here: .* use a checkout"):
        Plan(lost, lost.rows, 1, Place(tmp_path))


def of(table: Table, row: str, *values: float) -> Line:
    (chosen,) = table.choose((row,))
    return line(table, chosen, [Result("", "", seed, value, 3.0) for seed, value in enumerate(values)])


def test_what_is_said_of_several_rows_is_said_once(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.format(spread="sd").replace("{method: er}\n", "{method: er}\n    why: smaller\n"))
    table = Table.read(path)
    told = markdown(table, [of(table, "none"), of(table, "er_5"), of(table, "er_10")])
    assert told.splitlines()[-2:] == ["- `er_5`: smaller", "- `er_10`: larger"]
    path.write_text(path.read_text().replace("why: larger, ", ""))
    table = Table.read(path)
    told = markdown(table, [of(table, "none"), of(table, "er_5"), of(table, "er_10")])
    assert told.splitlines()[-1] == "- `er_5`, `er_10`: smaller"


def test_the_difference_is_told_in_standard_errors(tmp_path):
    """Ours 47, 49, 51: mean 49, sd 2, standard error 2 / √3; published 50, of 4 runs with sd 2: 2 / √4 = 1."""
    sd = of(tiny(tmp_path), "none", 47.0, 49.0, 51.0)
    assert (sd.mean, sd.sd, sd.seeds) == (49.0, 2.0, 3)
    assert sd.errors == pytest.approx(-1 / math.sqrt(4 / 3 + 1))
    sem = of(tiny(tmp_path, spread="sem"), "none", 47.0, 49.0, 51.0)  # 2 is the standard error itself
    assert sem.errors == pytest.approx(-1 / math.sqrt(4 / 3 + 4))
    assert in_standard_errors(1.0, 0.0, 2.0, 0.0) is None


def test_a_row_agrees_within_two_standard_errors_or_a_point_and_a_half(tmp_path):
    table = tiny(tmp_path)
    assert of(table, "none", 51.4, 51.4, 51.4).agrees is True  # 1.4 points, 1.4 errors
    assert of(table, "none", 52.6, 52.6).agrees is False
    assert of(table, "none", 49.0, 57.0).agrees is True  # 3 points, but with a large error of its own
    assert of(table, "none").agrees is None


def test_a_published_number_without_a_spread_decides_by_points_alone(tmp_path):
    (tmp_path / "tiny.yaml").write_text(
        TINY.format(spread="sd").replace(
            "published: [50.0, 2.0]", "published: [50.0, null]\n    provenance: from memory"
        )
    )
    table = Table.read(tmp_path / "tiny.yaml")
    near, far = of(table, "none", 51.0, 51.4), of(table, "none", 49.0, 57.0)
    assert (near.errors, near.agrees, far.errors, far.agrees) == (None, True, None, False)
    told = markdown(table, [far])
    assert "| none | 50.00 | 53.00 ± 5.66 | 2 | +3.00 | – | no |" in told
    assert told.splitlines()[-1] == "- `none`: from memory"


def test_the_committed_range_decides_whether_a_row_holds(tmp_path):
    assert of(tiny(tmp_path), "none", 50.9).holds is True
    assert of(tiny(tmp_path), "none", 51.1).holds is False
    assert of(tiny(tmp_path), "er_5", 51.1).holds is None
    assert of(tiny(tmp_path), "none").holds is None
