"""What became of each experience and class, and, where reports tell it, what teachers had to do with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from clkd.page.markup import Content, tag
from clkd.page.shifted import shifted
from clkd.page.story import Rows, Story
from clkd.page.tables import heat, table
from clkd.page.words import count, listed, signed
from clkd.tracking.points import percent
from clkd.tracking.reports import Report, agreement_by_class, heard, nats

MOST_CLASSES = 40
"""Classes up to which each is told; of more, those that changed most."""
FATES = ("experience", "classes", "learned", "best", "now", "since learned", "forgotten")
TEACHERS = (
    "after",
    "teacher",
    "agreement",
    "KL in nats",
    "became right",
    "teacher too",
    "became wrong",
    "teacher right",
)


def transferred(story: Story) -> Content:
    """From the matrices, from what was found of domains, and from reports."""
    rows = story.matrix()
    if not rows:
        return None
    return [
        table(
            "Accuracy on each experience, in percent: when it was learned, at its best, and now",
            FATES,
            [_fate(story, rows, j) for j in range(len(rows))],
            "Since learned: now minus learned. Forgotten: the best before the last experience minus now.",
        ),
        shifted(story),
        _classes(story),
        _reported(story.reports) if story.reports else _unreported(),
    ]


def _fate(story: Story, rows: Rows, j: int) -> list[Content]:
    known = [row[j] for row in rows[j:]]
    now, before = known[-1], max((value for value in known[:-1] if not math.isnan(value)), default=math.nan)
    best = max((value for value in known if not math.isnan(value)), default=math.nan)
    numbers = [percent(known[0]), percent(best), percent(now), signed(now - known[0]), percent(before - now)]
    return [str(j), listed(story.told[j].classes) or story.told[j].name, *numbers]


def _classes(story: Story) -> Content:
    found = story.series("class_acc/")
    if not found:
        return None
    chosen = _changed_most(found)
    shares = [[found[name].get(each.index) for each in story.told] for name in chosen]
    title = "Accuracy on each class after each experience, in percent"
    if len(chosen) < len(found):
        title += f" (the {len(chosen)} of {len(found)} classes that changed most since they were first seen)"
    return heat(title, shares, (chosen, [str(each.index) for each in story.told]), ("class", "after"))


def _changed_most(found: Mapping[str, Mapping[int, float]]) -> list[str]:
    if len(found) <= MOST_CLASSES:
        return list(found)

    def change(name: str) -> float:
        first, *_, last = [*found[name].values()] * 2
        return abs(last - first)

    return sorted(found, key=change, reverse=True)[:MOST_CLASSES]


def _unreported() -> Content:
    told = tag("code", "--set report=true")
    return tag("p", "What teachers had to do with it, a run tells with ", told, ".", class_="note")


def _reported(reports: list[Report]) -> Content:
    lines = [_teacher(report, name, told) for report in reports for name, told in heard(report).items()]
    if not lines:
        return tag("p", "No teacher had anything to say about test rows.", class_="note")
    note = (
        "Agreement and KL are over the classes that both know. Rows of old classes became right or wrong in the"
        " experience; the column behind says on how many of them the teacher is right."
    )
    return [table("Student and teachers on the same test rows", TEACHERS, lines, note), _agreement(reports[-1])]


def _teacher(report: Report, name: str, told: Mapping[str, Any]) -> list[Content]:
    student = report["student"]
    flips = (student["gained"], told["gained_teacher_right"], student["lost"], told["lost_teacher_right"])
    return [str(report["experience"]), name, f"{percent(told['agreement'])} %", nats(told["kl"]), *map(count, flips)]


def _agreement(report: Report) -> Content:
    """By class and teacher, after one experience."""
    found = agreement_by_class(report)
    classes = list(dict.fromkeys(name for each in found.values() for name in each))
    if not classes:
        return None
    shares = [[each.get(name) for each in found.values()] for name in classes]
    title = f"How often student and teacher say the same after experience {report['experience']}, in percent"
    return heat(title, shares, (classes, list(found)), ("class", "teacher"))
