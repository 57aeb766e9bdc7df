"""What a continual learner fails to learn at all, against one that has all data at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clkd.errors import UserError
from clkd.experience import Experience
from clkd.metrics.average import mean
from clkd.metrics.base import Metric, Record


class Intransigence(Metric):
    """`1/n Σ_i (a*[i] − R[i, i])`, a* the accuracy of joint training. Lower is better. NaN before the first.

    Chaudhry et al. 2018, "Riemannian Walk for Incremental Learning", eq. 4, averaged over the experiences trained.

    Args:
        joint: a*, one number for each experience; or the directory of a joint run, from `base`.
        at: of a run, its accuracies at the `end`, or on `each` experience just after that was trained.
        experiences: those of this run's stream; they tell which classes to look up in a joint run of one experience.

    Raises:
        UserError: there is no such run, it is not finished, or it does not tell a number for each experience.

    >>> Intransigence([0.9, 0.8])(Record(2, [[0.9, 0.0], [0.5, 0.7]], trained=2))
    0.05
    """

    def __init__(
        self,
        joint: str | Sequence[float],
        base: Path = Path(),
        experiences: Sequence[Experience] = (),
        class_names: Sequence[str] = (),
        task_labels: bool = False,
        at: str = "end",
    ) -> None:
        if isinstance(joint, str):
            matrix = _matrix(run := base / joint)
            self.joint = [row[i] for i, row in enumerate(matrix)] if at == "each" else matrix[-1]
            if len(self.joint) == 1 < len(experiences):
                _refuse_inseparable(run, experiences, task_labels)
                self.joint = _by_class(run, experiences, class_names)
        else:
            self.joint = list(joint)
        if experiences and len(self.joint) != len(experiences):
            raise UserError(
                f"intransigence: joint has {len(self.joint)} accuracies, the stream {len(experiences)} experiences: "
                "give one for each"
            )

    def __call__(self, record: Record) -> float:
        return mean([self.joint[i] - record.matrix[i][i] for i in range(record.trained)])


def _matrix(run: Path) -> list[list[float]]:
    result = _read(run)
    matrix: list[list[float]] = result["accuracy_matrix"]
    if None in matrix[-1]:
        raise UserError(f"intransigence: {run} is {result['status']}: its last row is not evaluated yet")
    return matrix


def _read(run: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads((run / "result.json").read_text())
    except (OSError, ValueError):
        raise UserError(
            f"intransigence: {run} has no result.json that can be read: give the directory of a finished joint run, "
            "or its accuracy on each experience as numbers"
        ) from None
    if not result.get("accuracy_matrix"):
        raise UserError(f"intransigence: {run}/result.json has no accuracy_matrix: give numbers instead")
    return result


def _refuse_inseparable(run: Path, experiences: Sequence[Experience], task_labels: bool) -> None:
    if task_labels or len({experience.classes for experience in experiences}) == 1:
        raise UserError(
            f"intransigence: {run} has one experience, whose accuracy cannot be told apart in this stream: "
            "give its accuracy on each experience as numbers"
        )


def _by_class(run: Path, experiences: Sequence[Experience], class_names: Sequence[str]) -> list[float]:
    """Of a run with one experience, from its accuracy on each class, in the shares that test rows have."""
    told = _class_accuracy(run)
    accuracies = []
    for experience in experiences:
        names = [class_names[c] for c in experience.test.y.tolist() if c >= 0]
        if missing := sorted({*names} - {*told}):
            raise UserError(f"intransigence: {run} does not tell the accuracy on class '{missing[0]}'")
        accuracies.append(mean([told[name] for name in names]))
    return accuracies


def _class_accuracy(run: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    path = run / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        points = json.loads(line).get("metrics", {})
        found |= {name[10:]: value for name, value in points.items() if name.startswith("class_acc/")}
    return found
