"""Colours of numbers: matplotlib's cividis, which reads the same with and without colour vision, and in grey."""

from __future__ import annotations

Rgb = tuple[int, int, int]

CIVIDIS = (
    "00224e 002e6c 1e3a6f 35456c 47516c 575d6d 666970 757575 848279 948e77 a59c74 b7a96e c8b866 dbc75a eed649 fee838"
)
STOPS: tuple[Rgb, ...] = tuple((int(c[:2], 16), int(c[2:4], 16), int(c[4:], 16)) for c in CIVIDIS.split())


def shade(share: float) -> Rgb:
    """The colour of a number between 0 and 1; what lies outside has that of the end.

    >>> shade(0.0), shade(7.0)
    ((0, 34, 78), (254, 232, 56))
    """
    at = min(max(share, 0.0), 1.0) * (len(STOPS) - 1)
    low = min(int(at), len(STOPS) - 2)
    r, g, b = (round(x + (y - x) * (at - low)) for x, y in zip(STOPS[low], STOPS[low + 1], strict=True))
    return r, g, b


def ink(ground: Rgb) -> str:
    """Black or white, whichever is read better on this ground: at least 4.5 : 1 on any."""
    light = luminance(ground)
    return "#000" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "#fff"


def luminance(colour: Rgb) -> float:
    """Relative luminance, 0 to 1, as the Web Content Accessibility Guidelines define it."""
    parts = [value / 255 for value in colour]
    r, g, b = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def css(colour: Rgb) -> str:
    """As a style sheet spells it.

    >>> css((0, 34, 78))
    '#00224e'
    """
    return "#" + "".join(f"{value:02x}" for value in colour)


def line(place: int, count: int) -> str:
    """The colour of one of `count` curves, the first blue, the last red.

    All are as bright, so that they are seen on white and on black.

    >>> line(0, 5), line(4, 5)
    ('oklch(62% 0.15 260)', 'oklch(62% 0.15 20)')
    """
    hue = 260 - 240 * (place / (count - 1) if count > 1 else 0)
    return f"oklch(62% 0.15 {hue:.0f})"
