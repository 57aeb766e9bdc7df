"""Groups beside each other: means over seeds, the best of each metric, and whether the others really differ from it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from clkd.compare.group import Group
from clkd.compare.statistics import holm, paired_t, standard_deviation, welch_t
from clkd.compare.summary import is_fraction
from clkd.errors import UserError, did_you_mean

PAIRED, UNPAIRED = "paired t", "Welch's t"
LOW = ("forgetting", "intransigence", "loss_old_domains", "compute.", "seconds.")
"""How the names of metrics begin of which less is better."""
DEFAULT = ("average_accuracy", "forgetting")


@dataclass(frozen=True, slots=True)
class Metric:
    """One column.

    Attributes:
        low: whether less is better.
        percent: whether all its values are fractions.
    """

    name: str
    low: bool
    percent: bool

    @property
    def scale(self) -> float:
        return 100.0 if self.percent else 1.0


@dataclass(frozen=True, slots=True)
class Cell:
    """A group's metric, in the metric's own unit.

    Attributes:
        sd: over seeds; None of a single run.
        p: that the group and the one it is compared with have the same mean, after Holm; None where it cannot be told.
        test: by which test.
    """

    mean: float | None = None
    sd: float | None = None
    best: bool = False
    p: float | None = None
    test: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The whole table: `cells[i][metric.name]` is of group i. `notes` are lines that have to be read with it."""

    groups: Sequence[Group]
    metrics: Sequence[Metric]
    cells: Sequence[Mapping[str, Cell]]
    notes: Sequence[str]


def compare(groups: Sequence[Group], wanted: Sequence[str], against: Group | None, notes: Sequence[str]) -> Comparison:
    """Put groups beside each other.

    Args:
        groups: at least one.
        wanted: metrics, each perhaps with `:low` or `:high` (which is better) behind it; empty for the usual ones.
        against: the group that the others are tested against; None for the best of each metric.
        notes: what is to be said already.

    Raises:
        UserError: no run has such a metric.
    """
    metrics = [_metric(name, groups) for name in wanted or _usual(groups)]
    said = [*notes, *_about(groups)]
    columns = [_column(groups, metric, against, said) for metric in metrics]
    cells = [
        {metric.name: column[i] for metric, column in zip(metrics, columns, strict=True)} for i in range(len(groups))
    ]
    return Comparison(groups, metrics, cells, [*dict.fromkeys(said)])


def _usual(groups: Sequence[Group]) -> list[str]:
    return [name for name in DEFAULT if any(group.values(name) for group in groups)] or [DEFAULT[0]]


def _metric(wanted: str, groups: Sequence[Group]) -> Metric:
    name, _, better = wanted.partition(":")
    if better not in ("", "low", "high"):
        raise UserError(f"--metric {wanted}: behind the colon, say which is better: low or high")
    there = {each for group in groups for run in group.runs for each in run.numbers}
    if name not in there:
        raise UserError(f"--metric {name}: no run has it ({did_you_mean(name, there)})")
    low = better == "low" if better else name.startswith(LOW)
    return Metric(name, low, is_fraction(name, [run for group in groups for run in group.runs]))


def _about(groups: Sequence[Group]) -> list[str]:
    """What must not be overlooked: other data, and too few runs."""
    said = [
        f"{group.label}: a single run, so no standard deviation and no test" for group in groups if len(group.runs) == 1
    ]
    said += [
        f"{group.label}: {run.stand_in} stood in for {run.dataset}"
        for group in groups
        if (run := group.runs[0]).stand_in
    ]
    if len({(group.data, group.prints) for group in groups}) > 1:
        on = "; ".join(f"{group.label}: {group.data} [{','.join(group.prints)[:8]}]" for group in groups)
        said.insert(0, f"NOT THE SAME DATA, so nothing is called best or tested across them ({on})")
    return said


def _column(groups: Sequence[Group], metric: Metric, against: Group | None, said: list[str]) -> list[Cell]:
    cells = [_cell(group.values(metric.name)) for group in groups]
    said += [
        f"{group.label}: not every run has {metric.name}"
        for group, cell in zip(groups, cells, strict=True)
        if cell.mean is None
    ]
    mixed = len({(group.data, group.prints) for group in groups}) > 1
    means = [cell.mean for cell in cells if cell.mean is not None]
    if len(groups) < 2 or not means:
        return cells
    top = min(means) if metric.low else max(means)
    if not mixed:
        cells = [replace(cell, best=cell.mean == top) for cell in cells]
    if against is not None:
        reference = groups.index(against)
    elif mixed:
        return cells
    else:
        reference = next(i for i, cell in enumerate(cells) if cell.mean == top)
        said += _untested(groups, groups[reference])
    return _tested(groups, metric, cells, reference, said)


def _untested(groups: Sequence[Group], best: Group) -> list[str]:
    """What to do where the best is a single run, by which the others cannot be told apart."""
    tellable = [group for group in groups if len(group.runs) > 1]
    if len(best.runs) > 1 or len(tellable) < 2:
        return []
    return [f"the best is a single run: to test the others, name one of them, such as --against {tellable[0].name}"]


def _cell(values: Sequence[float] | None) -> Cell:
    return Cell(statistics.fmean(values), standard_deviation(values)) if values else Cell()


def _tested(groups: Sequence[Group], metric: Metric, cells: list[Cell], reference: int, said: list[str]) -> list[Cell]:
    """The cells with their p: paired where both groups have the same seeds, and by Welch's test where not."""
    ours, found = groups[reference], {}
    for i, group in enumerate(groups):
        test = _test(group, ours, metric.name) if i != reference else None
        if test is None:
            continue
        found[i] = test
        if test[1] == UNPAIRED:
            said.append(f"{group.label} and {ours.label} have different seeds: {UNPAIRED}-test, not paired")
    adjusted = dict(zip(found, holm([p for p, _ in found.values()]), strict=True))
    return [replace(cell, p=adjusted[i], test=found[i][1]) if i in found else cell for i, cell in enumerate(cells)]


def _test(group: Group, other: Group, metric: str) -> tuple[float, str] | None:
    a, b = group.values(metric), other.values(metric)
    same_data = (group.data, group.prints) == (other.data, other.prints)
    if not a or not b or min(len(a), len(b)) < 2 or not same_data:
        return None
    if group.seeds == other.seeds:
        return paired_t(a, b), PAIRED
    return welch_t(a, b), UNPAIRED
