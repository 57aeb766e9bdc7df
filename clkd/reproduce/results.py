"""What was measured, one file for each row and seed, and what it comes to beside a published number."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from clkd.compare.statistics import in_standard_errors, standard_deviation
from clkd.disk import write_whole
from clkd.errors import UserError, writing
from clkd.reproduce.table import Published, Row, Table


@dataclass(frozen=True, slots=True)
class Result:
    """One finished run.

    Attributes:
        digest: of the scenario that was run (`config_sha`).
        version: clkd's.
        value: the table's metric, in percent.
        seconds: the whole run's.
    """

    digest: str
    version: str
    seed: int
    value: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where the results of a table lie."""

    home: Path

    def path(self, row: str, seed: int) -> Path:
        return self.home / row / f"seed_{seed}.json"

    def read(self, row: str, seed: int) -> Result | None:
        """What is stored, whatever scenario it is of; None where nothing is.

        Raises:
            UserError: the file is none that clkd wrote.
        """
        path = self.path(row, seed)
        try:
            return Result(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} cannot be read: delete it, and its run is made again") from error

    def write(self, row: str, result: Result) -> None:
        path = self.path(row, result.seed)
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(asdict(result), indent=2) + "\n")


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table as it stands: published beside ours, in percent.

    Attributes:
        errors: how many standard errors ours is above the published mean; None where it cannot be told.
        seconds: of one run, on average.
        holds: whether our mean is in the committed range; None where there is none, or no run.
    """

    row: str
    published: Published | None
    mean: float | None
    sd: float | None
    seeds: int
    errors: float | None
    seconds: float | None
    expected: tuple[float, float] | None
    holds: bool | None
    why: str

    @property
    def agrees(self) -> bool | None:
        """Within two standard errors of the published mean, or 1.5 points; None where there is nothing to compare."""
        if self.mean is None or self.published is None:
            return None
        near = abs(self.mean - self.published[0]) <= 1.5
        return near or (self.errors is not None and abs(self.errors) <= 2)


def line(table: Table, row: Row, results: Sequence[Result]) -> Line:
    """The row, with what was measured of it."""
    values = [result.value for result in results]
    mean = statistics.fmean(values) if values else None
    sd = standard_deviation(values)
    published, expected = row.cell.published, table.expected.get(row.name)
    errors = None
    if published and published[1] is not None and mean is not None and sd is not None:
        theirs = published[1] / (math.sqrt(table.options.seeds or 1) if table.options.spread == "sd" else 1)
        errors = in_standard_errors(mean, sd / math.sqrt(len(values)), published[0], theirs)
    return Line(
        row=row.name,
        published=published,
        mean=mean,
        sd=sd,
        seeds=len(values),
        errors=errors,
        seconds=statistics.fmean(result.seconds for result in results) if results else None,
        expected=expected,
        holds=None if mean is None or expected is None else expected[0] <= mean <= expected[1],
        why=". ".join(filter(None, (row.cell.why.rstrip("."), row.cell.provenance))),
    )
