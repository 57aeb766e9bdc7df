"""A matrix as a picture of one dot a cell, for those that have too many cells for numbers."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Sequence

from clkd.page.colours import shade

HEAD = b"\x89PNG\r\n\x1a\n"
SHADES = 255


def data_uri(rows: Sequence[Sequence[float | None]]) -> str:
    """A PNG of shares between 0 and 1, `rows[i][j]` at row i and column j; None is transparent.

    Places of the palette: 0 is nothing, 1 to 255 are shades from 0 to 1.
    """
    width = max(len(row) for row in rows)
    lines = b"".join(b"\0" + bytes(_place(value) for value in [*row, *[None] * (width - len(row))]) for row in rows)
    palette = bytes(3) + b"".join(bytes(shade(i / (SHADES - 1))) for i in range(SHADES))
    png = HEAD + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", palette),
            _chunk(b"tRNS", b"\0"),
            _chunk(b"IDAT", zlib.compress(lines, 9)),
            _chunk(b"IEND", b""),
        )
    )
    return f"data:image/png;base64,{b64encode(png).decode()}"


def _place(value: float | None) -> int:
    return 0 if value is None else 1 + round(min(max(value, 0.0), 1.0) * (SHADES - 1))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
