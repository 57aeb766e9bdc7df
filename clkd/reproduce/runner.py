"""Making the runs of a table that are missing, one after another or in several processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from clkd import __version__
from clkd.disk import write_whole
from clkd.errors import ClkdError, UserError, writing
from clkd.plugins import Plugins, load_plugins
from clkd.reproduce.results import Place, Result
from clkd.reproduce.table import Row, Table
from clkd.scenario.load import load
from clkd.scenario.request import RunRequest
from clkd.scenario.resolve import config_sha

log = logging.getLogger("clkd.reproduce")

CHEAP = ("tracking.mode=off", "checkpoint.every_minutes=null", "checkpoint.keep=1")
"""What is set for every run, and changes no number."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run that is to be made."""

    scenario: Path
    settings: tuple[str, ...]
    metric: str
    row: str
    seed: int
    digest: str


Told = Callable[[Task, Result], None]


class Plan:
    """The runs that some rows of a table ask for, in a place where results are kept.

    Attributes:
        digests: what each row's scenario is known by: a hash of all of it that may change a number.
    """

    def __init__(self, table: Table, rows: Sequence[Row], seeds: int, place: Place) -> None:
        self.table, self.rows, self.seeds, self.place = table, rows, seeds, place
        self.scenario = place.home / "scenario.yaml"
        with tempfile.TemporaryDirectory(prefix="clkd-reproduce-") as home:  # who only looks writes nothing of theirs
            common = Path(home) / "scenario.yaml"
            common.write_text(table.text, encoding="utf-8")
            self.digests = {row.name: _digest(row, common) for row in rows}

    def write(self) -> None:
        """Put down what rows have in common, which their runs read."""
        if self.table.options.scenario is not None:
            with writing(self.scenario):
                self.place.home.mkdir(parents=True, exist_ok=True)
                write_whole(self.scenario, self.table.text)

    def missing(self) -> Iterator[Task]:
        """What has no result of this scenario and version, seed by seed. That others are made again is said."""
        for seed in range(self.seeds):
            for row in self.rows:
                known = self.place.read(row.name, seed)
                if known is not None and self._holds(row, known):
                    continue
                if known is not None:
                    log.info("%s, seed %d: its scenario or clkd has changed since it was run: again", row.name, seed)
                metric, sha = self.table.options.metric, self.digests[row.name]
                yield Task(row.scenario or self.scenario, row.settings, metric, row.name, seed, sha)

    def results(self, row: Row) -> list[Result]:
        """What is stored of a row, as far as it is of its present scenario."""
        found = [self.place.read(row.name, seed) for seed in range(self.seeds)]
        return [result for result in found if result is not None and self._holds(row, result)]

    def _holds(self, row: Row, known: Result) -> bool:
        return (known.digest, known.version) == (self.digests[row.name], __version__)


def _digest(row: Row, common: Path) -> str:
    """The hash of the scenario that a row changes: its own, or the one in `common`."""
    if row.scenario is not None and not row.scenario.is_file():
        raise UserError(f"{row.scenario} is not here: clkd's scenarios come with its source; use a checkout of it")
    return config_sha(load(row.scenario or common, [*row.settings, *CHEAP], plugins().registry).scenario)


def run_all(tasks: Sequence[Task], workers: int, told: Told) -> None:
    """Make the runs; `told` hears of each as it ends. What goes wrong stops them all."""
    if workers == 1:
        for task in tasks:
            told(task, run(task))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks) or 1), context, initializer=_alone) as pool:
        waiting = {pool.submit(run, task): task for task in tasks}
        try:
            for future in as_completed(waiting):
                told(waiting[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run(task: Task) -> Result:
    """One run, in this process; its directory is deleted once its result is known."""
    from clkd.engine.execute import execute, make_room  # loads torch

    make_room()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="clkd-reproduce-") as home:
        changes = (*task.settings, *CHEAP, f"output={Path(home) / 'run'}")
        try:
            told = execute(RunRequest(task.scenario, changes, task.seed, quiet=True), plugins())
        except ClkdError as error:
            error.within(f"{task.row}, seed {task.seed}")
            raise
    value = told["metrics"][task.metric]
    if value is None:
        raise ClkdError(f"{task.row}, seed {task.seed}: the run tells no {task.metric}")
    return Result(task.digest, __version__, task.seed, 100 * value, time.perf_counter() - started)


@cache
def plugins() -> Plugins:
    """Loaded once in each process."""
    return load_plugins()


def _alone() -> None:
    """Several processes share the processors: each takes one, and ends when whoever started it does."""
    import torch

    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """A worker that a killed parent leaves behind would go on, and then wait for more work for good."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "workers are children"
    parent.join()
    os._exit(1)
