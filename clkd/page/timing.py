"""Where the seconds went, in all and by experience."""

from __future__ import annotations

import math
from collections.abc import Mapping

from clkd.page.chart import stacks
from clkd.page.markup import Content
from clkd.page.story import Story, number
from clkd.page.tables import table
from clkd.tracking.points import percent

PURPOSES = {"train": "training", "evaluate": "evaluation", "teachers": "teachers and parts", "report": "reports"}
"""What a run counts its seconds by, one beside the other."""


def timing(story: Story) -> Content:
    """A table of the whole run, and a bar for each experience."""
    seconds = story.series("time/")
    if not seconds:
        return None
    parts = {
        words: [_spent(seconds[f"{purpose}_s"], each.index) for each in story.told]
        for purpose, words in PURPOSES.items()
        if f"{purpose}_s" in seconds
    }
    names = [str(each.index) for each in story.told]
    return [
        table("Wall time of the run", ("purpose", "seconds", "share"), _lines(story, parts), _note(story)),
        stacks(parts, names, "Wall time of each experience", "seconds"),
    ]


def _spent(sums: Mapping[int, float], index: int) -> float:
    """In one experience, of what is counted from the run's beginning."""
    before = [i for i in sums if i < index]
    spent = sums.get(index, math.nan) - (sums[max(before)] if before else 0.0)
    return 0.0 if math.isnan(spent) else max(spent, 0.0)


def _lines(story: Story, parts: Mapping[str, list[float]]) -> list[list[Content]]:
    spent = {name: sum(values) for name, values in parts.items()}
    whole = story.summary.numbers.get("seconds.total")
    if whole is not None:
        spent["data, building, checkpoints and the rest"] = max(whole - sum(spent.values()), 0.0)
    everything = sum(spent.values())
    lines: list[list[Content]] = [
        [name, f"{value:.2f}", f"{percent(value / everything if everything else math.nan)} %"]
        for name, value in spent.items()
    ]
    return [*lines, ["in all" if whole is not None else "so far", f"{everything:.2f}", ""]]


def _note(story: Story) -> str | None:
    carried = "What another run has trained is timed as a whole, at the last of its experiences."
    told = [_of_trackers(story), carried if any(each.carried for each in story.told) else None]
    return " ".join(filter(None, told)) or None


def _of_trackers(story: Story) -> str | None:
    took = story.summary.numbers.get("seconds.tracking", story.latest.get("time/tracking_s"))
    if took is None:
        return None
    return f"Trackers took {number(took):.2f} s, part of which lies within training."
