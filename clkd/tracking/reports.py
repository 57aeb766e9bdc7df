"""Reports of what was transferred, one for each experience: their files, their numbers, and their words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from clkd.disk import write_whole
from clkd.errors import UserError
from clkd.tracking.points import percent, without_nan

FOLDER = "reports"
"""In the run's directory, and among MLflow's artifacts."""
PARTS = frozenset({"experience", "name", "student", "teachers", "cka"})
SHOWN = ("agreement", "kl", "gained_teacher_right", "gained_this_teacher_alone", "lost_teacher_right")
"""What becomes a metric of each teacher."""

Report = dict[str, Any]


# Files


def write(directory: Path, report: Report, folder: str = FOLDER, indent: int | None = 1) -> None:
    """Keep a report (or another record of one experience) in a folder of the run's directory."""
    (directory / folder).mkdir(exist_ok=True)
    text = json.dumps(without_nan(report), indent=indent, allow_nan=False)
    write_whole(directory / folder / f"exp_{report['experience']:03d}.json", text + "\n")


def files(directory: Path, folder: str = FOLDER) -> list[Path]:
    """Of all reports that a run's directory holds, the first experience's first."""
    return sorted((path for path in (directory / folder).glob("exp_*.json") if _index(path) >= 0), key=_index)


def read(path: Path, parts: Set[str] = PARTS) -> Report:
    """One report, which has all `parts`.

    Raises:
        UserError: the file was altered.
    """
    try:
        report: Report = json.loads(path.read_text(encoding="utf-8"))
        if parts <= report.keys():
            return report
        reason = "parts of it are missing"
    except (OSError, ValueError, AttributeError) as error:
        reason = str(error)
    raise UserError(f"{path} cannot be read as a report ({reason}): bring it back from a copy, or delete it")


def drop(directory: Path, trained: int, folder: str = FOLDER) -> None:
    """Delete those of experiences that are not trained yet: they come again."""
    for path in files(directory, folder):
        if _index(path) >= trained:
            path.unlink()


def _index(path: Path) -> int:
    named = re.fullmatch(r"exp_([0-9]+)\.json", path.name)
    return int(named[1]) if named else -1


# Numbers


class Pair(NamedTuple):
    """A layer of the student beside one of a teacher."""

    teacher: str
    ours: str
    theirs: str

    @property
    def layers(self) -> str:
        """`stage3`, or `stage3-stage2` where they have different names."""
        return self.ours if self.ours == self.theirs else f"{self.ours}-{self.theirs}"


def pairs(report: Report) -> dict[Pair, float]:
    """CKA of the student's layers with the teachers'; not a number where it could not be had.

    >>> told = {"layers": [["student", "stage3"], ["big", "stage3"]], "values": [[1.0, 0.5], [0.5, 1.0]]}
    >>> pairs({"cka": told})
    {Pair(teacher='big', ours='stage3', theirs='stage3'): 0.5}
    """
    told = report["cka"] or {"layers": [], "values": []}
    return {
        Pair(teacher, ours, theirs): math.nan if value is None else value
        for (owner, ours), row in zip(told["layers"], told["values"], strict=True)
        for (teacher, theirs), value in zip(told["layers"], row, strict=True)
        if owner == "student" != teacher
    }


def heard(report: Report) -> dict[str, dict[str, Any]]:
    """What is told of each teacher that had something to say."""
    return {name: told for name, told in report["teachers"].items() if "skipped" not in told}


def points(report: Report) -> dict[str, float]:
    """The few numbers of a report that are metrics: shares, nats, rows and CKA."""
    told = {f"student/{key}": report["student"][key] for key in ("gained", "lost")}
    told |= {f"{name}/{key}": each[key] for name, each in heard(report).items() for key in SHOWN}
    told |= {f"{pair.teacher}/cka_{pair.layers}": value for pair, value in pairs(report).items()}
    return {f"report/{name}": value for name, value in told.items() if value is not None}


def agreement_by_class(report: Report) -> dict[str, dict[str, float]]:
    """By teacher, then by class; classes that a teacher does not know are left out."""
    return {
        name: {c: each["agreement"] for c, each in told["classes"].items() if each["rows"]}
        for name, told in heard(report).items()
    }


