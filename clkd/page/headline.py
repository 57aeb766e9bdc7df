"""Who the run is, how it ended, and its few numbers."""

from __future__ import annotations

from clkd.page.markup import Content, Markup, tag
from clkd.page.story import Story
from clkd.page.tables import folded, table
from clkd.page.words import duration, moment, size, thousands
from clkd.tracking.points import percent
from clkd.tracking.result import HEADLINES


def headline(story: Story) -> Content:
    """The top of the page."""
    return [
        _about(story),
        _warnings(story),
        tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in _cards(story)], class_="cards"),
        folded("All metrics", table("Metrics as they stand at the end", ("metric", "value"), _metrics(story))),
    ]


def _about(story: Story) -> Markup:
    summary = story.summary
    done, planned = len(story.told), len(story.planned)
    told = f" {done} of {planned} experiences" if planned else " nothing trained yet"
    data = f" of {summary.data}" if summary.data else ""
    status = tag("span", summary.status, class_=f"status {summary.status}")
    return tag("p", status, told, data, f", begun {moment(summary.created)}", class_="about")


def _warnings(story: Story) -> Content:
    summary, error = story.summary, story.manifest.get("error")
    stand_in = (
        f"{summary.stand_in} stood in for {summary.dataset}, which was not there: the numbers say that everything"
        " works, not more."
    )
    return [
        tag("p", stand_in, class_="warning") if summary.stand_in else None,
        tag("p", f"It ended with: {error}", class_="warning") if error else None,
    ]


def _cards(story: Story) -> list[tuple[str, str]]:
    metrics, latest, numbers = story.metrics, story.latest, story.summary.numbers
    found = [(name.replace("_", " "), f"{percent(metrics[name])} %") for name in HEADLINES if name in metrics]
    if total := numbers.get("seconds.total"):
        found.append(("wall time", duration(total)))
    if rows := latest.get("memory/rows"):
        found.append(("rows in memory", f"{rows:,.0f} ({size(latest.get('memory/bytes') or 0)})"))
    if parameters := numbers.get("compute.parameters"):
        found.append(("student's parameters", f"{parameters:,.0f}"))
    if macs := latest.get("compute/training_macs"):
        found.append(("multiply-accumulates", thousands(macs)))
    return found


def _metrics(story: Story) -> list[tuple[str, str]]:
    return [(name, f"{value:.6g}") for name, value in sorted(story.metrics.items())]
