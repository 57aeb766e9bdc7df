"""One execution from request to result: compose, train, record, and end well whatever happens."""

from __future__ import annotations

import copy
import gc
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from clkd.cache import cache_directory
from clkd.engine.allocator import keep_freed_memory
from clkd.engine.bar import Bar
from clkd.engine.compose import Composer, Composition
from clkd.engine.describe import describe, facts
from clkd.engine.device import choose_device
from clkd.engine.directory import RunDirectory
from clkd.engine.export import Exporter
from clkd.engine.fork import take_over
from clkd.engine.guard import NonFiniteError
from clkd.engine.job import Job, open_job
from clkd.engine.loop import Loop, is_check
from clkd.engine.phases import Phases
from clkd.engine.planned import planned_steps
from clkd.engine.provenance import fitting
from clkd.engine.report import Reporter
from clkd.engine.retrace import retrace
from clkd.engine.run import Carried, Outcome, Run
from clkd.engine.saver import Saver
from clkd.engine.scheduler import Scheduler
from clkd.engine.shift import ShiftWatch
from clkd.engine.state import gather, gather_within, go_back
from clkd.engine.stop import Stop
from clkd.engine.trackers import build_trackers
from clkd.errors import Interrupted, StorageError, TrackingError, UserError
from clkd.experience import Experience
from clkd.metrics.base import Record
from clkd.plugins import Plugins, plugin_manager
from clkd.ranks import Ranks, joined
from clkd.scenario.measures import ReportOptions, ShiftOptions
from clkd.scenario.request import RunRequest
from clkd.schedules.base import Progress
from clkd.tracking.group import Trackers
from clkd.tracking.points import carried_points, time_points
from clkd.tracking.result import build_result

log = logging.getLogger("clkd.engine")


def execute(request: RunRequest, plugins: Plugins) -> dict[str, Any]:
    """Do what was asked for and return its result (`clkd.tracking.result.build_result`).

    Started by torchrun, all processes train together; the first one writes, and it alone returns more than `{}`.

    Raises:
        UserError: something in the scenario, the data or the request is wrong; nothing was trained.
        Interrupted: Ctrl-C or SIGTERM came; the run is saved where it stopped, and recorded.
        ClkdError: the run failed for a reason that clkd can name.
    """
    with joined() as ranks:
        return _execute(request if ranks.first else replace(request, quiet=True), plugins, ranks)


def make_room() -> None:
    """Give back what earlier runs in this process took: for whoever makes several, before each.

    A run's parts refer to each other and hold all its data. That nobody needs them any more Python finds out when it
    looks for such rings, which is seldom, since they are few objects however large they are.
    """
    gc.collect()


def _execute(request: RunRequest, plugins: Plugins, ranks: Ranks) -> dict[str, Any]:
    cache = cache_directory()
    started = time.perf_counter()
    keep_freed_memory()
    stop = Stop()
    with open_job(request, plugins.registry, cache, ranks) as job, stop.listening(), _tidy(job, ranks):
        plugins.manager.hook.clkd_configure(scenario=job.scenario, registry=plugins.registry)
        device = choose_device(job.scenario.device, ranks)
        bar = Bar(request.quiet, "teacher")
        composer = Composer(job.scenario, plugins.registry, device, cache, job.base, bar, ranks, job.past, job.kept)
        composed = composer.compose(teach=not request.dry_run)
        if request.dry_run:
            return _preview(job, composed) if ranks.first else {}
        assert job.directory is not None, "only a dry run has none"
        execution = _Execution(request, plugins, job, composer, composed, started, stop, ranks)
        with stop.held():
            return execution.run_to_end()


