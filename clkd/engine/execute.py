"""One execution from request to result: compose, train, record, and end well whatever happens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from clkd import checkpoint
from clkd.cache import cache_directory
from clkd.engine.bar import Bar
from clkd.engine.compose import Composer, Composition
from clkd.engine.describe import describe, facts
from clkd.engine.directory import RunDirectory
from clkd.engine.job import Job, open_job
from clkd.engine.loop import Loop
from clkd.engine.run import Outcome, Run
from clkd.engine.scheduler import Scheduler
from clkd.engine.state import gather, restore
from clkd.engine.stop import Stop
from clkd.engine.trackers import build_trackers
from clkd.errors import Interrupted, UserError
from clkd.experience import Experience
from clkd.metrics.base import Record
from clkd.plugins import Plugins
from clkd.scenario.request import RunRequest
from clkd.schedules.base import Progress
from clkd.tracking.result import build_result


def execute(request: RunRequest, plugins: Plugins) -> dict[str, Any]:
    """Do what was asked for and return its result (`clkd.tracking.result.build_result`).

    Raises:
        UserError: something in the scenario, the data or the request is wrong; nothing was trained.
        Interrupted: Ctrl-C or SIGTERM came; finished experiences are saved and recorded.
        ClkdError: the run failed for a reason that clkd can name.
    """
    cache = cache_directory()
    job = open_job(request, plugins.registry, cache)
    started = time.perf_counter()
    stop = Stop()
    with stop.listening(), _tidy(job):
        plugins.manager.hook.clkd_configure(scenario=job.scenario, registry=plugins.registry)
        device = _device(job.scenario.device)
        fitting = Bar(request.quiet, "teacher")
        composer = Composer(job.scenario, plugins.registry, device, cache, job.base, on_step=fitting)
        composed = composer.compose(teach=not request.dry_run)
        if request.dry_run:
            return _preview(job, composed)
        execution = _Execution(request, plugins, job, composed, device, started, stop)
        with stop.held():
            return execution.run_to_end()


class _Execution:
    """A composed run on its way to its end."""

    def __init__(
        self,
        request: RunRequest,
        plugins: Plugins,
        job: Job,
        composed: Composition,
        device: torch.device,
        started: float,
        stop: Stop,
    ) -> None:
        assert job.directory is not None, "only a dry run has none"
        self.stop, self.bar = stop, Bar(request.quiet)
        self.directory: RunDirectory = job.directory
        self.composed, self.hook, self.started = composed, plugins.manager.hook, started
        self.run = _make_run(job, composed, request.command, device, plugins)
        self.trackers = build_trackers(job.scenario, plugins.registry, request.quiet)
        self.loop = Loop(
            composed.parts,
            job.scenario.train,
            job.scenario.seed,
            job.limit_batches,
            on_epoch=self._on_epoch,
            on_step=self._on_step,
        )
        if job.state:
            restore(job.state, self.run, composed.parts, self.loop)
        self.before = self.run.seconds.get("total", 0.0)
        self.limit = request.limit_experiences
        self.last = checkpoint.latest(self.directory.checkpoints)

    def run_to_end(self) -> dict[str, Any]:
        outcome = Outcome("failed")
        try:
            self.trackers.start(self.run)
            self.directory.update(tracking=self.run.tracking)  # so that a resumed run finds its MLflow run again
            self.hook.clkd_run_start(run=self.run)
            outcome.status = "finished" if self._scheduler().go() else "stopped"
        except Interrupted as stop:
            outcome.status, outcome.error = "killed", str(stop)
            raise
        except BaseException as error:
            outcome.error = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._conclude(outcome)
        return outcome.result

    def _scheduler(self) -> Scheduler:
        return Scheduler(
            run=self.run,
            stream=self.composed.stream,
            parts=self.composed.parts,
            loop=self.loop,
            metrics=self.composed.metrics,
            trackers=self.trackers,
            hook=self.hook,
            save=self._save,
            limit=self.limit,
        )

    def _on_step(self, progress: Progress) -> None:
        self.bar(progress)
        self.stop.check()

    def _on_epoch(self, experience: Experience, metrics: dict[str, float]) -> None:
        self.run.step, self.run.epochs = self.loop.progress.step, self.loop.progress.epochs
        self.trackers.epoch(self.run, experience, metrics)
        self.hook.clkd_epoch_end(run=self.run, experience=experience, metrics=metrics)

    def _save(self) -> None:
        self._count_time()
        state = gather(self.run, self.composed.parts, self.loop)
        name = f"exp_{self.run.record.trained - 1:03d}"
        self.last = checkpoint.save(self.directory.checkpoints, name, state)

    def _count_time(self) -> None:
        self.run.seconds["total"] = self.before + time.perf_counter() - self.started
        self.run.seconds["tracking"] = self.trackers.total

    def _conclude(self, outcome: Outcome) -> None:
        """However it ended: the result is written, trackers and plugins are told."""
        if self.composed.parts.cache:
            self.composed.parts.cache.release()
        self._count_time()
        values = {name: metric(self.run.record) for name, metric in self.composed.metrics.items()}
        aware = Record.from_state({**self.run.record.state_dict(), "task_labels": True})
        if "average_accuracy" in self.composed.metrics:
            values["average_accuracy_task_aware"] = self.composed.metrics["average_accuracy"](aware)
        outcome.result = build_result(self.run, outcome.status, values, self.last)
        self.directory.write("result.json", json.dumps(outcome.result, indent=2))
        self.directory.update(status=outcome.status, error=outcome.error)
        self.trackers.end(self.run, outcome)
        self.hook.clkd_run_end(run=self.run, outcome=outcome)


def _make_run(job: Job, composed: Composition, command: str, device: torch.device, plugins: Plugins) -> Run:
    assert job.directory is not None, "only a dry run has none"
    numbers = facts(composed)
    stream = composed.stream
    return Run(
        id=job.run_id,
        directory=job.directory.path,
        scenario=job.scenario,
        source=job.source,
        command=command,
        seed=job.scenario.seed,
        device=str(device),
        dataset=composed.store.requested,
        stand_in=composed.store.stand_in,
        description=describe(job.scenario, composed, numbers),
        facts=numbers,
        record=Record.empty(len(stream), stream.task_labels),
        resumed=job.resumed,
        tracking=job.tracking,
        plugins=[f"{plugin.name}=={plugin.version or plugin.origin}" for plugin in plugins.guests()],
    )


def _preview(job: Job, composed: Composition) -> dict[str, Any]:
    """What a dry run tells: the stream and everybody in it."""
    return {
        "scenario": job.scenario.name,
        "status": "dry run",
        "description": describe(job.scenario, composed, facts(composed)),
        "stream": composed.stream.describe(),
    }


def _device(wanted: str) -> torch.device:
    """`auto` is the first GPU, if there is one."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device: {wanted} is not there ({torch.cuda.device_count()} CUDA devices found): use cpu or auto"
        )
    return device


@contextmanager
def _tidy(job: Job) -> Iterator[None]:
    """A mistake that is found before training leaves no directory behind."""
    try:
        yield
    except UserError:
        if job.directory is not None and not job.resumed and not job.directory.checkpoints.exists():
            job.directory.discard()
        raise
