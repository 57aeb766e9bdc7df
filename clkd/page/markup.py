"""HTML as text that cannot be got wrong: what is no markup is escaped where it is put in."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TypeAlias

Content: TypeAlias = "str | int | float | Iterable[Content] | None"


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(element: str, *content: Content, **attributes: str | float | bool | None) -> Markup:
    """An element. Of attributes, `_` stands for `-`, one at the end is dropped, and None or False is left out.

    >>> tag("p", "a < b", tag("br"), class_="x", aria_label='"hi"')
    '<p class="x" aria-label="&quot;hi&quot;">a &lt; b<br></p>'
    """
    told = "".join(_attribute(name, value) for name, value in attributes.items())
    return Markup(f"<{element}{told}>" + ("" if element in VOID else f"{join(content)}</{element}>"))


VOID = ("br", "meta", "img")


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    spelt = name.removesuffix("_").replace("_", "-")
    return f" {spelt}" if value is True else f' {spelt}="{escape(str(value))}"'


def join(content: Content) -> Markup:
    """Pieces one after another, escaped unless they are markup; None is nothing.

    >>> join(["<", tag("b", 1), None])
    '&lt;<b>1</b>'
    """
    if content is None:
        return Markup("")
    if isinstance(content, Markup):
        return content
    if isinstance(content, str | int | float):
        return Markup(escape(str(content)))
    return Markup("".join(join(each) for each in content))
