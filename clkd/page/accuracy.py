"""The accuracy matrix, and the curves that it holds."""

from __future__ import annotations

import math

from clkd.metrics.base import Record
from clkd.metrics.stability import Forgetting
from clkd.page.chart import Curve, curves
from clkd.page.markup import Content, Markup, tag
from clkd.page.story import Rows, Story
from clkd.page.tables import folded, heat

MOST_CURVES = 20
"""Experiences up to which each has its curve; beyond, there is the mean alone."""
AFTER = "after experience"


def accuracy(story: Story) -> Content:
    """The matrix that counts, the other one where it says something else, and how both change."""
    rows, aware = story.matrix(), story.matrix("acc_matrix_task_aware")
    if not rows:
        return tag("p", "No experience is over yet.", class_="note")
    kind = "task-aware" if story.task_labels else "class-incremental"
    other = _matrix(aware, "task-aware") if str(aware) != str(rows) else None
    return [
        _matrix(rows, kind),
        folded("The same, task-aware: only the classes of the row's own experience compete", other) if other else None,
        tag("div", _by_experience(rows), _over_time(story, rows), class_="pair"),
    ]


def _matrix(rows: Rows, kind: str) -> Markup:
    names = [str(i) for i in range(len(rows))]
    return heat(
        f"Accuracy in percent after each experience on each one ({kind})", rows, (names, names), ("after", "on")
    )


def _by_experience(rows: Rows) -> Markup:
    count = len(rows)
    each = [
        Curve(f"experience {j}", {i: 100 * rows[i][j] for i in range(j, count)}, label=str(j))
        for j in range(count if count <= MOST_CURVES else 0)
    ]
    mean = Curve("mean of those seen", _means(rows), dashed=True)
    return curves([*each, mean], "Accuracy on each experience", AFTER, "percent", (0, 100))


def _over_time(story: Story, rows: Rows) -> Markup:
    lost = story.series("stream/").get("forgetting") or _forgetting(rows)
    curve = Curve("forgetting", {i: 100 * value for i, value in lost.items()})
    return curves([Curve("average accuracy", _means(rows)), curve], "Average accuracy and forgetting", AFTER, "percent")


def _means(rows: Rows) -> dict[int, float]:
    return {i: 100 * sum(row) / len(row) for i, row in enumerate(rows)}


def _forgetting(rows: Rows) -> dict[int, float]:
    square = [[*row, *[math.nan] * (len(rows) - len(row))] for row in rows]
    return {i: Forgetting()(Record(len(rows), square, trained=i + 1)) for i in range(len(rows))}
