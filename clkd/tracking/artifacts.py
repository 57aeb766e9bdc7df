"""The files that MLflow keeps of a run: copies from its directory, the accuracy matrix in four guises, reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clkd.tracking import events, history, labels, reports, shifts
from clkd.tracking.events import FILE
from clkd.tracking.points import without_nan
from clkd.tracking.store import hushed

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

CONSTANT = {"scenario.yaml": "scenario.yaml", "config.resolved.yaml": "resolved.yaml"}
"""Artifact, and the file of the run's directory that it is a copy of."""
GROWING = {"environment.txt": "environment.txt", "result.json": "result.json", FILE: FILE}
MATRIX = ("accuracy_matrix.csv", "accuracy_matrix.json", "figures/accuracy_matrix.png", "figures/forgetting.png")
CURVES = ("figures/class_accuracy.png", "figures/loss_terms.png", "tables/class_accuracy.json")
TABLES = ("tables/accuracy_matrix.json", "tables/class_accuracy.json")
"""What MLflow shows as tables."""
REPORTED = ("figures/agreement.png", "figures/cka.png")
SHIFTED = ("figures/shift.png", "figures/domains.png")
CHANGING = frozenset((*GROWING, *MATRIX, *CURVES, *TABLES, *REPORTED, *SHIFTED))
"""What is another one each time that a run ends."""

Content = Callable[[], "Path | str | Figure"]


def of(directory: Path, rows: list[list[float]], title: str, over: bool) -> dict[str, Content]:
    """All artifacts that a run's directory is good for, made when they are called.

    Args:
        rows: the accuracy matrix.
        title: of the figures.
        over: whether the run has ended; before, there is only what does not change.
    """
    copies = {**CONSTANT, **GROWING} if over else CONSTANT
    found: dict[str, Content] = {
        name: _copy(name, directory / file) for name, file in copies.items() if (directory / file).exists()
    }
    found |= _reports(directory, title, over) | _shifts(directory, title, over)
    return {**found, **_matrix(rows, title), **_curves(directory, title)} if over and rows else found


def found(client: MlflowClient, run: str) -> set[str]:
    """The names of those that the store has."""
    items = client.list_artifacts(run)
    inside = [client.list_artifacts(run, item.path) if item.is_dir else [item] for item in items]
    return {item.path for each in inside for item in each}


def log(client: MlflowClient, run: str, name: str, content: Content) -> None:
    """Put one into the store, in the place of one of that name."""
    made = content()
    if isinstance(made, Path):
        client.log_artifact(run, str(made))
    elif isinstance(made, str):
        client.log_text(run, made, name)
    else:
        client.log_figure(run, made, name)


def _copy(name: str, path: Path) -> Content:
    """The file itself, where it may lie there as it is; what people wrote may hold a password."""
    if path.name == name and name not in CONSTANT:
        return lambda: path
    return lambda: hushed(path.read_text(encoding="utf-8"))


def _reports(directory: Path, title: str, over: bool) -> dict[str, Content]:
    """A copy of each report as soon as it is there; in the end pictures of what they say, if they say it of anybody."""
    paths = {f"{reports.FOLDER}/{path.name}": path for path in reports.files(directory)}
    copies = {name: _copy(name, path) for name, path in paths.items()}
    if not (over and paths):
        return copies
    told = [reports.read(path) for path in paths.values()]
    agreement, alike = reports.agreement_by_class(told[-1]), reports.cka_over_time(told)
    made = (
        _drawn("agreement", agreement, f"{title}, experience {told[-1]['experience']}") if agreement else None,
        _drawn("cka", alike, title) if alike else None,
    )
    return copies | {name: content for name, content in zip(REPORTED, made, strict=True) if content}


def _shifts(directory: Path, title: str, over: bool) -> dict[str, Content]:
    """As `_reports`, of the shift between domains."""
    paths = {f"{shifts.FOLDER}/{path.name}": path for path in reports.files(directory, shifts.FOLDER)}
    copies = {name: _copy(name, path) for name, path in paths.items()}
    if not (over and paths):
        return copies
    told = [reports.read(path, shifts.PARTS) for path in paths.values()]
    shift, domains = (_drawn(name, told, title) for name in ("shift", "domains"))
    return copies | dict(zip(SHIFTED, (shift, domains), strict=True))


def _matrix(rows: list[list[float]], title: str) -> dict[str, Content]:
    made: tuple[Content, ...] = (
        lambda: labels.matrix_csv(rows),
        lambda: json.dumps(without_nan({"accuracy_matrix": rows}), indent=2),
        _drawn("accuracy_matrix", rows, title),
        _drawn("forgetting", rows, title),
        lambda: json.dumps(without_nan(_triangle(rows))),
    )
    return dict(zip((*MATRIX, TABLES[0]), made, strict=True))


def _triangle(rows: list[list[float]]) -> dict[str, Any]:
    curves = {f"exp_{i:02d}": dict(enumerate(row)) for i, row in enumerate(rows)}
    return history.table(curves, "after", "on exp_{:02d}")


def _curves(directory: Path, title: str) -> dict[str, Content]:
    """What became of classes and of loss terms, if anything is told of them."""
    told, _ = events.read(directory / FILE)
    classes, terms = history.class_accuracy(told), history.loss_terms(told)
    made = (
        _drawn("class_accuracy", classes, title) if classes else None,
        _drawn("loss_terms", terms, title) if terms else None,
        (lambda: json.dumps(history.table(classes, "class"))) if classes else None,
    )
    return {name: content for name, content in zip(CURVES, made, strict=True) if content}


def shown_as_tables(names: Iterable[str]) -> str:
    """The tag by which MLflow knows which artifacts are tables.

    >>> shown_as_tables(["scenario.yaml", "tables/accuracy_matrix.json"])
    '[{"path": "tables/accuracy_matrix.json", "type": "table"}]'
    """
    return json.dumps([{"path": name, "type": "table"} for name in names if name in TABLES])


def _drawn(name: str, values: Any, title: str) -> Content:
    """One of `clkd.tracking.figures`, drawn when it is called."""

    def draw() -> Figure:
        from clkd.tracking import figures

        figure: Figure = getattr(figures, name)(values, title)
        return figure

    return draw
