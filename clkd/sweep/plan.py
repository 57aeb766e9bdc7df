"""What a sweep has to do: every point checked before the first is trained, and what is done already left alone."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clkd import __version__
from clkd.compare.group import ENDED
from clkd.compare.summary import Summary
from clkd.errors import UserError
from clkd.registry import Registry
from clkd.scenario.load import load
from clkd.scenario.model import Scenario
from clkd.scenario.resolve import config_sha, group_name
from clkd.scenario.settings import as_setting
from clkd.scenario.tracking import TrackingOptions
from clkd.sweep.axes import Settings
from clkd.tracking import store

TAG = "clkd.sweep"
RECORDED = ("mlflow", "required")
"""Modes of tracking in which runs write into MLflow's store."""
log = logging.getLogger("clkd.sweep")


@dataclass(frozen=True, slots=True)
class Point:
    """One run that is wanted.

    Attributes:
        settings: what the sweep varies, for people.
        tags: the `--set` that marks the run as the sweep's in MLflow.
        group: of the run (`clkd.group`).
        config_sha: of its scenario.
        tracking: what its scenario says of it.
    """

    scenario: Path
    settings: Settings
    tags: str
    seed: int
    group: str
    config_sha: str
    tracking: TrackingOptions

    @property
    def label(self) -> str:
        """As it is told while it runs."""
        return ", ".join([*self.settings, f"seed {self.seed}"])


def points(scenario: Path, combinations: Sequence[Settings], seeds: Sequence[int], registry: Registry) -> list[Point]:
    """All points, seed by seed: what is known after some of them is known of all settings.

    Args:
        seeds: instead of the scenario's own, which the combinations may vary.

    Raises:
        UserError: the scenario of one of them is wrong.
    """
    loaded = [load(scenario, settings, registry).scenario for settings in combinations]
    if any(each.output is not None for each in loaded):
        raise UserError("output: a sweep makes many runs, and this names one place: leave it out (--set output=null)")
    if seeds and len({each.seed for each in loaded}) > 1:
        raise UserError("--set seed: --seed says the seeds already: leave one of the two out")
    sweep = f"{loaded[0].name}-{hashlib.sha256(repr(combinations).encode()).hexdigest()[:8]}"
    return [
        Point(
            scenario,
            settings,
            _tags(each, sweep),
            each.seed if seed is None else seed,
            group_name(each),
            config_sha(each),
            each.tracking,
        )
        for seed in seeds or (None,)
        for settings, each in zip(combinations, loaded, strict=True)
    ]


def _tags(scenario: Scenario, sweep: str) -> str:
    return as_setting("tracking.tags", {**scenario.tracking.tags, TAG: sweep})


def check_store(points: Sequence[Point], mode: str | None, uri: str | None, machines: int) -> None:
    """Several machines cannot write into one database file: its locks hold on one alone.

    Args:
        mode, uri: instead of what the scenario says of tracking.

    Raises:
        UserError: they would.
    """
    for tracking in (point.tracking for point in points if machines > 1):
        chosen = store.resolve_uri(uri or tracking.uri) if (mode or tracking.mode) in RECORDED else ""
        if store.database(chosen):
            raise UserError(
                f"--cluster: {chosen} is a store of one machine, and these are {machines}: name a server by "
                "--tracking-uri, or take --tracking offline and bring the runs in later by `clkd track sync`"
            )


def found(point: Point, runs: Sequence[Summary], limit_batches: int | None) -> Summary | None:
    """The run that is this point's, finished or to be gone on with; None where it has to be made.

    One that another version of clkd has begun is none, and neither is one that failed.
    """
    alike = [run for run in runs if _is(point, run, limit_batches) and run.status != "failed"]
    own = [run for run in alike if run.version == __version__]
    done = [run for run in own if run.status == ENDED]
    begun = [run for run in own if run.status != ENDED and (run.path / "checkpoints").is_dir()]
    if not done and not begun and len(own) < len(alike):
        log.info("%s: another version of clkd has run it: again", point.label)
    return max(done or begun, key=lambda run: run.created, default=None)


def _is(point: Point, run: Summary, limit_batches: int | None) -> bool:
    same = (point.config_sha, point.seed, limit_batches) == (run.config_sha, run.seed, run.limit_batches)
    return same and run.forked is None and run.name == point.group.rpartition("-")[0]
