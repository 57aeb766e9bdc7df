"""A table in words: published beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clkd.compare.text import markdown_table
from clkd.disk import write_whole
from clkd.errors import UserError, writing
from clkd.reproduce.results import Line
from clkd.reproduce.table import Published, Table
from clkd.scenario.document import read_text

HEAD = ("row", "published", "ours", "seeds", "difference", "standard errors", "agrees", "expected", "seconds a run")
WORDS = {True: "yes", False: "no", None: "–"}


def cells(line: Line) -> tuple[str, ...]:
    """One line of the table."""
    off = line.mean - line.published[0] if line.mean is not None and line.published else None
    return (
        line.row,
        _published(line.published),
        "–" if line.mean is None else f"{line.mean:.2f}" + ("" if line.sd is None else f" ± {line.sd:.2f}"),
        str(line.seeds),
        "–" if off is None else f"{off:+.2f}",
        "–" if line.errors is None else f"{line.errors:+.1f}",
        WORDS[line.agrees],
        _range(line),
        "–" if line.seconds is None else f"{line.seconds:.0f}",
    )


def _published(published: Published | None) -> str:
    if published is None:
        return "–"
    mean, spread = published
    return f"{mean:.2f}" + ("" if spread is None else f" ± {spread:.2f}")


def _range(line: Line) -> str:
    """The committed one, and whether our mean left it."""
    if line.expected is None:
        return "–"
    low, high = line.expected
    return f"{low:.2f} to {high:.2f}" + (" (LEFT)" if line.holds is False else "")


def markdown(table: Table, lines: Sequence[Line]) -> str:
    """The table as GitHub shows it, with where its numbers are from before it, and what there is to say of its rows."""
    options = table.options
    compared = [line.agrees for line in lines if line.agrees is not None]
    parts = [
        f"**{options.title}.** {options.paper}. {options.provenance}" if options.paper else f"**{options.title}.**",
        markdown_table(HEAD, [cells(line) for line in lines]),
        f"{sum(compared)} of {len(compared)} rows agree." if compared else "",
        _items("What is not as in the paper:\n\n", options.differs),
        _items("", _reasons(lines)),
    ]
    return "\n\n".join(part.strip() for part in parts if part)


def _reasons(lines: Sequence[Line]) -> list[str]:
    """What there is to say of rows, once for all of whom it is said."""
    named: dict[str, list[str]] = {}
    for line in lines:
        named.setdefault(line.why, []).append(f"`{line.row}`")
    return [f"{', '.join(rows)}: {why}" for why, rows in named.items() if why]


def _items(head: str, each: Sequence[str]) -> str:
    return head + "\n".join(f"- {one}" for one in each) if each else ""


def fill(page: Path, table: Table, lines: Sequence[Line]) -> None:
    """Put the table between its two marks on a page."""
    put(page, "clkd reproduce", table.name, markdown(table, lines))


def put(page: Path, maker: str, name: str, table: str) -> None:
    """Put what `maker` made between the two marks of its `name` on a page.

    Raises:
        UserError: the page is not there, or has no such marks.
    """
    begin, end = f"<!-- {maker} {name} -->", f"<!-- end of {name} -->"
    before, found, rest = read_text(page).partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise UserError(f"{page} has no place for the table: write the lines {begin} and {end} where it is to be")
    with writing(page):
        write_whole(page, f"{before}{begin}\n\n{table}\n\n{end}{after}")
