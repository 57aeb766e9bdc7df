"""Tables: plain ones, and matrices whose cells are coloured by their numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from clkd.page.bitmap import data_uri
from clkd.page.colours import css, ink, shade
from clkd.page.markup import Content, Markup, join, tag

MOST_CELLS = 30
"""Rows or columns up to which every cell carries its number."""


def table(caption: str, head: Sequence[Content], rows: Sequence[Sequence[Content]], note: str | None = None) -> Markup:
    """The first cell of a row is its name. Columns of numbers stand right, those of words left."""
    kinds = [None if all(_is_number(row[i]) for row in rows) else "words" for i in range(len(head))]
    top = tag("tr", [tag("th", each, scope="col", class_=kind) for each, kind in zip(head, kinds, strict=True)])
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            [tag("td", each, class_=kind) for each, kind in zip(row, kinds, strict=True)][1:],
        )
        for row in rows
    ]
    whole = tag("table", _caption(caption), tag("thead", top), tag("tbody", body))
    return join([_box(caption, whole), note and tag("p", note, class_="note")])


def _is_number(cell: Content) -> bool:
    return cell is None or re.fullmatch(r"[-+\d.,e %]*", str(cell)) is not None


def _caption(words: str) -> Markup:
    return tag("caption", tag("span", words))


def _box(caption: str, table: Markup) -> Markup:
    """What is too wide scrolls in here, and is reached by keyboard, too."""
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption)


def heat(
    caption: str,
    rows: Sequence[Sequence[float | None]],
    names: tuple[Sequence[str], Sequence[str]],
    axes: tuple[str, str],
    texts: Sequence[Sequence[str]] | None = None,
) -> Markup:
    """A matrix as a table, or, if it is large, as a picture.

    Args:
        rows: shares between 0 and 1; None and NaN are left blank. They may be of different lengths.
        names: of the rows, of the columns.
        axes: what a row is, what a column is.
        texts: what stands in the cells; by default percent.
    """
    clean = [[None if value is None or math.isnan(value) else value for value in row] for row in rows]
    if max(len(names[0]), len(names[1])) > MOST_CELLS:
        return _picture(caption, clean, names, axes)
    corner = tag("td", f"{axes[0]} ↓ {axes[1]} →", class_="corner")
    top = tag("tr", corner, [tag("th", name, scope="col") for name in names[1]])
    body = []
    for i, (name, row) in enumerate(zip(names[0], clean, strict=True)):
        said = texts[i] if texts else [f"{100 * value:.1f}" if value is not None else "" for value in row]
        cells = [_cell(value, text) for value, text in zip(row, said, strict=True)]
        cells += [tag("td")] * (len(names[1]) - len(row))
        body.append(tag("tr", tag("th", name, scope="row"), cells))
    parts = (_caption(caption), tag("thead", top), tag("tbody", body))
    return _box(caption, tag("table", *parts, class_="heat", style=f"--columns:{len(names[1])}"))


def _cell(value: float | None, text: str) -> Markup:
    if value is None:
        return tag("td", text)
    ground = shade(value)
    return tag("td", text, style=f"--shade:{css(ground)};--ink:{ink(ground)}")


def _picture(
    caption: str,
    rows: Sequence[Sequence[float | None]],
    names: tuple[Sequence[str], Sequence[str]],
    axes: tuple[str, str],
) -> Markup:
    told = f"{caption}: {len(names[0])} rows ({axes[0]}) by {len(names[1])} columns ({axes[1]})"
    picture = tag("img", src=data_uri(rows), alt=told, class_="dots")
    scale = tag("span", "0 %", tag("span", class_="scale"), "100 %", class_="key")
    return tag("figure", tag("figcaption", told), picture, scale)


def facts(pairs: Sequence[tuple[str, Content]]) -> Markup:
    """Names and what they are."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", what)) for name, what in pairs if what not in (None, "")])


def folded(summary: str, *content: Content, opened: bool = False) -> Markup:
    """What is seen on demand."""
    return tag("details", tag("summary", summary), *content, open=opened)
