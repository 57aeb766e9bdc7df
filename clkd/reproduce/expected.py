"""The ranges that clkd's own means are expected in: committed beside each table, written from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from clkd.disk import write_whole
from clkd.errors import UserError, writing
from clkd.scenario.document import parse, read_text

if TYPE_CHECKING:
    from clkd.reproduce.results import Line

Range = tuple[float, float]
SPREADS, LEAST = 3.0, 1.0
HEAD = """\
# The range of our mean in percent: mean ± max({least:g}, {spreads:g} · sd) of so many seeds.
# Written by `clkd reproduce {name} --expect`.
"""


def around(mean: float, sd: float) -> Range:
    """Wide enough for the mean of any number of seeds, and narrow enough to see a broken method.

    >>> around(50.0, 0.1), around(50.0, 2.0)
    ((49.0, 51.0), (44.0, 56.0))
    """
    off = max(LEAST, SPREADS * sd)
    return round(mean - off, 2), round(mean + off, 2)


def place(table: Path) -> Path:
    """Where the ranges of the table in this file are."""
    return table.parent / "expected" / table.name


def read(table: Path) -> dict[str, Range]:
    """By row; rows that nobody measured have none."""
    path = place(table)
    if not path.is_file():
        return {}
    try:
        return TypeAdapter(dict[str, Range]).validate_python(parse(read_text(path)).data or {})
    except ValidationError as error:
        raise UserError(f"{path}: each row has two numbers ({error.errors()[0]['msg']})") from error


def write(table: Path, known: Mapping[str, Range], lines: Sequence[Line]) -> None:
    """Commit to what the rows of two seeds or more came to; other rows keep what is `known`."""
    said = {row: f"[{low}, {high}]" for row, (low, high) in known.items()}
    for line in lines:
        if line.mean is not None and line.sd is not None:
            low, high = around(line.mean, line.sd)
            said[line.row] = f"[{low}, {high}]  # {line.seeds} seeds"
    text = HEAD.format(least=LEAST, spreads=SPREADS, name=table.stem)
    path = place(table)
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        write_whole(path, text + "".join(f"{row}: {told}\n" for row, told in said.items()))
