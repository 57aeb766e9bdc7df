"""From what was asked for to what was chosen: plasticity first, then as much stability as it can bear.

The two steps are those of the Continual Hyperparameter Framework (De Lange et al. 2021, "A Continual Learning Survey",
and FACIL's search), which needs data of the current experience only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clkd.errors import UserError
from clkd.scenario.load import load
from clkd.scenario.model import Scenario
from clkd.scenario.resolve import config_sha
from clkd.scenario.settings import Setting, as_setting
from clkd.sweep.axes import Axis, Range
from clkd_optuna.judge import Judge, Score
from clkd_optuna.space import Space, rounded
from clkd_optuna.study import Study
from clkd_optuna.written import refuse_to_overwrite, write

if TYPE_CHECKING:
    from clkd.plugins import Plugins

SHARE = 0.1
"""Held out where neither the command nor the scenario says."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One `clkd tune`, as typed."""

    scenario: Path
    axes: tuple[str, ...] = ()
    stability: str | None = None
    threshold: float = 0.2
    decay: float = 0.5
    trials: int = 20
    experience: int | None = None
    validation: float | None = None
    seeds: tuple[int, ...] = ()
    device: str | None = None
    limit_batches: int | None = None
    out: Path | None = None
    target: Path | None = None
    command: str = "clkd tune"


@dataclass(frozen=True, slots=True)
class Chosen:
    """What came of it.

    Attributes:
        values: by place of the scenario.
        accuracy, standard_error, rows: of the chosen setting, on `rows` validation rows (over all seeds).
        trials: how many settings were tried.
        alike: how many of them are within one standard error of the best: the data cannot tell these from it.
        experience: the one that decided.
        scenario: the file that was written.
        out: where the search is kept.
    """

    values: dict[str, Any]
    accuracy: float
    standard_error: float
    rows: int
    trials: int
    alike: int
    experience: int
    scenario: Path
    out: Path

    @property
    def told(self) -> str:
        """In one sentence."""
        return (
            f"accuracy {100 * self.accuracy:.2f} ± {100 * self.standard_error:.2f} % on {self.rows:,} validation rows "
            f"of experience {self.experience}; {self.alike} of {self.trials} trials are within one standard error of "
            "the best"
        )


def search(wanted: Wanted, plugins: Plugins, tell: Tell) -> Chosen:
    """Choose, and write the scenario.

    Raises:
        UserError: something in the command or in the scenario is wrong.
    """
    space, axis = Space.read(list(wanted.axes)), _stability(wanted)
    experience = wanted.experience if wanted.experience is not None else int(axis is not None)
    if axis is not None and experience == 0:
        raise UserError("--stability: nothing is old in experience 0: give --experience 1 or a later one")
    if axis is not None and axis.place in space.places:
        raise UserError(f"--stability {axis.place}: is searched by --set already")
    scenario = load(wanted.scenario, (), plugins.registry).scenario
    target = wanted.target or wanted.scenario.with_name(f"{wanted.scenario.stem}.tuned.yaml")
    refuse_to_overwrite(target, wanted.scenario)
    about = _about(wanted, scenario, experience, axis)
    out = wanted.out or Path("tune") / f"{scenario.name}-{_short(about)}"
    judge = Judge(
        scenario=wanted.scenario,
        experience=experience,
        always=(as_setting("stream.split.validation", about["validation"]),),
        seeds=wanted.seeds or (None,),
        out=out,
        plugins=plugins,
        device=wanted.device,
        limit_batches=wanted.limit_batches,
    )
    _refuse_wrong(wanted, space, axis, judge, plugins)
    steps = [] if axis is None else _steps(wanted, axis, judge, plugins)
    judge.check()
    study = Study(out, about)
    low = () if axis is None else (_setting(axis.place, _ends(axis).low),)
    study.run(wanted.trials if space.axes else 1, space, lambda settings: judge((*low, *settings)), tell)
    settings, best = study.best()
    score = best
    if axis is not None:
        kept, score = _relaxed(study, axis.place, steps, settings, best, judge, wanted, tell)
        settings = (*settings, kept)
    scores = [each.accuracy for _, each in study.scores()]
    chosen = Chosen(
        values={".".join(map(str, each.place)): each.value for each in map(Setting.read, settings)},
        accuracy=score.accuracy,
        standard_error=score.standard_error,
        rows=score.rows,
        trials=len(scores),
        alike=sum(each >= best.accuracy - best.standard_error for each in scores),
        experience=experience,
        scenario=target,
        out=out,
    )
    write(target, wanted.scenario, settings, plugins.registry, [f"written by: {wanted.command}", chosen.told])
    return chosen


