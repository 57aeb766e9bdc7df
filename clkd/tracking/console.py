"""The run as people watch it: everything on stderr, since stdout belongs to results."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from clkd.tracking import reports
from clkd.tracking.base import Tracker
from clkd.tracking.points import percent
from clkd.tracking.store import page, plain

if TYPE_CHECKING:
    from clkd.engine.run import Outcome, Run
    from clkd.experience import Experience

WIDTH = 8


def progress(total: int, desc: str, quiet: bool = False) -> tqdm[Any]:
    """A bar to be used as `with progress(steps, "experience 0 (1/5)") as bar: bar.update()`.

    It draws only where a person watches: on a terminal, outside CI and without `NO_COLOR`, since drawing needs
    control characters.
    """
    watched = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and not os.environ.get("CI")
    hidden = quiet or not watched
    return tqdm(total=total, desc=desc, disable=hidden, leave=False, dynamic_ncols=True, file=sys.stderr)


class ConsoleTracker(Tracker):
    """A line per epoch, the accuracy matrix per experience, a summary at the end. No colours, no escape codes."""

    name = "console"

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._epoch: tuple[tuple[int, str | None], int] = ((-1, None), 0)
        self._began = 0.0, 0

    def start(self, run: Run) -> None:
        self._began = time.monotonic(), run.step
        self._epoch = (run.record.trained, None), run.epoch
        if run.stand_in:
            _say(
                f"NOTE: {run.stand_in} stands in for {run.dataset}, which could not be had: take the numbers as a trial"
            )
        if self.quiet:
            return
        verb = "resumed" if run.resumed else "run"
        _say(f"{verb} {run.id}: {run.scenario.name}, seed {run.seed}, on {run.device}")
        if run.origin and not run.resumed:
            _say(f"  goes on from run {run.origin['run']} after experience {run.origin['experience']}")
        if run.resumed and run.record.trained == run.record.experiences:
            _say(f"  all of it is trained: to go on with more data: clkd extend {run.id} NEW_DATA")
        width = max(map(len, run.description), default=0)
        for name, text in run.description.items():
            _say(f"  {name:<{width}}  {text}")

    def epoch(self, run: Run, experience: Experience, metrics: dict[str, float]) -> None:
        last, count = self._epoch
        place = experience.index, run.phase
        epoch = count + 1 if last == place else 1
        self._epoch = (place, epoch)
        if not self.quiet:
            start = f"phase/{run.phase}/" if run.phase else "train/"
            shown = {name: value for name, value in metrics.items() if not name.startswith(f"{start}weighted_")}
            terms = "  ".join(
                f"{name.removeprefix(start).removeprefix('loss_')} {value:.4g}" for name, value in shown.items()
            )
            phase = f" phase {run.phase}" if run.phase else ""
            _say(f"{_place(experience)}{phase} epoch {epoch}/{run.epochs}  {terms}{self._left(run)}")

    def _left(self, run: Run) -> str:
        """How long it will take yet, if the steps to come take as long as this process's took, evaluation included."""
        since, step = self._began
        done, ahead = run.step - step, run.planned - run.step
        if run.phase or done <= 0 or ahead <= 0:
            return ""
        return f"  about {duration((time.monotonic() - since) / done * ahead)} left"

    def experience(self, run: Run, experience: Experience, result: dict[str, Any]) -> None:
        if self.quiet:
            return
        _say(f"{_place(experience)} accuracy in percent, after (rows) on (columns) experience:")
        _say(matrix_text(run.record.matrix, experience.index + 1))
        metrics = result.get("metrics", {})
        lines = reports.summary(result["report"]) if "report" in result else ()
        for line in (*peer_lines(metrics), *cache_lines(metrics), *lines):
            _say(line)

    def end(self, run: Run, outcome: Outcome) -> None:
        if self.quiet:
            return
        _say(f"{outcome.status}: {run.scenario.name} s{run.seed}, run {run.id}")
        if outcome.status == "failed" and run.step == 0:
            return  # there is nothing to look at, and perhaps no directory either
        for name, text in _summary(run, outcome):
            _say(f"  {name:<16}  {text}")


