"""Curves and bars as SVG, drawn with the page's own ink, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clkd.page.colours import line
from clkd.page.markup import Markup, tag

WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 40, 6, 34, 40
INSIDE = 12
"""Room between the axes and the first and last point."""
DOTS = 60
"""Points of a curve up to which each has a dot."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: y by x; NaN is passed over. `label` is written at its first point, `dashed` sets it off."""

    name: str
    points: Mapping[int, float]
    label: str = ""
    dashed: bool = False


def curves(found: Sequence[Curve], title: str, x: str, y: str, span: tuple[float, float] | None = None) -> Markup:
    """A chart with its legend below.

    Args:
        x, y: what the axes say.
        span: of the y axis; by default what the points need.
    """
    at = [each for curve in found for each in curve.points]
    values = [each for curve in found for each in curve.points.values() if math.isfinite(each)]
    low, high = span or _round_span(min(values, default=0), max(values, default=1))
    frame = _Frame(min(at, default=0), max(at, default=1), low, high)
    plain = [curve for curve in found if not curve.dashed]
    colours = {id(curve): line(place, len(plain)) for place, curve in enumerate(plain)}
    drawn = [_curve(curve, frame, colours.get(id(curve), "currentColor")) for curve in found]
    picture = _svg(title, _axes(frame, x, y, sorted(set(at))), drawn)
    names = [tag("li", _swatch(colours.get(id(c), "currentColor"), c.dashed), c.name) for c in found]
    legend = tag("ul", names, class_="legend") if len(found) > 1 else None
    return tag("figure", tag("figcaption", title), tag("div", picture, class_="scroll"), legend)


def stacks(parts: Mapping[str, Sequence[float]], names: Sequence[str], title: str, unit: str) -> Markup:
    """A horizontal bar for each name, made of parts."""
    totals = [sum(each[i] for each in parts.values()) for i in range(len(names))]
    most = max([*totals, 1e-12])
    bars = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            tag("td", _bar([each[i] / most for each in parts.values()]), class_="bar"),
            tag("td", f"{totals[i]:,.2f}"),
        )
        for i, name in enumerate(names)
    ]
    head = tag("tr", tag("th", "experience", scope="col"), tag("td"), tag("th", unit, scope="col"))
    body = tag("table", tag("caption", tag("span", title)), tag("thead", head), tag("tbody", bars), class_="bars")
    legend = [tag("li", _swatch(line(place, len(parts)), False), name) for place, name in enumerate(parts)]
    return tag("figure", tag("div", body, class_="scroll"), tag("ul", legend, class_="legend"))


def bars(values: Mapping[str, float], title: str, unit: str, what: str = "class") -> Markup:
    """A horizontal bar for each name."""
    most = max([*values.values(), 1e-12])
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            tag("td", _bar([value / most]), class_="bar"),
            tag("td", f"{value:,.0f}"),
        )
        for name, value in values.items()
    ]
    head = tag("tr", tag("th", what, scope="col"), tag("td"), tag("th", unit, scope="col"))
    table = tag("table", tag("caption", tag("span", title)), tag("thead", head), tag("tbody", rows), class_="bars")
    return tag("div", table, class_="scroll")


def _bar(shares: Sequence[float]) -> Markup:
    """Parts side by side, of a width of 1 at most. The numbers stand beside it, so it is for the eye alone."""
    pieces, x = [], 0.0
    for place, share in enumerate(shares):
        width = 100 * max(share, 0.0)
        pieces.append(tag("rect", x=f"{x:.2f}", y=0, width=f"{width:.2f}", height=10, fill=line(place, len(shares))))
        x += width
    return tag("svg", pieces, viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true")


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where numbers lie in the picture."""

    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        width = WIDTH - LEFT - RIGHT - 2 * INSIDE
        return LEFT + INSIDE + width * (value - self.left) / ((self.right - self.left) or 1)

    def y(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (inside - self.low) / ((self.high - self.low) or 1)


def _svg(title: str, *content: object) -> Markup:
    return tag("svg", *content, role="img", aria_label=title, viewBox=f"0 0 {WIDTH} {HEIGHT}", class_="chart")  # type: ignore[arg-type]


def _axes(frame: _Frame, x: str, y: str, at: Sequence[float]) -> list[Markup]:
    base, end = HEIGHT - BOTTOM, WIDTH - RIGHT
    found = []
    for value in _ticks(frame.low, frame.high):
        height = f"{frame.y(value):.1f}"
        found.append(tag("line", x1=LEFT, x2=end, y1=height, y2=height, class_="grid"))
        found.append(tag("text", _number(value), x=LEFT - 6, y=height, dy="0.35em", text_anchor="end"))
    for value in _thinned(at):
        found.append(tag("text", _number(value), x=f"{frame.x(value):.1f}", y=base + 16, text_anchor="middle"))
    middle = (LEFT + end) / 2
    found.append(tag("text", x, x=middle, y=HEIGHT - 6, text_anchor="middle"))
    found.append(tag("text", y, x=4, y=11))
    return found


def _curve(curve: Curve, frame: _Frame, colour: str) -> list[Markup]:
    whole = [(frame.x(at), frame.y(value)) for at, value in curve.points.items() if math.isfinite(value)]
    if not whole:
        return []
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in whole)
    dash = "5 4" if curve.dashed else None
    drawn = [tag("polyline", points=path, fill="none", stroke=colour, stroke_width=2, stroke_dasharray=dash)]
    if len(whole) <= DOTS:
        said = [(at, value) for at, value in curve.points.items() if math.isfinite(value)]
        drawn += [
            tag("circle", tag("title", f"{curve.name}, {_number(at)}: {value:.4g}"), cx=f"{x:.1f}", cy=f"{y:.1f}", r=3,
                fill=colour)
            for (x, y), (at, value) in zip(whole, said, strict=True)
        ]  # fmt: skip
    if curve.label:
        x, y = whole[0]
        drawn.append(tag("text", curve.label, x=f"{x:.1f}", y=f"{y - 8:.1f}", text_anchor="middle"))
    return drawn


def _swatch(colour: str, dashed: bool) -> Markup:
    mark = tag(
        "line", x1=0, x2=18, y1=5, y2=5, stroke=colour, stroke_width=4, stroke_dasharray="5 4" if dashed else None
    )
    return tag("svg", mark, viewBox="0 0 18 10", width=18, height=10, aria_hidden="true")


def _round_span(low: float, high: float) -> tuple[float, float]:
    step = _step(high - low)
    return math.floor(low / step) * step, math.ceil(high / step) * step


def _step(width: float, most: int = 5) -> float:
    """1, 2 or 5 times a power of ten, of which about `most` make the width."""
    if width <= 0 or not math.isfinite(width):
        return 1.0
    rough = width / most
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    step = _step(high - low, most)
    first = math.ceil(low / step - 1e-9)
    return [round((first + i) * step, 12) for i in range(int((high - first * step) / step + 1e-9) + 1)]


def _thinned(at: Sequence[float], most: int = 12) -> Sequence[float]:
    """What the x axis names: each place, or, if there are many, round numbers between the first and the last."""
    return at if len(at) <= most else [each for each in _ticks(at[0], at[-1], 8) if each == int(each)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.3g}"
