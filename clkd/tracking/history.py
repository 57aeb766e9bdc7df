"""Curves out of a run's record: what became of each class, and of each loss term."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from clkd.tracking.events import EPOCH, EXPERIENCE, Event

CLASSES, LOSS, TERMS = "class_acc/", "train/loss", "train/weighted_"
Curves = dict[str, dict[int, float]]
"""By name, then by experience or step."""


def class_accuracy(events: Iterable[Event]) -> Curves:
    """Accuracy of each class that has test rows, by experience.

    >>> told = [{"event": "experience", "experience": i, "metrics": {"class_acc/cat": 1 - i / 2}} for i in (0, 1)]
    >>> class_accuracy(told)
    {'cat': {0: 1.0, 1: 0.5}}
    """
    found = ((e["experience"], e["metrics"]) for e in events if e["event"] == EXPERIENCE)
    return _curves(found, CLASSES)


def loss_terms(events: Iterable[Event]) -> Curves:
    """The loss, and each of its terms as it counts, as a mean over each epoch, by step.

    >>> metrics = {"train/loss": 1.0, "train/loss_kd": 2.0, "train/weighted_kd": 0.5, "train/lr": 0.1}
    >>> loss_terms([{"event": "epoch", "step": 10, "metrics": metrics}])
    {'loss': {10: 1.0}, 'kd': {10: 0.5}}
    """
    told = [(e["step"], e["metrics"]) for e in events if e["event"] == EPOCH]
    whole = {at: values[LOSS] for at, values in told if values.get(LOSS) is not None}
    return {**({"loss": whole} if whole else {}), **_curves(told, TERMS)}


def _curves(told: Iterable[tuple[int, dict[str, Any]]], prefix: str) -> Curves:
    curves: Curves = {}
    for at, values in told:
        for name, value in values.items():
            if name.startswith(prefix) and value is not None:
                curves.setdefault(name.removeprefix(prefix), {})[at] = value
    return curves


def table(curves: Curves, first: str, axis: str = "exp_{:02d}") -> dict[str, Any]:
    """As MLflow shows tables: a row for each curve, a column for each place.

    >>> table({"cat": {0: 1.0, 1: 0.5}, "dog": {1: 0.25}}, "class")["data"]
    [['cat', 1.0, 0.5], ['dog', None, 0.25]]
    """
    places = sorted({at for curve in curves.values() for at in curve})
    data = [[name, *(curve.get(at) for at in places)] for name, curve in curves.items()]
    return {"columns": [first, *(axis.format(at) for at in places)], "data": data}
