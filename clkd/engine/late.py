"""Numbers of schedules that training ends before: what they stand for never comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from clkd.engine.planned import epochs_of
from clkd.experience import Experience
from clkd.optimizers import SchedulerOptions
from clkd.scenario.model import Scenario
from clkd.scenario.parts import parts
from clkd.schedules import CurriculumOptions, RampOptions, WarmupOptions
from clkd.teachers import Recipe

MOMENTS = {"step": "step_size", "multi_step": "milestones", "constant": "total_iters"}
"""When a learning rate changes. After the last step a change is none, so the number has to be less than the length."""
WAYS = {
    "linear": "total_iters",
    "polynomial": "total_iters",
    "cosine": "T_max",
    "one_cycle": "total_steps",
    "cosine_warm_restarts": "T_0",
}
"""How long it is on its way, which may be the whole length."""


class Span(NamedTuple):
    """What a schedule is over, and how many epochs and steps that takes at most, as far as it is known before."""

    name: str
    lengths: dict[str, int]


def late(scenario: Scenario, stream: Sequence[Experience]) -> Iterator[str]:
    """A clause for each schedule with numbers that are never reached."""
    experience = _experience(scenario, stream)
    yield from _rate("train", scenario.train.scheduler, experience)
    for number, phase in enumerate(scenario.phases):
        yield from _rate(f"phases.{number}", phase.scheduler, Span(f"phase {phase.name}", {"epoch": phase.epochs}))
    for place, part in parts(scenario):
        where, options = ".".join(map(str, place)), part.options
        if isinstance(options, Recipe):
            yield from _rate(where, options.scheduler, Span("the fit", {"epoch": options.epochs}))
        elif isinstance(options, WarmupOptions | RampOptions | CurriculumOptions) and not scenario.phases:
            # Beside phases, nobody knows which of them a loss is in.
            for unit in ("epoch", "step"):
                if (given := getattr(options, f"{unit}s", None)) is not None:
                    yield from _missed(where, f"{unit}s", [given], experience, unit)


def _experience(scenario: Scenario, stream: Sequence[Experience]) -> Span:
    """The longest one whose data is there. How many steps memory's rows add to an epoch is not known before."""
    found = {epochs_of(scenario.train, len(each.train)) for each in stream if len(each.train)}
    lengths = {"epoch": max(epochs for epochs, _ in found)} if found else {}
    if found and not scenario.train.mix_memory:
        lengths["step"] = max(epochs * steps for epochs, steps in found)
    return Span("an experience" if len(found) == 1 else "the longest experience", lengths)


def _rate(where: str, scheduler: SchedulerOptions | None, span: Span) -> Iterator[str]:
    """Of a schedule of the learning rate."""
    keyword = {**MOMENTS, **WAYS}.get(scheduler.kind) if scheduler else None
    if scheduler and keyword:
        given = scheduler.keywords[keyword]
        values = given if isinstance(given, list | tuple) else [given]
        numbers = [value for value in values if not isinstance(value, str)]
        spare = int(scheduler.kind in MOMENTS)
        yield from _missed(f"{where}.scheduler", keyword, numbers, span, scheduler.every, spare)


def _missed(where: str, keyword: str, values: Sequence[float], span: Span, unit: str, spare: int = 0) -> Iterator[str]:
    """Of the values those that come after the end, or not `spare` before it."""
    length = span.lengths.get(unit)
    missed = [] if length is None else [value for value in values if value > length - spare]
    if length is None or not missed:
        return
    ways = ["a smaller number"] if length > spare else []
    ways += ["more epochs"]
    ways += ["steps instead"] if unit == "epoch" and max(missed) < span.lengths.get("step", 0) else []
    over = f"{span.name} is over after {length} {unit}{'s' * (length > 1)}"
    yield f"{where} never reaches {keyword} {', '.join(f'{n:g}' for n in missed)}: {over}; give {' or '.join(ways)}"
