"""Pictures of a run. Plain figures: no pyplot, no global state, no window."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

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
        for (i, j), value in np.ndenumerate(grid):
            if not np.isnan(value):
                axes.text(j, i, f"{value:.0f}", ha="center", va="center", color="black" if value > 55 else "white")
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


def _ticks(count: int) -> range:
    return range(0, count, max(1, count // 10))
