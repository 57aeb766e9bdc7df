"""A table in words: published beside ours."""

from __future__ import annotations

from collections.abc import Sequence

from clkd.compare.text import markdown_table
from clkd.reproduce.results import Line
from clkd.reproduce.table import Table

HEAD = ("row", "published", "ours", "seeds", "difference", "standard errors", "seconds a run", "holds")


def cells(line: Line) -> tuple[str, ...]:
    """One line of the table."""
    off = line.mean - line.published[0] if line.mean is not None and line.published else None
    return (
        line.row,
        "–" if line.published is None else f"{line.published[0]:.2f} ± {line.published[1]:.2f}",
        "–" if line.mean is None else f"{line.mean:.2f}" + ("" if line.sd is None else f" ± {line.sd:.2f}"),
        str(line.seeds),
        "–" if off is None else f"{off:+.2f}",
        "–" if line.errors is None else f"{line.errors:+.1f}",
        "–" if line.seconds is None else f"{line.seconds:.0f}",
        {True: "yes", False: "NO", None: "–"}[line.holds],
    )


def markdown(table: Table, lines: Sequence[Line]) -> str:
    """The table as GitHub shows it, and below it what there is to say of its rows."""
    notes = [f"- `{line.row}`: {line.why}" for line in lines if line.why]
    differs = [f"- {each}" for each in table.options.differs]
    parts = [markdown_table(HEAD, [cells(line) for line in lines])]
    if differs:
        parts.append("What is not as in the paper:\n\n" + "\n".join(differs))
    if notes:
        parts.append("\n".join(notes))
    return "\n\n".join(parts)