def cka_over_time(reports: Sequence[Report]) -> dict[Pair, dict[int, float]]:
    """By pair of layers, then by experience."""
    found: dict[Pair, dict[int, float]] = {}
    for report in reports:
        for pair, value in pairs(report).items():
            found.setdefault(pair, {})[report["experience"]] = value
    return found


# Words


def summary(report: Report) -> Iterator[str]:
    """A line for each teacher.

    >>> told = {"agreement": 0.9375, "gained_teacher_right": 3, "lost_teacher_right": 1}
    >>> report = {"teachers": {"previous": {"skipped": "it has nothing to say yet"}, "big": told}, "cka": None}
    >>> print(*summary(report), sep="\\n")
    report: previous: nothing to compare: it has nothing to say yet
    report: big: 93.8 % agreement; where it is right 3 gained, 1 lost
    """
    alike = pairs(report)
    for name, told in report["teachers"].items():
        if "skipped" in told:
            yield f"report: {name}: nothing to compare: {told['skipped']}"
            continue
        words = [f"{percent(told['agreement'])} % agreement"]
        if told["gained_teacher_right"] is not None:
            words.append(f"where it is right {told['gained_teacher_right']} gained, {told['lost_teacher_right']} lost")
        words += [f"CKA {pair.layers} {value:.2f}" for pair, value in alike.items() if pair.teacher == name]
        yield f"report: {name}: {'; '.join(words)}"


def text(report: Report) -> str:
    """A whole report for people."""
    student = report["student"]
    share = percent(student["right"] / student["rows"] if student["rows"] else None)
    lines = [f"experience {report['experience']}: {report['name']}: {student['rows']:,} test rows, {share} % right"]
    if student["gained"] is not None:
        gained, lost = student["gained"], student["lost"]
        lines.append(f"of the classes that it knew before, {gained:,} rows became right and {lost:,} wrong")
    for name, told in report["teachers"].items():
        lines += ["", *_teacher(name, told)]
    lines += _layers(report["cka"], pairs(report))
    return "\n".join(lines)


def _teacher(name: str, told: Mapping[str, Any]) -> Iterator[str]:
    if "skipped" in told:
        yield f"{name}: nothing to compare: {told['skipped']}"
        return
    yield f"{name}: {told['rows']:,} rows of classes that both know"
    yield f"  agreement {percent(told['agreement'])} %, KL {nats(told['kl'])} nats"
    yield f"  {'':<14}{'teacher right':>14}{'teacher wrong':>14}"
    yield f"  {'student right':<14}{told['both_right']:>14,}{told['only_student_right']:>14,}"
    yield f"  {'student wrong':<14}{told['only_teacher_right']:>14,}{told['neither_right']:>14,}"
    if told["gained_teacher_right"] is not None:
        yield f"  {'became right':<14}{told['gained_teacher_right']:>14,}{told['gained_teacher_wrong']:>14,}"
        yield f"  {'became wrong':<14}{told['lost_teacher_right']:>14,}{told['lost_teacher_wrong']:>14,}"
        yield f"  of those that became right, no other teacher is right on {told['gained_this_teacher_alone']:,}"
    yield from _classes(told["classes"])


def _classes(classes: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    width = max((5, *map(len, classes)))
    yield f"  {'class':<{width}}{'rows':>8}{'agreement':>11}{'KL':>9}{'became right':>14}{'became wrong':>14}"
    for name, each in classes.items():
        flips = [_sum(each, "gained"), _sum(each, "lost")]
        agreement = percent(each["agreement"])
        yield f"  {name:<{width}}{each['rows']:>8,}{agreement:>11}{nats(each['kl']):>9}{flips[0]:>14}{flips[1]:>14}"


def nats(value: float | None) -> str:
    """A divergence, or a dash."""
    return "-" if value is None else f"{value:.3g}"


def _sum(each: Mapping[str, Any], what: str) -> str:
    parts = [each[f"{what}_teacher_right"], each[f"{what}_teacher_wrong"]]
    return "-" if None in parts else f"{sum(parts):,}"


def _layers(told: Mapping[str, Any] | None, alike: Mapping[Pair, float]) -> Iterator[str]:
    if told is None:
        return
    yield ""
    yield f"CKA ({told['estimator']}) over {told['rows']:,} rows in {told['minibatches']} minibatches"
    for pair, value in alike.items():
        yield f"  student.{pair.ours} and {pair.teacher}.{pair.theirs}: {value:.3f}"
    for name, reason in told["skipped"].items():
        yield f"  {name}: {reason}"
