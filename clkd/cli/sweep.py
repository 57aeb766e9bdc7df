"""`clkd sweep`: a scenario at many settings and seeds."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from clkd.cache import cache_directory
from clkd.cli.common import json_option, plugin_options, plugins_from, print_json, print_table, time_left
from clkd.cli.seeds import SeedsCommand, seeds_option
from clkd.compare import text
from clkd.compare.comparison import Comparison, compare
from clkd.compare.group import ENDED, grouped
from clkd.compare.select import all_runs
from clkd.compare.summary import Summary
from clkd.engine.directory import LOCK
from clkd.errors import ClkdError, UserError
from clkd.locks import alone
from clkd.sweep import cluster
from clkd.sweep.axes import drawn, grid, read_axes
from clkd.sweep.local import processes
from clkd.sweep.plan import Point, check_store, found, points
from clkd.sweep.workers import Ended, Start, run_all
from clkd.tracking.points import percent

AGAIN = 2
"""How often a run goes on whose machine was lost."""


def _head(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """The address alone."""
    kind, _, address = (value or "").partition(":")
    if value is not None and kind != "ray":
        raise click.BadParameter(f"write ray, or ray:HOST:PORT; got '{value}'")
    return value and (address or cluster.HERE)


@contextmanager
def _place(head: str | None, workers: int, cpus: int | None, gpus: float | None) -> Iterator[tuple[Start, int]]:
    """Where runs are made: how one is started there, and how many machines that are."""
    if head:
        with cluster.joined(head, cluster.Share(cpus or 1, gpus or 0)) as joined:
            yield joined.start, len({*joined.machines.values()})
    elif gpus is not None:
        raise UserError("--gpus is for a --cluster: on this machine, --device says what runs are made on")
    else:
        yield processes(workers, cpus), 1


@click.command("sweep", short_help="Run a SCENARIO at many settings and seeds.", cls=SeedsCommand)
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "axes",
    multiple=True,
    metavar="A.B=VALUE,...",
    help="Values that one place takes in turn (YAML), or with --random a range: 0.1..1, 8..64, log:0.001..0.1.",
)
@click.option(
    "--random", "count", type=click.IntRange(min=1), metavar="N", help="N random draws, not every combination."
)
@seeds_option
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most N runs at a time; by default 1, and on a cluster as many as it has room for.",
)
@click.option(
    "--cluster",
    "head",
    metavar="ray[:HOST:PORT]",
    callback=_head,
    help="Run on the machines of a Ray cluster: the one that this machine is in, or that of a head.",
)
@click.option("--cpus", type=click.IntRange(min=1), metavar="N", help="Processor cores of each run.")
@click.option(
    "--gpus", type=click.FloatRange(min=0), metavar="N", help="On a cluster, GPUs of each run; 0.5 shares one."
)
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--limit-batches", type=click.IntRange(min=1), metavar="N", help="At most N batches an epoch.")
@click.option(
    "--tracking", type=click.Choice(["mlflow", "required", "offline", "off"]), help="Where the runs are recorded."
)
@click.option("--tracking-uri", metavar="URI", help="MLflow's tracking URI.")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="A column of the table at the end.")
@click.option("--dry-run", is_flag=True, help="Check every point and list what is to be run; train nothing.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@json_option
@plugin_options
def command(
    scenario: Path,
    axes: tuple[str, ...],
    count: int | None,
    seeds: tuple[int, ...],
    workers: int | None,
    head: str | None,
    cpus: int | None,
    gpus: float | None,
    device: str | None,
    limit_batches: int | None,
    tracking: str | None,
    tracking_uri: str | None,
    metrics: tuple[str, ...],
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    plugins_dirs: tuple[Path, ...],
    disabled: tuple[str, ...],
) -> int:
    """Run a SCENARIO at every combination of settings and each seed, and compare the results.

    clkd sweep s.yaml --set train.optimizer.lr=0.1,0.03 --set memory.size=200,500 --seed 0 1 2 --workers 2

    Each run is a `clkd run` of its own. What ./runs holds already is not run again, and what was stopped goes on where
    it stopped: after an interruption, give the same command again. Exit code 1: a run failed; the others are made all
    the same.

    With --cluster ray, they are made on the machines of a Ray cluster, which must share this folder.
    """
    registry = plugins_from(plugins_dirs, disabled).registry
    varied = read_axes(axes)
    wanted = points(scenario, drawn(varied, count) if count else grid(varied), seeds, registry)
    options = {"--device": device, "--tracking": tracking, "--tracking-uri": tracking_uri}
    passed = [word for option, value in options.items() if value is not None for word in (option, value)]
    passed += [word for place in plugins_dirs for word in ("--plugins-dir", str(place))]
    passed += [word for name in disabled for word in ("-p", f"no:{name}")]
    sweep = _Sweep(wanted, passed, limit_batches, quiet)
    if dry_run:
        sweep.preview(as_json)
        return 0
    if missing := sweep.missing():
        at_once = min(workers or (len(missing) if head else 1), len(missing))
        with _place(head, at_once, cpus, gpus) as (start, machines):
            check_store(wanted, tracking, tracking_uri, machines)
            sweep.run(missing, start, at_once)
    sweep.conclude(metrics, as_json)
    return int(bool(sweep.failed))


@dataclass(slots=True)
class _Sweep:
    """The points on their way.

    Attributes:
        passed: options that every run is given.
        known: the run of each point that has one.
        failed: by the point's place, the last line that its run said.
        lost: the places of those whose machine did not answer any more.
    """

    points: Sequence[Point]
    passed: Sequence[str]
    limit_batches: int | None
    quiet: bool
    known: dict[int, Summary] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)

    def look(self) -> list[int]:
        """Find the runs that are there; returns the places of the points that have no finished one."""
        here = [run for run in all_runs(cache_directory()) if run.path.is_relative_to(Path.cwd())]
        runs = ((i, found(point, here, self.limit_batches)) for i, point in enumerate(self.points))
        self.known = {i: run for i, run in runs if run is not None}
        return [i for i in range(len(self.points)) if i not in self.known or self.known[i].status != ENDED]

    def preview(self, as_json: bool) -> None:
        missing = self.look()
        todo = {i: "goes on" if i in self.known else "to be run" for i in missing}
        if as_json:
            print_json([{**_about(point), "state": todo.get(i, ENDED)} for i, point in enumerate(self.points)])
        else:
            print_table(
                ("GROUP", "RUN", "STATE"), [(p.group, p.label, todo.get(i, ENDED)) for i, p in enumerate(self.points)]
            )

    def missing(self) -> list[int]:
        """The places of the points that are still to be run; says how many are not."""
        missing = self.look()
        if len(missing) < len(self.points):
            self._tell(f"{len(self.points) - len(missing)} of {len(self.points)} runs are there already")
        stand_ins = [run for run in self.known.values() if run.status == ENDED and run.stand_in]
        if stand_ins:
            click.echo(
                f"finished runs that were made on {stand_ins[0].data}: {len(stand_ins)}; delete them to have them made "
                f"anew ({os.path.relpath(stand_ins[0].path)}, …)",
                err=True,
            )
        return missing

    def run(self, places: Sequence[int], start: Start, workers: int) -> None:
        """Those whose machine was lost go on when all others are made, on another one."""
        for _ in range(1 + AGAIN):
            self.lost.clear()
            self._run_once(places, start, workers)
            if not self.lost:
                return
            places = self._left(self.lost)

    def _left(self, lost: Sequence[int]) -> list[int]:
        """Those that are to be gone on with, once nobody else is at them: a run may outlive what Ray hears of it."""
        for run in (self.known[i] for i in self.look() if i in lost and i in self.known):
            with alone(run.path / LOCK, "going on with it elsewhere"):
                pass
        missing = self.look()
        self.failed = {i: why for i, why in self.failed.items() if i in missing}
        return [i for i in lost if i in missing]

    def _run_once(self, places: Sequence[int], start: Start, workers: int) -> None:
        started, done = time.perf_counter(), 0

        def told(index: int, ended: Ended) -> None:
            nonlocal done
            done += 1
            left = time_left(time.perf_counter() - started, done, len(places))
            i = places[index]
            self._tell(f"[{done}/{len(places)}] {self.points[i].label}: {self._outcome(i, ended)}{left}")

        run_all([self._words(i) for i in places], start, workers, told)

    def _words(self, i: int) -> list[str]:
        """The run's, after `python -m`."""
        point, begun = self.points[i], self.known.get(i)
        start = ["clkd", "run", "-q", "--json", *self.passed]
        if begun is not None:
            return [*start, "--resume", str(begun.path)]
        settings = [word for each in (*point.settings, point.tags) for word in ("--set", each)]
        limit = ["--limit-batches", str(self.limit_batches)] if self.limit_batches else []
        return [*start, str(point.scenario), *settings, "--seed", str(point.seed), *limit]

    def _outcome(self, i: int, ended: Ended) -> str:
        place = f" on {ended.where}" if ended.where else ""
        self.failed.pop(i, None)
        if ended.code == 0:
            self._warn(ended.err)
            metrics = json.loads(ended.out)["metrics"]
            return f"average accuracy {percent(metrics.get('average_accuracy'))} % in {ended.seconds:.0f} s{place}"
        lines = ended.err.strip().splitlines()
        self.failed[i] = (lines[-1].removeprefix("clkd: ") if lines else f"exit code {ended.code}") + place
        if ended.lost:
            self.lost.append(i)
            return f"LOST: {self.failed[i]}"
        self._warn(ended.err)
        return f"FAILED: {self.failed[i]}"

    def _warn(self, said: str) -> None:
        """What runs say although they are quiet; once, since most say the same."""
        for line in said.splitlines():
            if line not in self._said:
                self._said.add(line)
                click.echo(line, err=True)

    def _tell(self, line: str) -> None:
        if not self.quiet:
            click.echo(line, err=True)

    def conclude(self, metrics: Sequence[str], as_json: bool) -> None:
        """The table of all that is finished, and how to get it again."""
        self.look()
        finished = [run for run in self.known.values() if run.status == ENDED]
        if not finished:
            raise ClkdError(f"none of the {len(self.points)} runs has finished")
        groups, notes = grouped(finished)
        comparison = compare(groups, metrics, None, [*notes, *self._failures()])
        if as_json:
            print_json({"points": self._points(), **text.as_data(comparison)})
            return
        _print(comparison)
        names = dict.fromkeys(group.name for group in groups)
        self._tell(f"again, with other columns or formats: {shlex.join(['clkd', 'compare', *names])}")

    def _failures(self) -> list[str]:
        return [f"FAILED: {self.points[i].label}: {why}" for i, why in self.failed.items()]

    def _points(self) -> list[dict[str, Any]]:
        runs = [self.known.get(i) for i in range(len(self.points))]
        return [
            {**_about(point), "run": str(run.path) if run else None, "error": self.failed.get(i)}
            for i, (point, run) in enumerate(zip(self.points, runs, strict=True))
        ]


def _about(point: Point) -> dict[str, Any]:
    return {"group": point.group, "settings": list(point.settings), "seed": point.seed}


def _print(comparison: Comparison) -> None:
    print_table(*text.rows(comparison))
    for note in text.told(comparison):
        click.echo(note, err=True)
