"""Pictures of a run. Plain figures: no pyplot, no global state, no window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from clkd.tracking.reports import Pair
from clkd.tracking.shifts import Shift, over_time

COLOURS = "cividis"
"""Reads the same with and without colour vision, and in grey."""
MOST_NUMBERS = 15
"""Experiences up to which every cell carries its number."""


def accuracy_matrix(rows: list[list[float]], title: str = "") -> Figure:
    """Heat map of the triangle `rows[i][j]`: accuracy on experience j after experience i, in percent.

    >>> accuracy_matrix([[0.9], [0.5, 0.8]]).axes[0].get_xlabel()
    'accuracy on experience'
    """
    count = len(rows)
    grid = np.full((count, count), np.nan)
    for i, row in enumerate(rows):
        grid[i, : len(row)] = 100 * np.asarray(row, dtype=float)
    side = min(3.5 + 0.45 * count, 12)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(grid, cmap=COLOURS, vmin=0, vmax=100)
    axes.set(xlabel="accuracy on experience", ylabel="after training on experience", title=title)
    axes.set(xticks=_ticks(count), yticks=_ticks(count))
    figure.colorbar(image, ax=axes, label="accuracy in percent", shrink=0.8)
    if count <= MOST_NUMBERS:
        _number(axes, grid, ".0f", middle=55)
    return figure


def agreement(teachers: Mapping[str, Mapping[str, float]], title: str = "") -> Figure:
    """Bars for each class, one of each teacher that knows it: how often it and the student say the same, in percent."""
    classes = list(dict.fromkeys(name for each in teachers.values() for name in each))
    width = 0.8 / len(teachers)
    figure = Figure(figsize=(min(3 + 0.5 * len(classes), 16), 4.2), layout="constrained")
    axes = figure.add_subplot()
    for place, (teacher, each) in enumerate(teachers.items()):
        at = [classes.index(name) + (place - (len(teachers) - 1) / 2) * width for name in each]
        shade = colormaps[COLOURS]((place + 0.5) / len(teachers))
        axes.bar(at, [100 * value for value in each.values()], width, color=shade, label=teacher)
    ticks = _ticks(len(classes), most=30)
    names = [classes[at][:12].replace("$", r"\$") for at in ticks]  # between two of them would be a formula
    axes.set_xticks(ticks, names, rotation=45 if len(classes) > MOST_NUMBERS else 0)
    axes.set(xlabel="class", ylabel="agreement with the student in percent", ylim=(0, 100), title=title)
    axes.legend(fontsize="small")
    return figure


def cka(values: Mapping[Pair, Mapping[int, float]], title: str = "") -> Figure:
    """Heat map: how alike layers of student and teachers are (a row for each pair) after each experience (columns)."""
    count = 1 + max(index for each in values.values() for index in each)
    grid = np.full((len(values), count), np.nan)
    for row, each in zip(grid, values.values(), strict=True):
        for index, value in each.items():
            row[index] = value
    figure = Figure(figsize=(min(4.5 + 0.5 * count, 16), 1.6 + 0.4 * len(values)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(grid, cmap=COLOURS, vmin=0, vmax=1, aspect="auto")
    axes.set(xlabel="after training on experience", xticks=_ticks(count), title=title)
    axes.set_yticks(range(len(values)), [f"{pair.ours} – {pair.teacher}.{pair.theirs}" for pair in values])
    figure.colorbar(image, ax=axes, label="CKA")
    if count <= MOST_NUMBERS:
        _number(axes, grid, ".2f", middle=0.55)
    return figure


def shift(found: Sequence[Shift], title: str = "") -> Figure:
    """By experience: how far its domain is from the others before (dashed) and after training, and where the monitor
    cried out.

    >>> shift([{"experience": 1, "drift": {"alarm": True, "p": 0.01}, "before": {}, "after": {}}]).axes[1].get_ylabel()
    'p of the nearest known domain'
    """
    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    curves = over_time(found, "a_distance")
    for place, (name, curve) in enumerate(curves.items()):
        line = "--" if name.endswith("before") else "-"
        shade = colormaps["viridis"](0.85 * place / max(len(curves) - 1, 1))
        above.plot(list(curve), list(curve.values()), line, marker="o", markersize=4, label=name, color=shade)
    above.set(ylabel="proxy A-distance from other domains", ylim=(-0.1, 2.1), title=title)
    if curves:
        above.legend(fontsize="small")
    tested = [each for each in found if each["drift"]]
    for alarm, marker, label in ((True, "x", "of no known domain"), (False, "o", "of a known domain")):
        some = [each for each in tested if each["drift"]["alarm"] == alarm]
        at, p = [each["experience"] for each in some], [each["drift"]["p"] for each in some]
        below.scatter(at, p, marker=marker, label=label, color="black")
    below.set(xlabel="experience", ylabel="p of the nearest known domain", yscale="log", ylim=(1e-3, 1.5))
    below.legend(fontsize="small")
    return figure


def forgetting(rows: list[list[float]], title: str = "") -> Figure:
    """One curve per experience: its accuracy in percent from when it was learned to the end, and their mean."""
    count = len(rows)
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    shades = np.linspace(0.05, 0.85, count)
    for j in range(count):
        curve = [100 * rows[i][j] for i in range(j, count)]
        axes.plot(
            range(j, count),
            curve,
            marker="o",
            markersize=4,
            color=colormaps["viridis"](shades[j]),
            label=f"experience {j}",
        )
    means = [100 * float(np.mean(row)) for row in rows]
    axes.plot(range(count), means, color="black", linestyle="--", linewidth=2, label="mean of those seen")
    axes.set(xlabel="after training on experience", ylabel="accuracy in percent", title=title)
    axes.set(ylim=(-3, 103), xticks=_ticks(count))
    axes.grid(alpha=0.3)
    if count <= MOST_NUMBERS:
        axes.legend(fontsize="small", ncols=2)
    return figure


def class_accuracy(curves: Mapping[str, Mapping[int, float]], title: str = "") -> Figure:
    """Heat map: the accuracy of each class in percent (a row each) after each experience (columns).

    >>> class_accuracy({"cat": {0: 0.9, 1: 0.5}, "dog": {1: 0.75}}).axes[0].get_xlabel()
    'after training on experience'
    """
    count = 1 + max(at for curve in curves.values() for at in curve)
    grid = np.full((len(curves), count), np.nan)
    for row, curve in zip(grid, curves.values(), strict=True):
        for at, value in curve.items():
            row[at] = 100 * value
    figure = Figure(figsize=(min(3.5 + 0.5 * count, 16), min(1.6 + 0.28 * len(curves), 24)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(grid, cmap=COLOURS, vmin=0, vmax=100, aspect="auto")
    axes.set(xlabel="after training on experience", ylabel="class", xticks=_ticks(count), title=title)
    shown = _ticks(len(curves), most=60)
    axes.set_yticks(shown, [_plain(name) for at, name in enumerate(curves) if at in shown])
    figure.colorbar(image, ax=axes, label="accuracy in percent")
    if count <= MOST_NUMBERS and len(curves) <= 2 * MOST_NUMBERS:
        _number(axes, grid, ".0f", middle=55)
    return figure


def loss_terms(curves: Mapping[str, Mapping[int, float]], title: str = "") -> Figure:
    """One curve for each loss term, weighted, by step; black is their sum.

    >>> loss_terms({"loss": {10: 2.0, 20: 1.0}, "loss_kd": {20: 0.5}}).axes[0].get_legend_handles_labels()[1]
    ['loss', 'loss_kd']
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, curve) in enumerate(curves.items()):
        shade = "black" if name == "loss" else colormaps["viridis"](0.85 * place / max(len(curves) - 1, 1))
        axes.plot(list(curve), list(curve.values()), marker=".", label=_plain(name), color=shade)
    axes.set(xlabel="step", ylabel="loss term (mean over the epoch)", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def _plain(name: str) -> str:
    """A name of a class or a term that fits; between two dollars would be a formula."""
    return name[:24].replace("$", r"\$")


def _number(axes: Axes, grid: NDArray[np.float64], form: str, middle: float) -> None:
    """Write each cell's value into it: black on what is brighter than the middle."""
    for (i, j), value in np.ndenumerate(grid):
        if not np.isnan(value):
            axes.text(j, i, f"{value:{form}}", ha="center", va="center", color="black" if value > middle else "white")


def _ticks(count: int, most: int = 10) -> range:
    return range(0, count, max(1, count // most))
