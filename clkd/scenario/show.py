"""A resolved scenario for people: YAML, with the origin of each value beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clkd.options import Place
from clkd.scenario.document import to_yaml
from clkd.scenario.load import Loaded
from clkd.scenario.resolve import resolved


def show(loaded: Loaded) -> str:
    """The resolved scenario as YAML that loads as the same scenario; a comment says where each value comes from."""
    lines = list(_lines(resolved(loaded.scenario), (), "", loaded))
    width = min(max(len(text) for text, _ in lines), 72)
    return "".join(f"{text:<{width}}  # {origin}\n" if origin else f"{text}\n" for text, origin in lines)


def _lines(value: Any, place: Place, indent: str, loaded: Loaded) -> Iterator[tuple[str, str]]:
    """Each line with the origin of its value ('' where a section starts)."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in entries:
        here = (*place, key)
        head = f"{indent}{_flow(key)}:" if isinstance(value, dict) else f"{indent}-"
        if _one_line(inner):
            yield f"{head} {_flow(inner)}", _origin(here, inner, loaded)
        elif isinstance(value, dict):
            yield head, ""
            yield from _lines(inner, here, f"{indent}  ", loaded)
        else:
            first, *rest = _lines(inner, here, f"{indent}  ", loaded)
            yield f"{head} {first[0].lstrip()}", first[1]
            yield from rest


def _one_line(value: Any) -> bool:
    """Scalars, empty sections and lists of scalars."""
    if isinstance(value, dict):
        return not value
    return not isinstance(value, list) or not any(isinstance(item, dict | list) for item in value)


def _origin(place: Place, value: Any, loaded: Loaded) -> str:
    """Of a list of scalars: the origins of its entries."""
    places = [(*place, i) for i in range(len(value))] if isinstance(value, list) and value else [place]
    return ", ".join(dict.fromkeys(loaded.origins[place] for place in places))


def _flow(value: Any) -> str:
    return to_yaml(value, flow=True).strip()
