"""Numbers as people read them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from clkd.tracking.points import percent


def moment(seconds: float) -> str:
    """A time since 1970, as the clock here says it."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def duration(seconds: float) -> str:
    """Two units at most.

    >>> duration(7.25), duration(75), duration(7300)
    ('7.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float) -> str:
    """Bytes in the unit that suits them.

    >>> size(512), size(1_536_000)
    ('512 B', '1.5 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def signed(share: float) -> str:
    """A difference of shares in percent, with its sign.

    >>> signed(0.25), signed(-0.25), signed(-0.0001), signed(float("nan"))
    ('+25.0', '-25.0', '0.0', '-')
    """
    if math.isnan(share):
        return percent(share)
    tenths = round(1000 * share)
    return f"{tenths / 10:+.1f}" if tenths else "0.0"


def thousands(value: float) -> str:
    """A large number by its power of a thousand.

    >>> thousands(950), thousands(78_042), thousands(4.353e11)
    ('950', '78.0 thousand', '435.3 billion')
    """
    for unit in ("", " thousand", " million", " billion", " trillion"):
        if abs(value) < 1000 or unit == " trillion":
            break
        value /= 1000
    return f"{value:,.1f}{unit}" if unit else f"{value:,.0f}"


def count(value: int | None) -> str:
    """Rows, or a dash where there is nothing to count."""
    return "-" if value is None else f"{value:,}"


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names with commas; of many the first ones.

    >>> listed("abcdef", most=4)
    'a, b, c, … (6)'
    """
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[: most - 1])}, … ({len(names)})"