def matrix_text(matrix: list[list[float]], rows: int) -> str:
    """The first `rows` rows in percent; what was not trained yet is left blank.

    >>> print(matrix_text([[0.9, 0.1], [0.5, 0.8]], 2))
                 0       1
       0      90.0
       1      50.0    80.0
    """
    head = " " * 4 + "".join(f"{j:>{WIDTH}}" for j in range(rows))
    lines = [f"{i:>4}" + "".join(f"{percent(value):>{WIDTH}}" for value in matrix[i][: i + 1]) for i in range(rows)]
    return "\n".join([head, *lines])


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> [duration(seconds) for seconds in (0.2, 59.4, 100, 3590, 9000)]
    ['1 s', '59 s', '1 min 40 s', '59 min 50 s', '2 h 30 min']
    """
    whole = max(round(seconds), 1)
    minutes, rest = divmod(whole, 60)
    if whole < 60:
        return f"{whole} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def peer_lines(metrics: Mapping[str, float]) -> list[str]:
    """How well each peer of the student does on all experiences so far.

    >>> peer_lines({"peers/mate/average_accuracy": 0.5, "peers/mate/exp_00": 0.5})
    ['peer mate: 50.0 % on average']
    """
    found = ((re.fullmatch("peers/(.*)/average_accuracy", name), value) for name, value in metrics.items())
    return [f"peer {name[1]}: {percent(value)} % on average" for name, value in found if name]


def cache_lines(metrics: Mapping[str, float]) -> list[str]:
    """What the teacher cache did for each teacher in one experience.

    >>> told = {"hit_rate": 0.5, "rows_asked": 1200, "seconds_saved": 3.21, "bytes": 2e6}
    >>> cache_lines({f"teacher_cache/external/{name}": value for name, value in told.items()})
    ['teacher cache: external: 50.0 % hits, 1,200 rows asked, 3.2 s saved, 2.0 MB on disk']
    """
    heads = [name.removesuffix("/hit_rate") for name in metrics if re.fullmatch("teacher_cache/.*/hit_rate", name)]
    return [
        f"teacher cache: {head.removeprefix('teacher_cache/')}: {percent(metrics[f'{head}/hit_rate'])} % hits, "
        f"{metrics[f'{head}/rows_asked']:,.0f} rows asked, {metrics[f'{head}/seconds_saved']:.1f} s saved, "
        f"{metrics[f'{head}/bytes'] / 1e6:.1f} MB on disk"
        for head in heads
    ]


def _place(experience: Experience) -> str:
    """By its number, which counts from 0 as everywhere, and how far that is."""
    return f"experience {experience.index} ({experience.index + 1}/{experience.count}) {experience.name}"


SCORES = {"average accuracy": 1, "forgetting": 2}
"""How many experiences it takes for each to say something."""


def _summary(run: Run, outcome: Outcome) -> Iterator[tuple[str, str]]:
    """The next useful commands come last. Why a run failed is told by who called it."""
    metrics, seconds = outcome.result.get("metrics", {}), {**run.seconds, **outcome.result.get("seconds", {})}
    yield "directory", str(run.directory)
    for name, least in SCORES.items():
        if run.record.trained >= least:
            yield name, f"{percent(metrics.get(name.replace(' ', '_')))} %"
    yield "time", f"{seconds.get('total', 0):.1f} s, of which {seconds.get('tracking', 0):.1f} s in tracking"
    if compute := outcome.result.get("compute"):
        yield "cost", cost_text(compute)
    if outcome.status != "finished" and any((run.directory / "checkpoints").glob("*")):
        yield "go on with it", f"clkd run --resume {run.id}"
    yield "read about it", f"clkd report {run.id}"
    if "run_id" in (mlflow := run.tracking.get("mlflow", {})):
        yield "look at it", _hint(run, mlflow)


def cost_text(compute: Mapping[str, float]) -> str:
    """What the accuracy cost, for people.

    >>> cost_text({"parameters": 12345, "training_macs": 2.5e9, "memory_bytes": 40_000})
    '12,345 parameters, 2.5G multiply-accumulates of training, 40.0 kB of memory'
    >>> cost_text({"parameters": 12345, "training_macs": 2.5e6, "memory_bytes": 0})
    '12,345 parameters, 2.5M multiply-accumulates of training'
    """
    macs, held = compute["training_macs"], compute["memory_bytes"] / 1e3
    counted = f"{macs / 1e9:,.1f}G" if macs >= 1e8 else f"{macs / 1e6:,.1f}M"
    trained = f"{compute['parameters']:,.0f} parameters, {counted} multiply-accumulates of training"
    return f"{trained}, {held:,.1f} kB of memory" if held else trained


def _hint(run: Run, mlflow: dict[str, Any]) -> str:
    uri = mlflow["uri"]
    if uri.startswith("http"):
        return plain(uri).rstrip("/") + page(mlflow["experiment_id"], mlflow["run_id"])
    return f"clkd ui {run.id}"


def _say(text: str) -> None:
    """Print above a progress bar, if one is drawn."""
    tqdm.write(text, file=sys.stderr)
