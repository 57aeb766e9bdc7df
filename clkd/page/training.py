"""What was minimised, and what was kept to be replayed."""

from __future__ import annotations

from clkd.page.chart import Curve, bars, curves
from clkd.page.markup import Content
from clkd.page.story import Story, number
from clkd.page.tables import folded

MOST_BARS = 40
"""Classes up to which their bars are shown at once."""
PREFIX = "memory_classes/"


def training(story: Story) -> Content:
    """The loss and its terms, as means of epochs."""
    whole = story.epochs("train/").get("loss")
    if not whole:
        return None
    terms = [Curve(name, points) for name, points in story.epochs("train/weighted_").items()]
    title = "Loss and its weighted terms, means of epochs"
    return curves([*terms, Curve("loss", whole, dashed=True)], title, "optimiser step", "loss")


def memory(story: Story) -> Content:
    """How many rows of each class are kept."""
    held = {name.removeprefix(PREFIX): number(v) for name, v in story.latest.items() if name.startswith(PREFIX)}
    if not held:
        return None
    drawn = bars(held, f"Rows in memory after experience {story.told[-1].index}", "rows")
    return drawn if len(held) <= MOST_BARS else folded(f"{len(held)} classes", drawn)
