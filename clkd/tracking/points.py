"""What is recorded of an experience: every number under the name that all trackers use."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clkd.engine.run import Run
    from clkd.experience import Experience
    from clkd.metrics.base import Record

LONGEST = 250
"""Characters in a metric's or parameter's name that MLflow accepts."""


def experience_points(run: Run, experience: Experience, result: Mapping[str, Any]) -> dict[str, float]:
    """All numbers of one experience; their step is the experience's index.

    `acc_matrix/exp_03` after experience 5 is the accuracy on experience 3: one line per experience, which falls as it
    is forgotten. Accuracy on experiences that were not trained yet is left out.
    """
    row = experience.index
    return {
        **time_points(run.seconds),
        **result.get("metrics", {}),
        **_matrix_row("acc_matrix", run.record.matrix[row][: row + 1]),
        **_matrix_row("acc_matrix_task_aware", run.record.task_aware[row][: row + 1]),
        **{f"class_acc/{name}": accuracy for name, accuracy in result.get("per_class", {}).items()},
    }


def time_points(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds since the run's beginning, by purpose."""
    return {f"time/{purpose}_s": spent for purpose, spent in seconds.items()}


def carried_points(record: Record, index: int, metrics: Mapping[str, Callable[[Record], float]]) -> dict[str, float]:
    """What can be told of an experience from the record alone: the matrices' rows, and the metrics as they were then.

    Only the last evaluation's confusion is in the record: what is made from that is left out for all others.
    """
    then = replace(record, trained=index + 1, confusion=record.confusion if index == record.trained - 1 else [])
    values = {f"stream/{name}": metric(then) for name, metric in metrics.items()}
    return {
        **{name: value for name, value in values.items() if not math.isnan(value)},
        **_matrix_row("acc_matrix", record.matrix[index][: index + 1]),
        **_matrix_row("acc_matrix_task_aware", record.task_aware[index][: index + 1]),
    }


def _matrix_row(name: str, row: list[float]) -> dict[str, float]:
    return {f"{name}/exp_{j:02d}": accuracy for j, accuracy in enumerate(row) if not math.isnan(accuracy)}


def matrix_row(points: Mapping[str, float | None], row: int) -> list[float]:
    """The row of the accuracy matrix that `experience_points` made points of, up to its diagonal.

    >>> matrix_row({"acc_matrix/exp_00": 0.5, "acc_matrix/exp_01": 0.75, "time/train_s": 3.0}, 1)
    [0.5, 0.75]
    """
    values = [points.get(f"acc_matrix/exp_{j:02d}") for j in range(row + 1)]
    return [math.nan if value is None else value for value in values]


def clean(name: str) -> str:
    """The name in characters that MLflow accepts: letters, digits, `_`, `-`, `.`, `:`, space and `/` within.

    >>> clean("class_acc/maple tree [#3]")
    'class_acc/maple tree __3_'
    >>> clean("/../a//b")
    'a/b'
    """
    parts = [part for part in re.sub(r"[^\w\-. :/]", "_", name).split("/") if part not in ("", ".", "..")]
    return ("/".join(parts) or "_")[:LONGEST].rstrip("/")


def clean_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values under clean names; two names that become one stay two.

    >>> clean_names({"a@": 1, "a#": 2})
    {'a_': 1, 'a__': 2}
    """
    cleaned: dict[str, Any] = {}
    for name, value in values.items():
        cleaned[clean_beside(name, cleaned)] = value
    return cleaned


def clean_beside(name: str, others: Collection[str]) -> str:
    """A clean name that none of the `others` has.

    >>> clean_beside("a#", {"a_"})
    'a__'
    """
    key = clean(name)
    while key in others:
        key = f"{key[: LONGEST - 1]}_" if len(key) < LONGEST else f"{key[: LONGEST - 9]}{len(others):09d}"
    return key


def percent(value: float | None) -> str:
    """A fraction for people, or a dash where nothing was evaluated.

    >>> percent(0.5), percent(float("nan"))
    ('50.0', '-')
    """
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def without_nan(value: Any) -> Any:
    """Plain data with None for what is no finite number, as strict JSON wants it.

    >>> without_nan({"a": [0.5, float("nan")], "b": float("inf")})
    {'a': [0.5, None], 'b': None}
    """
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
