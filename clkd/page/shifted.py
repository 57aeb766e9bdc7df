"""How domains lie to each other, where `shift` was measured."""

from __future__ import annotations

import math

from clkd.page.markup import Content
from clkd.page.story import Story, Told
from clkd.page.tables import heat, table
from clkd.page.words import signed
from clkd.tracking.points import percent

MEASURES = {"a_distance": "A-distance", "mmd": "MMD"}


def shifted(story: Story) -> Content:
    """Accuracy by domain, and for each experience what it changed and what the drift monitor said."""
    accuracy = story.series("shift/accuracy/domain_")
    if not accuracy:
        return None
    told = [each for each in story.told if any(name.startswith("shift/") for name in each.points)]
    names = [str(int(domain)) for domain in sorted(accuracy)]
    shares = [[accuracy[domain].get(each.index) for domain in sorted(accuracy)] for each in told]
    rows = [f"{each.index}: {each.name}" for each in told]
    measured = [name for each in told for name in each.points if name.startswith("shift/") and name.endswith("_after")]
    layers = sorted({name.split("/")[1] for name in measured})
    head = ["after", "its rows were", "gained on it", "lost on others"]
    head += [f"{measure}, {layer}" for layer in layers for measure in MEASURES.values()]
    return [
        heat("Accuracy on each domain, in percent", shares, (rows, names), ("after", "domain")),
        table(
            "Domains: what each experience changed",
            head,
            [_line(each, layers) for each in told],
            "Gained and lost: points of accuracy on test rows. Distances of its domain from the others, before → after "
            "training: A-distance is 0 where a linear classifier cannot tell them apart, and 2 where it always can.",
        ),
    ]


def _line(each: Told, layers: list[str]) -> list[Content]:
    gained, lost = (_value(each, name) for name in ("gain_new_domain", "loss_old_domains"))
    changes = ["" if math.isnan(gained) else signed(gained), "" if math.isnan(lost) else percent(lost)]
    distances = [_moved(each, f"{layer}/{measure}") for layer in layers for measure in MEASURES]
    return [f"{each.index}: {each.name}", _judged(each), *changes, *distances]


def _judged(each: Told) -> str:
    """What the monitor said."""
    if math.isnan(p := _value(each, "p")):
        return ""
    return f"{'of no' if _value(each, 'alarm') else 'of a'} known domain (p = {p:.3g})"


def _moved(each: Told, what: str) -> str:
    before, after = (_value(each, f"{what}_{when}") for when in ("before", "after"))
    return "" if math.isnan(before) else f"{before:.3f} → {after:.3f}"


def _value(each: Told, name: str) -> float:
    value = each.points.get(f"shift/{name}")
    return math.nan if value is None else value
