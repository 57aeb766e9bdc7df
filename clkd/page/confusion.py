"""Which class was taken for which, after each experience."""

from __future__ import annotations

from clkd.page.markup import Content, Markup, tag
from clkd.page.story import Story
from clkd.page.tables import folded, heat
from clkd.tracking.confusions import Confusion, square


def confusion(story: Story) -> Content:
    """One matrix an experience; the latest is open."""
    if not story.told:
        return None
    if not story.confusions:
        return tag("p", "None was kept: an earlier version of clkd has made this run.", class_="note")
    *earlier, last = story.confusions
    note = tag("p", "Cells hold test rows; their colour is the share of the true class.", class_="note")
    return [note, *(_matrix(each, False) for each in earlier), _matrix(last, True)]


def _matrix(each: Confusion, opened: bool) -> Markup:
    after = f"After experience {each['experience']}: {each['name']}"
    counts = square(each)
    shares = [[value / sum(row) if value else None for value in row] for row in counts]
    texts = [[f"{value:,}" if value else "" for value in row] for row in counts]
    names = (each["classes"], each["classes"])
    caption = f"Test rows by true and named class after experience {each['experience']}"
    return folded(after, heat(caption, shares, names, ("true", "named"), texts), opened=opened)
