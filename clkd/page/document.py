"""The page itself: one run, or several under anchors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files

from clkd.page.accuracy import accuracy
from clkd.page.confusion import confusion
from clkd.page.headline import headline
from clkd.page.markup import Content, Markup, join, tag
from clkd.page.setting import configuration, surroundings
from clkd.page.story import Story
from clkd.page.tables import table
from clkd.page.timing import timing
from clkd.page.training import memory, training
from clkd.page.transferred import transferred
from clkd.tracking.points import percent

SECTIONS: Sequence[tuple[str, str, Callable[[Story], Content]]] = (
    ("accuracy", "Accuracy", accuracy),
    ("transferred", "What was transferred and forgotten", transferred),
    ("confusion", "Which class was taken for which", confusion),
    ("training", "Training", training),
    ("memory", "Memory", memory),
    ("time", "Where time went", timing),
    ("configuration", "Configuration, and how to run it again", configuration),
    ("surroundings", "Where and with what", surroundings),
)
"""Anchor, heading and content, in the order of reading."""


def document(stories: Sequence[Story]) -> str:
    """A whole page, which needs nothing beside it and asks no network."""
    if len(stories) == 1:
        (story,) = stories
        return _whole(story.title, _run(story, 1))
    title = f"{len(stories)} runs"
    return _whole(title, [tag("h1", title), _overview(stories), [_run(story, 2) for story in stories]])


def _whole(title: str, content: Content) -> str:
    style = Markup(files("clkd.page").joinpath("style.css").read_text(encoding="utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} – clkd"),
        tag("style", style),
    )
    made = tag("footer", "Made by ", tag("code", "clkd report"), ".")
    return f"<!doctype html>\n{tag('html', head, tag('body', tag('main', content), made), lang='en')}\n"


def _overview(stories: Sequence[Story]) -> Markup:
    rows: list[list[Content]] = [
        [
            tag("a", story.title, href=f"#{story.summary.id}"),
            story.summary.status,
            story.summary.data,
            *(percent(story.metrics.get(name)) for name in ("average_accuracy", "forgetting")),
        ]
        for story in stories
    ]
    return table("All runs, in percent", ("run", "status", "data", "average accuracy", "forgetting"), rows)


def _run(story: Story, level: int) -> Markup:
    """One run, its name a heading of that level."""
    found = [(f"{story.summary.id}-{anchor}", title, join(make(story))) for anchor, title, make in SECTIONS]
    shown = [section for section in found if section[2]]
    links = [tag("li", tag("a", title, href=f"#{anchor}")) for anchor, title, _ in shown]
    return tag(
        "article",
        tag("header", tag(f"h{level}", story.title), headline(story)),
        tag("nav", tag("ul", links), aria_label=f"Sections of {story.title}"),
        [tag("section", tag(f"h{level + 1}", title), content, id=anchor) for anchor, title, content in shown],
        id=story.summary.id,
    )
