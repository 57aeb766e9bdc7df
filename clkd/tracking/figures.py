"""Pictures of a run. Plain figures: no pyplot, no global state, no window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from clkd.tracking.reports import Pair
from clkd.tracking.shifts import Shift, accuracy, over_time

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
    figure = Figure(figsize=(min(5 + 0.5 * len(classes), 18), 4.2), layout="constrained")
    axes = figure.add_subplot()
    for place, (teacher, each) in enumerate(teachers.items()):
        at = [classes.index(name) + (place - (len(teachers) - 1) / 2) * width for name in each]
        shade = colormaps[COLOURS]((place + 0.5) / len(teachers))
        axes.bar(at, [100 * value for value in each.values()], width, color=shade, label=teacher)
    ticks = _ticks(len(classes), most=30)
    names = [classes[at][:12].replace("$", r"\$") for at in ticks]  # between two of them would be a formula
    axes.set_xticks(ticks, names, rotation=45 if len(classes) > MOST_NUMBERS else 0)
    axes.set(xlabel="class", ylabel="agreement with the student in percent", ylim=(0, 100), title=title)
    _legend(axes)
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
    """Four panels by experience: how far its domain is from the others before (dashed) and after training, by
    A-distance and by MMD; what training gained on it and lost on the others; and what the monitor said of its rows.

    >>> told = {"experience": 1, "name": "haze", "drift": {"alarm": True, "p": 0.01}, "before": {}, "after": {}}
    >>> [axes.get_ylabel() for axes in shift([told]).axes][-1]
    'p of the nearest known domain'
    """
    figure = Figure(figsize=(min(10 + 0.5 * len(found), 18), 7.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    figure.suptitle(title)
    _distances(panels[0, 0], over_time(found, "a_distance"), "proxy A-distance from other domains")
    panels[0, 0].set(ylim=(-0.1, 2.1))
    _distances(panels[0, 1], over_time(found, "mmd"), "squared MMD from other domains")
    _changes(panels[1, 0], found)
    _monitor(panels[1, 1], found)
    for axes in panels[1]:
        _name_experiences(axes, found)
    return figure


def _distances(axes: Axes, curves: Mapping[str, Mapping[int, float]], label: str) -> None:
    """One colour for each layer; the moment before training dashed."""
    layers = list(dict.fromkeys(name.rpartition(" ")[0] for name in curves))
    for name, curve in curves.items():
        layer, _, when = name.rpartition(" ")
        shade = colormaps["viridis"](0.8 * layers.index(layer) / max(len(layers) - 1, 1))
        line, size = ("--", 7) if when == "before" else ("-", 4)
        hollow = "none" if when == "before" else shade
        axes.plot(
            list(curve), list(curve.values()), line, marker="o", markersize=size, mfc=hollow, color=shade, label=name
        )
    axes.set(ylabel=label)
    axes.grid(alpha=0.3)
    if curves:
        _legend(axes, above=True)


def _changes(axes: Axes, found: Sequence[Shift]) -> None:
    """Bars, in points of accuracy. What the first experience learns, it gains from nothing, and is left out."""
    names = {"gain_new_domain": "gained on the new domain", "loss_old_domains": "lost on the old ones"}
    for side, (name, label) in enumerate(names.items()):
        told = {each["experience"]: each[name] for each in found if each["experience"] and each.get(name) is not None}
        at = [experience + 0.4 * side - 0.2 for experience in told]
        axes.bar(at, [100 * value for value in told.values()], 0.4, label=label, color=colormaps[COLOURS](0.9 * side))
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(ylabel="points of accuracy")
    axes.grid(alpha=0.3, axis="y")
    axes.set_axisbelow(True)
    _legend(axes, above=True)


def _monitor(axes: Axes, found: Sequence[Shift]) -> None:
    tested = [each for each in found if each["drift"]]
    for alarm, marker, label in ((True, "x", "of no known domain"), (False, "o", "of a known domain")):
        some = [each for each in tested if each["drift"]["alarm"] == alarm]
        at, p = [each["experience"] for each in some], [each["drift"]["p"] for each in some]
        axes.scatter(at, p, marker=marker, label=label, color="black")
    for level in {each["false_alarms"] for each in found if "false_alarms" in each}:
        axes.axhline(level, color="black", linestyle=":", label=f"false alarms: {level:.3g} at most")
    lowest = min([each["drift"]["p"] for each in tested], default=0.01)
    axes.set(ylabel="p of the nearest known domain", yscale="log", ylim=(min(0.01, lowest / 2), 1.5))
    _legend(axes, above=True)


def _name_experiences(axes: Axes, found: Sequence[Shift]) -> None:
    """By number and, where there is room, by name."""
    at = [each["experience"] for each in found]
    if len(at) > MOST_NUMBERS:
        axes.set(xlabel="experience", xticks=at[:: -(-len(at) // MOST_NUMBERS)])
    else:
        axes.set_xticks(at, [_place(each) for each in found], rotation=30, ha="right", rotation_mode="anchor")


def _place(each: Shift) -> str:
    return f"{each['experience']}: {_plain(each.get('name', ''))}"


def domains(found: Sequence[Shift], title: str = "") -> Figure:
    """Heat map: the accuracy on each domain (columns) after each experience (rows), in percent.

    >>> told = {"experience": 0, "name": "clean", "domain": 4, "accuracy": {"4": 0.9}}
    >>> [label.get_text() for label in domains([told]).axes[0].get_xticklabels()]
    ['4: clean']
    """
    names = {domain: str(domain) for each in found for domain in accuracy(each)}
    names |= {each["domain"]: f"{each['domain']}: {_plain(each['name'])}" for each in reversed(found)}
    grid = np.full((len(found), len(names)), np.nan)
    for row, each in zip(grid, found, strict=True):
        for domain, share in accuracy(each).items():
            row[list(names).index(domain)] = 100 * share
    figure = Figure(figsize=(min(4 + 0.6 * len(names), 16), min(2.2 + 0.45 * len(found), 14)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(grid, cmap=COLOURS, vmin=0, vmax=100, aspect="auto")
    axes.set(xlabel="accuracy on domain", ylabel="after training on experience", title=title)
    axes.set_xticks(range(len(names)), list(names.values()), rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(found)), [_place(each) for each in found])
    figure.colorbar(image, ax=axes, label="accuracy in percent")
    if max(grid.shape) <= MOST_NUMBERS:
        _number(axes, grid, ".0f", middle=55)
    return figure


def forgetting(rows: list[list[float]], title: str = "") -> Figure:
    """One curve per experience: its accuracy in percent from when it was learned to the end, and their mean."""
    count = len(rows)
    figure = Figure(figsize=(8.2, 4.2), layout="constrained")
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
        _legend(axes)
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
    """One curve for each loss term, weighted, by step; black is the loss.

    It is the sum of the others where each of them had rows in every step of the epoch.

    >>> loss_terms({"loss": {10: 2.0, 20: 1.0}, "kd": {20: 0.5}}).axes[0].get_legend_handles_labels()[1]
    ['loss', 'kd']
    """
    figure = Figure(figsize=(8.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, curve) in enumerate(curves.items()):
        shade = "black" if name == "loss" else colormaps["viridis"](0.85 * place / max(len(curves) - 1, 1))
        axes.plot(list(curve), list(curve.values()), marker=".", label=_plain(name), color=shade)
    axes.set(xlabel="step", ylabel="weighted loss term (mean over the epoch)", title=title)
    axes.grid(alpha=0.3)
    _legend(axes)
    return figure


def _legend(axes: Axes, above: bool = False) -> None:
    """Beside the panel or above it, so that no data is covered: to look for room within takes long with many points."""
    if above:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize="small", frameon=False)
    else:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", frameon=False)


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
