"""clkd's own numbers stay where they were committed to be. Which row left its range, `clkd reproduce` says."""

import pytest

from clkd.cli.main import main
from clkd.reproduce.table import find, names

QUICK = ("derpp", "lwf")
REAL = (("sequential_mnist", "derpp_500"), ("sequential_mnist", "er_5120"))
"""Half a minute each."""


def rows_of(*chosen):
    return [word for row in chosen for word in ("--row", row)]


def stays(table, *chosen):
    """One seed of each row."""
    return main(["reproduce", table, "--seeds", "1", "--quiet", *rows_of(*chosen)])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_row_that_is_run_here_has_a_range():
    assert set(find("digits_check").expected) == {row.name for row in find("digits_check").rows}
    assert all(row in find(table).expected for table, row in REAL)


@pytest.mark.parametrize("name", names())
def test_ranges_are_of_rows_that_there_are(name):
    assert set(find(name).expected) <= {row.name for row in find(name).rows}


@pytest.mark.slow
def test_the_quick_rows_stay_where_they_were(capsys):
    assert stays("digits_check", *QUICK) == 0, capsys.readouterr().out


@pytest.mark.slow
def test_all_rows_of_the_digits_stay_where_they_were(capsys):
    assert stays("digits_check") == 0, capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("table", "row"), REAL)
def test_a_row_of_real_mnist_stays_where_it_was(table, row, real_data, monkeypatch, capsys):
    monkeypatch.setenv("CLKD_DATA", real_data)
    assert stays(table, row) == 0, capsys.readouterr().out
