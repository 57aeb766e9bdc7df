"""A comparison as text: for terminals, GitHub, papers and other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from clkd.compare.comparison import Cell, Comparison, Metric

LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    "–": "--",
}


def rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and cells for a terminal; the best has a `*`."""
    head = _head(comparison)
    return head, _body(comparison, lambda cell, metric: _plain(cell, metric) + (" *" if cell.best else ""))


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """As GitHub shows it.

    >>> print(markdown_table(["a", "b"], [["1", "x|y"]]))
    | a | b |
    | --- | --- |
    | 1 | x\\|y |
    """
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def markdown(comparison: Comparison) -> str:
    """The best in bold, the notes as a list below."""
    body = _body(comparison, lambda cell, metric: f"**{_plain(cell, metric)}**" if cell.best else _plain(cell, metric))
    notes = "\n".join(f"- {note}" for note in told(comparison))
    return markdown_table(_head(comparison), body) + (f"\n\n{notes}" if notes else "")


def latex(comparison: Comparison) -> str:
    """A `tabular` for the package booktabs; the notes are comments above it."""
    body = _body(comparison, _latex_cell)
    escaped = [[each if each.startswith("$") else _escape(each) for each in line] for line in body]
    head = [_escape(each) for each in _head(comparison)]
    return "\n".join(
        [
            *(f"% {note}" for note in told(comparison)),
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            f"{' & '.join(head)} \\\\",
            r"\midrule",
            *(f"{' & '.join(line)} \\\\" for line in escaped),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def csv_text(comparison: Comparison) -> str:
    """A line for each group and metric, every number whole and in its own unit (accuracies are fractions)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, tuple(_flat(comparison, 0, comparison.metrics[0])), lineterminator="\n")
    writer.writeheader()
    for i in range(len(comparison.groups)):
        writer.writerows(_flat(comparison, i, metric) for metric in comparison.metrics)
    return text.getvalue().removesuffix("\n")


def _flat(comparison: Comparison, i: int, metric: Metric) -> dict[str, Any]:
    group, cell = comparison.groups[i], comparison.cells[i][metric.name]
    about = {"group": group.name, "label": group.label, "data": group.data}
    seeds = " ".join(map(str, group.seeds))
    best = "" if cell.mean is None else str(cell.best).lower()
    return {**about, "seeds": seeds, "metric": metric.name, **asdict(cell), "best": best}


def as_data(comparison: Comparison) -> dict[str, Any]:
    """Plain data, with each run's own value."""
    return {
        "groups": [
            {
                "group": group.name,
                "label": group.label,
                "data": group.data,
                "seeds": group.seeds,
                "runs": [str(run.path) for run in group.runs],
                "metrics": {name: {**asdict(cell), "values": group.values(name)} for name, cell in cells.items()},
            }
            for group, cells in zip(comparison.groups, comparison.cells, strict=True)
        ],
        "notes": told(comparison),
    }


def told(comparison: Comparison) -> list[str]:
    """The notes, and how to read `p` where there is one."""
    tests = {cell.test for cells in comparison.cells for cell in cells.values() if cell.test}
    if not tests:
        return list(comparison.notes)
    by = " or ".join(sorted(tests))
    many = len(comparison.groups) > 2
    holm = ", raised by Holm's method for the number of tests in the column" if many else ""
    return [
        *comparison.notes,
        f"p: two-sided {by}-test over seeds{holm}; – is the group that the others are tested against",
    ]


def _tested(comparison: Comparison, metric: Metric) -> bool:
    return any(cells[metric.name].test for cells in comparison.cells)


def _head(comparison: Comparison) -> list[str]:
    head = ["group", "seeds"]
    if _several_data(comparison):
        head.append("data")
    for metric in comparison.metrics:
        head.append(f"{metric.name}, %" if metric.percent else metric.name)
        if _tested(comparison, metric):
            head.append("p")
    return head


def _several_data(comparison: Comparison) -> bool:
    return len({group.data for group in comparison.groups}) > 1


def _body(comparison: Comparison, show: Any) -> list[list[str]]:
    body = []
    for group, cells in zip(comparison.groups, comparison.cells, strict=True):
        line = [group.label, str(len(group.runs))]
        if _several_data(comparison):
            line.append(group.data)
        for metric in comparison.metrics:
            cell = cells[metric.name]
            line.append(show(cell, metric))
            if _tested(comparison, metric):
                line.append(p_text(cell.p))
        body.append(line)
    return body


def p_text(p: float | None) -> str:
    """Three digits, and no more than that of a small one.

    >>> p_text(0.0123), p_text(0.0004), p_text(None)
    ('0.012', '<0.001', '–')
    """
    return "–" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _numbers(cell: Cell, metric: Metric) -> list[str]:
    """Mean, and standard deviation if there is one."""
    values = [value for value in (cell.mean, cell.sd) if value is not None]
    return [f"{100 * value:.2f}" if metric.percent else f"{value:.4g}" for value in values]


def _plain(cell: Cell, metric: Metric) -> str:
    return " ± ".join(_numbers(cell, metric)) or "–"


def _latex_cell(cell: Cell, metric: Metric) -> str:
    text = r" \pm ".join(_numbers(cell, metric))
    if not text:
        return "–"
    return rf"$\mathbf{{{text}}}$" if cell.best else f"${text}$"


def _escape(text: str) -> str:
    r"""For LaTeX.

    >>> print(_escape("a_b, %"))
    a\_b, \%
    """
    return "".join(LATEX.get(c, c) for c in text)
