"""A scenario's parts, wherever they are in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clkd.options import Options, Part, Place, SeveralParts


def parts(value: Any, place: Place = ()) -> Iterator[tuple[Place, Part]]:
    """Every part below `value`, those inside other parts' options too, with its place."""
    if isinstance(value, SeveralParts):
        yield from parts(value.members, place)
    elif isinstance(value, Part):
        yield place, value
        yield from parts(value.options, place)
        yield from parts(value.shared, place)
    elif isinstance(value, Options):
        for name in type(value).model_fields:
            yield from parts(getattr(value, name), (*place, name))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from parts(inner, (*place, key))
    elif isinstance(value, tuple | list):
        for i, inner in enumerate(value):
            yield from parts(inner, (*place, i))
