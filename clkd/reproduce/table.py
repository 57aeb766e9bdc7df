"""A published table as data: one base scenario, and for each row what it changes, by the words of `--set`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from clkd.errors import UserError, did_you_mean
from clkd.options import Options
from clkd.reproduce import expected
from clkd.scenario.document import parse, read_text, to_yaml
from clkd.scenario.settings import as_setting

HOME = Path(__file__).parent / "tables"
SHIPPED = Path(__file__).parents[2] / "scenarios"
"""clkd's own scenarios, which come with its source."""
Settings = dict[str, Any]
"""Places of the scenario (`losses.1.weight`) and their values."""
Published = tuple[float, float | None]


class Cell(Options):
    """One number of a table, and ours."""

    published: Published | None = None
    """Mean and spread in percent, as printed; none where the paper has no such number, and no spread where it is not
    known."""
    why: str = ""
    """Why it differs, where it does; or why a low number is the right one."""
    provenance: str = ""
    """Where this number is from, if not where the table's are."""
    set: Settings = Field(default_factory=dict)
    """What this row changes in its scenario."""


class RowOptions(Cell):
    """A row, or several that differ in the number of rows in memory."""

    scenario: str | None = None
    """A file of `scenarios/` that this row is about; by default the table's own scenario."""
    at: dict[str, Cell] = Field(default_factory=dict)
    """By memory size; the row of each is called NAME_SIZE."""

    @model_validator(mode="after")
    def _one_number(self) -> RowOptions:
        if self.at and self.published:
            raise ValueError("a row with `at` has its numbers there")
        return self


class TableOptions(Options):
    """A file of `clkd/reproduce/tables`."""

    title: str
    """What its heading says."""
    paper: str = ""
    """Authors, year and title, and which table of the paper it is."""
    provenance: str = ""
    """Where the published numbers and settings are from, and whether they were checked."""
    spread: Literal["sd", "sem"] = "sd"
    """What the published spread is: the standard deviation of runs, or the standard error of their mean."""
    seeds: Annotated[int, Field(gt=1)] | None = None
    """How many runs the published numbers are means of."""
    metric: str = "average_accuracy"
    """The metric that is compared (`clkd list metrics`)."""
    differs: tuple[str, ...] = ()
    """What is not as in the paper, for all rows."""
    scenario: dict[str, Any] | None = None
    """What all rows have in common that name no scenario of their own."""
    of: str | None = None
    """Another table, whose rows and scenarios these are; without its numbers, which mean nothing in other settings."""
    set: Settings = Field(default_factory=dict)
    """What is changed in all rows `of` the other table."""
    rows: dict[str, RowOptions] = Field(default_factory=dict)
    """By name, in the order of the table."""

    @model_validator(mode="after")
    def _rows_of_one_kind(self) -> TableOptions:
        if bool(self.rows) == bool(self.of):
            raise ValueError("a table has rows, or those `of` another one")
        if self.set and not self.of:
            raise ValueError("set changes the rows `of` another table; a table's own say what they are")
        if self.scenario is None and any(row.scenario is None for row in self.rows.values()):
            raise ValueError("a row without a scenario of its own needs the table's")
        if self.seeds is None and any(c.published for row in self.rows.values() for c in (row, *row.at.values())):
            raise ValueError("seeds: published numbers are means of so many runs")
        return self


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table."""

    name: str
    cell: Cell
    scenario: Path | None
    """None where it is the table's own."""
    settings: tuple[str, ...]
    """As `clkd run SCENARIO.yaml --set …` takes them."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its rows spelt out.

    Attributes:
        expected: by row, the committed range of our mean, in percent; rows that nobody measured have none.
    """

    path: Path
    options: TableOptions
    rows: tuple[Row, ...]
    expected: Mapping[str, expected.Range]

    @classmethod
    def read(cls, path: Path) -> Table:
        """The table of a file. Raises `UserError` where it says what no table says."""
        document = parse(read_text(path))
        if document.twice:
            raise UserError(f"{path}: {'.'.join(map(str, document.twice[0][0]))} is said twice")
        try:
            options = TableOptions.model_validate(document.data)
        except ValidationError as error:
            told = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
            raise UserError(f"{path}: {'; '.join(told)}") from error
        if options.of is None:
            return cls(path, options, tuple(_rows(options.rows)), expected.read(path))
        other = cls.read(path.with_name(f"{options.of}.yaml"))
        own = {"scenario": other.options.scenario, "differs": (*other.options.differs, *options.differs)}
        rows = tuple(_changed(row, options.set) for row in other.rows)
        return cls(path, options.model_copy(update=own), rows, expected.read(path))

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def text(self) -> str:
        """The base scenario as YAML."""
        return to_yaml({"name": self.name, **(self.options.scenario or {})})

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
        scenario = None if row.scenario is None else SHIPPED / row.scenario
        if not row.at:
            yield Row(name, row, scenario, _settings(row.set))
        for size, cell in row.at.items():
            told = cell.model_copy(update={"why": cell.why or row.why})
            settings = _settings(row.set | {"memory.size": int(size)} | cell.set)
            yield Row(f"{name}_{size}", told, scenario, settings)


def _changed(row: Row, common: Settings) -> Row:
    """The same row in other settings, of which its numbers and words say nothing."""
    return replace(row, cell=Cell(), settings=(*row.settings, *_settings(common)))


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
