"""One run as its directory tells it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clkd.engine.directory import RunDirectory
from clkd.tracking import events

RESULT = "result.json"
UNFINISHED = "unfinished"
"""The status of a run that has not told its end: it is being trained, or its process ended without a word."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What is listed and compared of a run.

    Attributes:
        group: of all runs of its scenario that differ in their seed alone (the MLflow tag `clkd.group`).
        seed: None of a run that has not begun.
        config_sha: of everything in the scenario that may change a number, the seed aside.
        dataset: the one that the scenario names; `stand_in` is what stood in for it.
        prints: the fingerprints of all data that it was trained on.
        limit_batches: how many batches an epoch was cut down to.
        forked: the last experience that another run had trained, of one that went on from there; else None.
        created: Unix seconds.
        numbers: metrics by name, and `compute.…`, `seconds.…`, `rows_per_second`; None where nothing was measured.
    """

    path: Path
    id: str
    name: str
    group: str
    seed: int | None
    status: str
    config_sha: str
    dataset: str
    stand_in: str | None
    prints: tuple[str, ...]
    version: str
    limit_batches: int | None
    forked: int | None
    created: float
    numbers: Mapping[str, float | None]

    @property
    def data(self) -> str:
        """What it was trained on, in words."""
        return f"{self.stand_in} for {self.dataset}" if self.stand_in else self.dataset


def is_fraction(metric: str, runs: Sequence[Summary]) -> bool:
    """Whether a metric is shown in percent: no cost, and between -1 and 1 in all these runs."""
    values = [value for run in runs if (value := run.numbers.get(metric)) is not None]
    return not metric.startswith(("compute.", "seconds.")) and all(-1 <= value <= 1 for value in values)


def read(path: Path) -> Summary:
    """The run of a directory, whatever it has written so far.

    Raises:
        UserError: it says not even which run it is.
    """
    manifest = RunDirectory(path).manifest()
    tags = _tags(path / events.FILE)
    status = manifest.get("status")
    result = _result(path / RESULT) if status else {}  # of a run that goes on, it tells how an earlier process ended
    stream = manifest.get("stream") or []
    seed = tags.get("clkd.seed")
    return Summary(
        path=path,
        id=manifest["id"],
        name=str(manifest.get("name", "")),
        group=tags.get("clkd.group", str(manifest.get("name", ""))),
        seed=int(seed) if seed is not None and seed.isdigit() else None,
        status=status or UNFINISHED,
        config_sha=tags.get("clkd.config_sha", ""),
        dataset=tags.get("clkd.dataset", ""),
        stand_in=tags.get("clkd.stand_in"),
        prints=tuple(str(facts.get("fingerprint")) for facts in stream),
        version=tags.get("clkd.version", ""),
        limit_batches=manifest.get("limit_batches"),
        forked=(manifest.get("origin") or {}).get("experience"),
        created=float(manifest.get("created") or 0),
        numbers=_numbers(result),
    )


def _tags(path: Path) -> dict[str, str]:
    """Of the record's first line, where a run says who it is."""
    try:
        with path.open("rb") as file:
            first = events.parse(file.readline())
    except FileNotFoundError:
        return {}
    return dict((first or {}).get("tags", {}))


def _result(path: Path) -> dict[str, Any]:
    """Nothing of a run that is not over; half a file cannot be, since it is written whole."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _numbers(result: Mapping[str, Any]) -> dict[str, float | None]:
    numbers = dict(result.get("metrics") or {})
    for block in ("compute", "seconds"):
        numbers |= {f"{block}.{name}": value for name, value in (result.get(block) or {}).items()}
    if "rows_per_second" in result:
        numbers["rows_per_second"] = result["rows_per_second"]
    return numbers
