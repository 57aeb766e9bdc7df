"""How much a memory may hold: rows, bytes, or everything. Nothing here loads torch."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from clkd.errors import UserError

if TYPE_CHECKING:
    from clkd.context import Context

ALL = "all"
BYTES = r"^(\d+(?:\.\d+)?) ?([kKmMgG]?)([iI]?)[bB]$"
SCALE = {"": 0, "k": 1, "m": 2, "g": 3}
IDS = 32
"""Bytes of a row's label, sample id, domain and experience."""


def in_bytes(size: str) -> int:
    """What a size in words comes to, rounded down.

    >>> in_bytes("20MB"), in_bytes("1.5 KiB")
    (20000000, 1536)
    """
    found = re.match(BYTES, size)
    assert found, "checked by `Size`"
    number, scale, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** SCALE[scale.lower()])


def rows_within(size: int | str, context: Context | None, beside: int = 0) -> int:
    """How many rows a budget holds: `size` itself if that is a number of rows, or all that the stream trains on, or as
    many as fit whole into so many bytes.

    Args:
        size: rows, `all`, or bytes in words.
        context: knows what a stored row of the stream takes, and how many there are.
        beside: bytes that the memory keeps beside each row.

    Raises:
        UserError: not even one row fits.
    """
    if isinstance(size, int):
        return size
    assert context is not None, "the engine offers it"
    if size == ALL:
        return context.rows
    x = context.train.x  # which has no rows where the data is gone
    row = math.prod(x.shape[1:]) * x.element_size() + IDS + beside
    rows = in_bytes(size) // row
    if not rows:
        raise UserError(f"memory.size: {size} is less than one row takes, which is {row} bytes with all that is kept")
    return rows


def _checked(size: Any) -> Any:
    if isinstance(size, int) and not isinstance(size, bool):
        if size <= 0:
            raise ValueError("give more than 0")
    elif not isinstance(size, str) or not (size == ALL or re.match(BYTES, size)):
        raise ValueError("give a number of rows, such as 500, or of bytes, such as 20MB, or all")
    return size


Size = Annotated[
    int | str,
    BeforeValidator(_checked),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"const": ALL}, {"type": "string", "pattern": BYTES}]}
    ),
]
"""Rows, bytes in words, or all rows that the stream trains on: `500`, `20MB`, `1.5GiB`, `all`."""
