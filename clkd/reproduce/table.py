"""A published table as data: one base scenario, and for each row what it changes, by the words of `--set`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from clkd.errors import UserError, did_you_mean
from clkd.options import Options
from clkd.scenario.document import parse, read_text, to_yaml
from clkd.scenario.settings import as_setting

HOME = Path(__file__).parent / "tables"
Settings = dict[str, Any]
"""Places of the scenario (`losses.1.weight`) and their values."""
Pair = tuple[float, float]


class Cell(Options):
    """One number of a table, and ours."""

    published: Pair | None = None
    """Mean and spread in percent, as printed; none where the paper has no such number."""
    expected: Pair | None = None
    """The committed range of our mean, in percent: a mean and what it may be off by; none until it was measured."""
    why: str = ""
    """Why it differs, where it does; or why a low number is the right one."""
    provenance: str = ""
    """Where this number is from, if not where the table's are."""
    set: Settings = Field(default_factory=dict)
    """What this row changes in the table's scenario."""


class RowOptions(Cell):
    """A row, or several that differ in the number of rows in memory."""

    at: dict[str, Cell] = Field(default_factory=dict)
    """By memory size; the row of each is called NAME_SIZE."""

    @model_validator(mode="after")
    def _one_number(self) -> RowOptions:
        if self.at and (self.published or self.expected):
            raise ValueError("a row with `at` has its numbers there")
        return self


class TableOptions(Options):
    """A file of `clkd/reproduce/tables`."""

    title: str
    paper: str
    provenance: str
    """Where the published numbers and settings are from, and whether they were checked."""
    spread: Literal["sd", "sem"]
    """What the published spread is: the standard deviation of runs, or the standard error of their mean."""
    seeds: Annotated[int, Field(gt=1)]
    """How many runs the published numbers are means of."""
    metric: str = "average_accuracy"
    differs: tuple[str, ...] = ()
    """What is not as in the paper, for all rows."""
    scenario: dict[str, Any]
    """What all rows have in common."""
    rows: dict[str, RowOptions]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table."""

    name: str
    cell: Cell
    settings: tuple[str, ...]
    """As `clkd run TABLE.yaml --set …` takes them."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its rows spelt out."""

    name: str
    options: TableOptions
    rows: tuple[Row, ...]

    @classmethod
    def read(cls, path: Path) -> Table:
        """The table of a file. Raises `UserError` where it says what no table says."""
        try:
            options = TableOptions.model_validate(parse(read_text(path)).data)
        except ValidationError as error:
            told = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
            raise UserError(f"{path}: {'; '.join(told)}") from error
        return cls(path.stem, options, tuple(_rows(options.rows)))

    @property
    def text(self) -> str:
        """The base scenario as YAML."""
        return to_yaml({"name": self.name, **self.options.scenario})

    def choose(self, names: tuple[str, ...]) -> tuple[Row, ...]:
        """The rows of these names, or whose names begin with one of them (`er` means `er_200` and `er_500`, too).

        Raises:
            UserError: there is no such row.
        """
        if not names:
            return self.rows
        for name in names:
            if not any(_meant(row.name, name) for row in self.rows):
                hint = did_you_mean(name, [row.name for row in self.rows])
                raise UserError(f"--row {name}: table '{self.name}' has no such row ({hint})")
        return tuple(row for row in self.rows if any(_meant(row.name, name) for name in names))


def _meant(row: str, name: str) -> bool:
    return row == name or (row.startswith(f"{name}_") and row.removeprefix(f"{name}_").isdigit())


def _rows(rows: Mapping[str, RowOptions]) -> Iterator[Row]:
    for name, row in rows.items():
        if not row.at:
            yield Row(name, row, _settings(row.set))
        for size, cell in row.at.items():
            told = cell.model_copy(update={"why": cell.why or row.why})
            yield Row(f"{name}_{size}", told, _settings(row.set | {"memory.size": int(size)} | cell.set))


def _settings(changes: Settings) -> tuple[str, ...]:
    return tuple(as_setting(place, value) for place, value in changes.items())


def names() -> list[str]:
    """Of all tables."""
    return sorted(path.stem for path in HOME.glob("*.yaml"))


def find(name: str) -> Table:
    """A table by its name. Raises `UserError` where there is none."""
    if name not in names():
        raise UserError(f"there is no table '{name}' ({did_you_mean(name, names())})")
    return Table.read(HOME / f"{name}.yaml")