class _Execution:
    """A composed run on its way to its end."""

    def __init__(
        self,
        request: RunRequest,
        plugins: Plugins,
        job: Job,
        composer: Composer,
        composed: Composition,
        started: float,
        stop: Stop,
        ranks: Ranks,
    ) -> None:
        assert job.directory is not None, "only a dry run has none"
        self.stop, self.bar, self.ranks = stop, Bar(request.quiet), ranks
        self.directory: RunDirectory = job.directory
        self.job, self.composer, self.composed, self.started = job, composer, composed, started
        # The other ranks' moments are told to nobody.
        self.hook = (plugins.manager if ranks.first else plugin_manager()).hook
        self.make_run = partial(_make_run, job, composed, request.command, composer.device, plugins)
        self.run = self.make_run()
        self.run.planned = planned_steps(
            job.scenario.train, composed.stream[: request.limit_experiences], job.limit_batches
        )
        self.trackers = build_trackers(job.scenario, plugins.registry, request.quiet) if ranks.first else Trackers(())
        self.loop = Loop(
            composed.parts,
            job.scenario.train,
            job.scenario.seed,
            job.limit_batches,
            on_epoch=self._on_epoch,
            on_step=self._on_step,
            ranks=ranks,
            online=job.scenario.stream.online,
        )
        self.phases = Phases(job.scenario.phases, self.loop, self.run)
        self.saver = Saver(self.directory, job.scenario.checkpoint, ranks)
        if job.fork:
            with fitting():
                take_over(job.fork, job.fork.scenario(plugins.registry), self.run, composed, self.loop)
        elif job.saved:
            self.saver.last = job.saved.path
            with fitting():
                self.saver.entry = go_back(job.saved, self.run, composed.parts, self.loop)
        if self.run.origin:
            carried = range(min(self.run.origin["experience"] + 1, self.run.record.trained))
            self.run.carried = [self._carried(composed.stream[i]) for i in carried]
        if job.fork:  # what the origin took is known of all its experiences together, and only before own ones come
            self.run.carried[-1].points.update(time_points(self.run.seconds))
        self.before = {purpose: self.run.seconds.get(purpose, 0.0) for purpose in ("total", "tracking")}
        self.scheduler = self._scheduler(request.limit_experiences)
        self.noted: dict[str, Any] | None = None
        if ranks.first:
            told = {"stream": composed.material.facts, "teachers": self._keep_teachers()}
            self.directory.update(**told, status=None, error=None)  # how an earlier process ended is not how it ends

    def _carried(self, experience: Experience) -> Carried:
        points = carried_points(self.run.record, experience.index, self.composed.metrics)
        return Carried(experience.name, experience.classes, points)

    def run_to_end(self) -> dict[str, Any]:
        outcome = Outcome("failed", hurried=lambda: self.stop.asked is not None)
        try:
            self.trackers.start(self.run)
            self.hook.clkd_run_start(run=self.run)
            if self.job.fork:
                self._save()  # its own copy: the origin may go
            outcome.status = "finished" if self.scheduler.go() else "stopped"
        except Interrupted as stop:
            outcome.status, outcome.error = "killed", str(stop)
            raise
        except NonFiniteError as seen:
            error = self._retraced(seen)
            outcome.error = str(error)
            if error is seen:
                raise
            raise error from seen
        except BaseException as error:
            outcome.error = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._conclude(outcome)
            if outcome.status == "killed":
                self.ranks.highest(0)  # who leaves early has torchrun end the others, and the first is still writing
        return outcome.result

    def _retraced(self, seen: NonFiniteError) -> NonFiniteError:
        """Alone, the step that broke the run is found; several, and those who skip such steps, have saved the last.

        Where the search itself fails, what was seen is still what broke the run.
        """
        if not self.ranks.alone or self.job.scenario.train.on_nan == "skip":
            return seen
        log.warning("%s; going back to find the step", seen)
        try:
            self._count_time()
            run, composed = self.make_run(), self.composer.compose()
            return retrace(seen, self.run, composed, run, self.job, self.saver, self.stop)
        except Exception as failed:
            log.warning("the step was not found: %s: %s", type(failed).__name__, failed)
            seen.__cause__ = failed
            return seen

    def _scheduler(self, limit: int | None) -> Scheduler:
        self.composed.parts.look = self._look
        return Scheduler(
            run=self.run,
            stream=self.composed.stream,
            parts=self.composed.parts,
            loop=self.loop,
            phases=self.phases,
            metrics=self.composed.metrics,
            trackers=self.trackers,
            hook=self.hook,
            save=self._save,
            limit=limit,
            look=self._look,
            count=self._count_time,
            reporter=self._reporter(),
            watch=self._watch(),
            export=self._exporter(),
        )

    def _reporter(self) -> Reporter | None:
        scenario, stream, options = self.job.scenario, self.composed.stream, self.job.scenario.report
        if not isinstance(options, ReportOptions):
            return None
        return Reporter(
            parts=self.composed.parts,
            options=options,
            seed=scenario.seed,
            batch_size=scenario.train.eval_batch_size,
            class_names=tuple(stream.class_names),
            task_labels=stream.task_labels,
            ranks=self.ranks,
        )

    def _watch(self) -> ShiftWatch | None:
        scenario, options = self.job.scenario, self.job.scenario.shift
        return ShiftWatch(self.composed.parts, options, scenario.seed) if isinstance(options, ShiftOptions) else None

    def _exporter(self) -> Exporter | None:
        when, parts = self.job.scenario.tracking.log_model, self.composed.parts
        if when == "none" or not self.ranks.first:
            return None
        return Exporter(self.run, parts.student, parts.augment, self.composed.stream.class_names, when)

    def _on_step(self, progress: Progress) -> None:
        """Between two steps, everything is where the next one finds it: a run is saved and stops here."""
        self.bar(progress)
        every = self.loop.options.evaluate_every
        if every and self.loop.phase is None and progress.step % every == 0:
            self.scheduler.evaluate_within()
        looks = self.ranks.alone or is_check(progress)
        asked = self.loop.now.broke() or (self.stop.heard(self.ranks) if looks else None)
        if asked or self.saver.due(progress.step, looks):
            self._save_within()
        if asked:
            raise asked

    def _look(self) -> None:
        """Where nothing is trained, nothing is lost; a trained experience that is being evaluated is saved as such."""
        if self.ranks.alone and (asked := self.stop.heard()):
            if self.run.unevaluated:
                self._count_time()
                self.saver.step(gather(self.run, self.composed.parts, self.loop))
            raise asked

    def _on_epoch(self, experience: Experience, metrics: dict[str, float]) -> None:
        now = self.loop.now
        self.run.step, self.run.epochs = now.progress.step, now.progress.epochs
        self.run.epoch = now.first + now.progress.epoch + 1
        self.trackers.epoch(self.run, experience, metrics)
        self._note_tracking()
        self.hook.clkd_epoch_end(run=self.run, experience=experience, metrics=metrics)

    def _keep_teachers(self) -> dict[str, Any]:
        """Whatever happens to what they were made of, the run can go on; returns what each of them was."""
        kept = {name: each.keep(self.directory.teachers) for name, each in self.composed.parts.teachers.items()}
        return {name: about for name, about in kept.items() if about is not None}

    def _note_tracking(self) -> None:
        """What trackers found out: so that a resumed run finds its MLflow run again."""
        if self.ranks.first and self.noted != self.run.tracking:
            self.noted = copy.deepcopy(self.run.tracking)
            self.directory.update(tracking=self.noted)

    def _save(self) -> None:
        self._note_tracking()
        self._count_time()
        self.saver.end(self.run.record.trained - 1, gather(self.run, self.composed.parts, self.loop))

    def _save_within(self) -> None:
        self._note_tracking()
        self._count_time()
        self.saver.step(gather_within(self.run, self.composed.parts, self.loop, self.saver.entry))

    def _count_time(self) -> None:
        self.scheduler.count_time()
        self.run.seconds["total"] = self.before["total"] + time.perf_counter() - self.started
        self.run.seconds["tracking"] = self.before["tracking"] + self.trackers.total

    def _conclude(self, outcome: Outcome) -> None:
        """However it ended: the result is written, trackers and plugins are told."""
        if self.composed.parts.cache:
            self.composed.parts.cache.release()
        if not self.ranks.first:
            return
        self._count_time()
        values = {name: metric(self.run.record) for name, metric in self.composed.metrics.items()}
        aware = Record.from_state({**self.run.record.state_dict(), "task_labels": True})
        if "average_accuracy" in self.composed.metrics:
            values["average_accuracy_task_aware"] = self.composed.metrics["average_accuracy"](aware)
        outcome.result = build_result(self.run, outcome.status, values, self.saver.last, self.scheduler.compute())
        unwritten = _tried(partial(self._write_down, outcome))
        self.trackers.end(self.run, outcome)
        unwritten = _tried(self._note_tracking) or unwritten
        self.hook.clkd_run_end(run=self.run, outcome=outcome)
        if unwritten and outcome.error is None:
            raise unwritten

    def _write_down(self, outcome: Outcome) -> None:
        self.directory.write("result.json", json.dumps(outcome.result, indent=2))
        self.directory.update(status=outcome.status, error=outcome.error)


def _tried(write: Callable[[], None]) -> StorageError | None:
    """What the run's directory says of its end. A full disk is told, but must not hide why a run failed."""
    try:
        write()
    except StorageError as error:
        log.error("%s", error)
        return error
    return None


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
        origin=job.origin,
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


@contextmanager
def _tidy(job: Job, ranks: Ranks) -> Iterator[None]:
    """A mistake that is found before training leaves no directory behind."""
    try:
        yield
    except (UserError, TrackingError):
        if ranks.first and job.directory is not None and not job.resumed and not job.directory.checkpoints.exists():
            job.directory.discard()
        raise