def _relaxed(
    study: Study,
    place: str,
    steps: Sequence[float],
    settings: tuple[str, ...],
    best: Score,
    judge: Judge,
    wanted: Wanted,
    tell: Tell,
) -> tuple[str, Score]:
    """The largest value that keeps the accuracy above its share of the best; the smallest where none does."""
    enough = (1 - wanted.threshold) * best.accuracy
    for value in steps:
        setting = _setting(place, value)
        known = study.relaxed().get(f"{settings} {setting}")
        score = judge((setting, *settings)) if known is None else Score(known[0], int(known[1]))
        study.note_relaxed(f"{settings} {setting}", score)
        tell(f"{setting}: {100 * score.accuracy:.2f} %, at least {100 * enough:.2f} % is asked for")
        if score.accuracy >= enough:
            return setting, score
    return setting, score


def falling(ends: Range, decay: float) -> Iterator[float]:
    """From the largest value to the smallest, each `decay` times the one before.

    >>> [*falling(Range(1, 10, False, False), 0.5)]
    [10.0, 5.0, 2.5, 1.25, 1]
    """
    value = float(ends.high)
    while value > ends.low:
        yield rounded(value, ends)
        value *= decay
    yield ends.low


def _steps(wanted: Wanted, axis: Axis, judge: Judge, plugins: Plugins) -> list[float]:
    """The values that are tried, the largest first; whole ones where the scenario takes no others.

    Raises:
        UserError: it takes neither.
    """

    def check(value: float) -> None:
        load(wanted.scenario, (_setting(axis.place, value), *judge.always), plugins.registry)

    steps: list[float] = []
    for value in falling(_ends(axis), wanted.decay):
        try:
            check(value)
        except UserError:
            value = round(value)
            check(value)
        steps.append(value)
    return [*dict.fromkeys(steps)]


def _stability(wanted: Wanted) -> Axis | None:
    if wanted.stability is None:
        return None
    axis = Axis.read(wanted.stability)
    if not isinstance(axis.values, Range) or axis.values.low < 0:
        raise UserError(f"--stability {wanted.stability}: give a range of numbers from 0 upwards, LOW..HIGH")
    if axis.values.low == 0:
        raise UserError(f"--stability {wanted.stability}: it is divided again and again, so give a LOW above 0")
    return replace(axis, values=replace(axis.values, whole=False))


def _ends(axis: Axis) -> Range:
    assert isinstance(axis.values, Range), "checked when it was read"
    return axis.values


def _about(wanted: Wanted, scenario: Scenario, experience: int, axis: Axis | None) -> dict[str, Any]:
    """All that decides what a trial is worth, and which ones come."""
    own = float(getattr(scenario.stream.split.options, "validation", 0.0))
    return {
        "scenario": f"{scenario.name}-{config_sha(scenario)}",
        "set": list(wanted.axes),
        "stability": None if axis is None else [wanted.stability, wanted.threshold, wanted.decay],
        "experience": experience,
        "validation": wanted.validation or own or SHARE,
        "seeds": list(wanted.seeds) or [scenario.seed],
        "limit_batches": wanted.limit_batches,
    }


def _short(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]


def _refuse_wrong(wanted: Wanted, space: Space, axis: Axis | None, judge: Judge, plugins: Plugins) -> None:
    """Both ends of every range, and every value, before anything is trained."""
    for each in (*space.axes, *([axis] if axis else [])):
        ends = each.values
        for value in (ends.low, ends.high) if isinstance(ends, Range) else ends:
            load(wanted.scenario, (_setting(each.place, value), *judge.always), plugins.registry)


def _setting(place: str, value: Any) -> str:
    """A whole number goes without decimals, since there are places that take no others."""
    return as_setting(place, int(value) if isinstance(value, float) and value.is_integer() else value)
