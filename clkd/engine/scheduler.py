"""The scheduler: streams experiences through the student, and evaluates, records and saves after each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pluggy
import torch

from clkd.engine.evaluate import evaluate, known_experiences
from clkd.engine.export import Exporter
from clkd.engine.loop import Loop
from clkd.engine.material import digest
from clkd.engine.parts import Hygiene, Parts
from clkd.engine.phases import Phases
from clkd.engine.report import Reporter
from clkd.engine.run import Run
from clkd.engine.shift import ShiftWatch, told
from clkd.engine.warped import Warped
from clkd.experience import Experience
from clkd.metrics.base import Metric
from clkd.models.cost import parameter_count
from clkd.models.student import Student
from clkd.seeding import forked
from clkd.streams.base import Stream
from clkd.tracking import confusions, models, reports, shifts
from clkd.tracking.group import Trackers


@dataclass(slots=True)
class Scheduler:
    """Runs a stream from where `run.record` stands to its end, or to `limit` experiences."""

    run: Run
    stream: Stream
    parts: Parts
    loop: Loop
    phases: Phases
    metrics: dict[str, Metric]
    trackers: Trackers
    hook: pluggy.HookRelay
    save: Callable[[], None]
    limit: int | None = None
    look: Callable[[], None] = lambda: None
    """Called often while nothing is trained: may stop the run."""
    count: Callable[[], None] = lambda: None
    """Brings all of `run.seconds` up to now."""
    reporter: Reporter | None = None
    watch: ShiftWatch | None = None
    export: Exporter | None = None
    warped: Warped = field(default_factory=Warped)
    _since: dict[str, float] = field(default_factory=dict)

    def go(self) -> bool:
        """Train what is left of the stream. True when its end was reached."""
        end = min(len(self.stream), self.limit or len(self.stream))
        if self.export and self.run.record.trained == len(self.stream):  # asked for only now, or it failed before
            self._export_missing()
        for experience in self.stream[self.run.record.trained : end]:
            self.look()
            if not self.run.unevaluated:
                self.hook.clkd_experience_start(run=self.run, experience=experience)
                self._train(experience)
            result = self._evaluate(experience)
            if self.export:
                with self._timed("export"):
                    self.export(experience)
            self.count()
            with self._timed("tracking"):
                self.trackers.experience(self.run, experience, result)
            self.run.epoch, self.run.unevaluated, self.run.report, self.run.shift = 0, False, None, None
            self.hook.clkd_experience_end(run=self.run, experience=experience, result=result)
            self.save()
        return self.run.record.trained == len(self.stream)

    def _export_missing(self) -> None:
        """Of a finished run that is gone on with, the student as it is."""
        last = self.stream[len(self.stream) - 1]
        if self.export and last.index not in models.folders(self.run.directory):
            with self._timed("export"):
                self.export(last)

    def _train(self, experience: Experience) -> None:
        experience = self.parts.cut(experience)
        if self.reporter:
            with self._timed("report"):
                self.reporter.begin(self._tests(experience))
        if self.watch:
            with self._timed("report"):
                drift = self.watch.begin([*self.stream[: experience.index], experience])
            if drift is not None:
                self.trackers.arrival(self.run, experience, drift)
        with self._timed("teachers"):
            replaced = self.parts.begin(experience, self.run.seed)
        if experience.index == 0 and self.loop.arrive is None:
            self._baseline()
        hygiene = Hygiene({name: t for name, t in self.parts.teachers.items() if t.frozen})
        with self._timed("train"):
            self.phases.train(experience, replaced)
        hygiene.check()
        with self._timed("teachers"), self.parts.undisturbed():
            self.parts.end_student(experience)
        if self.reporter:
            with self._timed("report"):
                self.run.report = self.reporter.end(self._tests(experience))
        if self.watch:
            with self._timed("report"):
                self.run.shift = self.watch.end([*self.stream[: experience.index], experience])
        with self._timed("teachers"):
            self.parts.end_teachers(experience)
        self.parts.compare(self.loop.ranks)
        self.run.rows, self.run.step = self.loop.rows, self.loop.progress.step
        self.run.unevaluated = True

    def _tests(self, experience: Experience) -> list[Experience]:
        """All experiences up to this one, their test rows in their domain's guise."""
        return [self.warped(each, "test", self.parts.device) for each in self.stream[: experience.index + 1]]

    def _baseline(self) -> None:
        """What an untrained student scores: forward transfer is measured against it."""
        known = known_experiences(self.parts.student, self.stream)
        for experience, share in zip(known, self._scores(known), strict=True):
            self.run.record.baseline[experience.index] = share

    def _evaluate(self, experience: Experience) -> dict[str, Any]:
        """Fill this experience's row of the matrices, and the next one's entry if the head can answer it at all.

        Whatever stops it has filled nothing.
        """
        record, i = self.run.record, experience.index
        seen = self.stream[: i + 1]
        accuracy, aware, confusion = self._pass(seen)
        coming = known_experiences(self.parts.student, self.stream[i + 1 : i + 2])
        if coming:
            ahead, ahead_aware, _ = self._pass(coming)
            accuracy, aware = accuracy + ahead, aware + ahead_aware
        validation, peers = self._validation(experience), self._peers(seen)
        record.class_incremental[i][: len(accuracy)] = accuracy
        record.task_aware[i][: len(aware)] = aware
        record.confusion = confusion
        record.trained = i + 1
        if validation:
            record.validation.append([validation.get(j, math.nan) for j in range(i + 1)])
        self.loop.progress.forgetting = record.validated_forgetting
        return self._result(experience, validation, peers)

    def _peers(self, seen: Sequence[Experience]) -> dict[str, float]:
        """Accuracy of each peer on each experience so far, and its mean, as trackers log them."""
        told: dict[str, float] = {}
        for name, peer in self.parts.peers.items():
            shares = self._scores(seen, student=peer)
            told[f"peers/{name}/average_accuracy"] = sum(shares) / len(shares)
            told |= {f"peers/{name}/exp_{e.index:02d}": share for e, share in zip(seen, shares, strict=True)}
        return {name: share for name, share in told.items() if not math.isnan(share)}

    def evaluate_within(self) -> None:
        """Between two steps of an experience: what the student scores by now. Training goes on as if nobody had looked.

        Nothing stops it halfway: a signal is obeyed when it is over, and a checkpoint has it whole.
        """
        run, student, device = self.run, self.parts.student, self.parts.device
        experience = self.stream[self.loop.progress.experience]
        run.step = self.loop.progress.step
        with self._paused("train"), _aside(student, device):
            scores = self._scores(self.stream[: experience.index + 1], look=lambda: None)
        shares = [share for share in scores if not math.isnan(share)]
        if not shares:
            return
        average = sum(shares) / len(shares)
        run.record.anytime.append([experience.index, run.step, average])
        self.trackers.evaluation(run, experience, {"anytime/average_accuracy": average})

    def _validation(self, experience: Experience) -> dict[int, float]:
        """Accuracy on rows held out of training, by experience: what may be selected on, since test rows may not."""
        held = [e for e in self.stream[: experience.index + 1] if len(e.validation)]
        if not held:
            return {}
        return dict(zip((e.index for e in held), self._scores(held, "validation"), strict=True))

    def _scores(
        self,
        experiences: Sequence[Experience],
        split: Literal["test", "validation"] = "test",
        student: Student | None = None,
        look: Callable[[], None] | None = None,
    ) -> list[float]:
        """Accuracy on each, of the kind that this stream reports."""
        accuracy, aware, _ = self._pass(experiences, split, student, look)
        return aware if self.run.record.task_labels else accuracy

    def _pass(
        self,
        experiences: Sequence[Experience],
        split: Literal["test", "validation"] = "test",
        student: Student | None = None,
        look: Callable[[], None] | None = None,
    ) -> tuple[list[float], list[float], list[list[int]]]:
        if not experiences:
            return [], [], []
        loop, parts, classes = self.loop, self.parts, len(self.stream.class_names)
        size = loop.options.eval_batch_size
        with self._timed("evaluate"):
            ready = [self.warped(experience, split, parts.device) for experience in experiences]
            found = evaluate(
                student or parts.student,
                ready,
                parts.augment,
                size,
                classes,
                split,
                loop.ranks,
                look or self.look,
                self.run.record.task_labels,
            )
        confusion: list[list[int]] = found.confusion.tolist()
        return found.accuracy, found.task_aware, confusion

    def _result(self, experience: Experience, validation: dict[int, float], peers: dict[str, float]) -> dict[str, Any]:
        """What trackers and plugins are told about a finished experience."""
        record, report, shift = self.run.record, self.run.report, self.run.shift
        if shift:
            shift = told(shift, record, self.stream[: experience.index + 1])
        return {
            **({"report": report} if report else {}),
            **({"shift": shift} if shift else {}),
            "accuracy": record.class_incremental[experience.index],
            "accuracy_task_aware": record.task_aware[experience.index],
            "per_class": self._per_class(),
            "confusion": confusions.told(experience, self.stream.class_names, record.confusion),
            "classes": [self.stream.class_names[c] for c in experience.classes],
            "rows": {"train": len(experience.train), "test": len(experience.test)},
            "digest": digest(experience),
            "metrics": {f"stream/{name}": metric(record) for name, metric in self.metrics.items()}
            | ({"validation/average_accuracy": sum(validation.values()) / len(validation)} if validation else {})
            | (reports.points(report) if report else {})
            | (shifts.points(shift) if shift else {})
            | peers
            | self._resources(),
        }

    def _resources(self) -> dict[str, float]:
        """What the accuracy cost: memory, compute, speed."""
        memory, held_out = self.parts.memory, self.parts.held_out
        held = memory.histogram()
        nameless = held.pop(-1, 0)
        return {
            "memory/rows": len(memory),
            "memory/bytes": memory.nbytes(),
            "compute/training_macs": self.compute()["training_macs"],
            **({"memory/held_out_bytes": held_out.memory.nbytes()} if held_out else {}),
            **({"memory/unlabelled": nameless} if nameless else {}),
            **{f"memory_classes/{self.stream.class_names[c]}": rows for c, rows in held.items()},
            "speed/rows_per_second": self.run.rows / self.run.seconds["train"],
            **(self.parts.cache.metrics() if self.parts.cache else {}),
        }

    def compute(self) -> dict[str, float]:
        """What the student cost so far, beside time. A row of training is taken as three forward passes."""
        run, memory = self.run, self.parts.memory
        macs = run.facts["student_macs"]
        return {
            "parameters": parameter_count(self.parts.student),
            "macs_per_row": macs,
            "training_macs": 3 * macs * run.rows,
            "training_rows": run.rows,
            "steps": run.step,
            "memory_rows": len(memory),
            "memory_bytes": memory.nbytes(),
        }

    def _per_class(self) -> dict[str, float]:
        """Accuracy of each class that has test rows by now."""
        rows = enumerate(self.run.record.confusion)
        return {self.stream.class_names[c]: row[c] / sum(row) for c, row in rows if sum(row)}

    @contextmanager
    def _timed(self, purpose: str) -> Iterator[None]:
        self._since[purpose] = time.perf_counter()
        try:
            yield
        finally:
            self.count_time()
            del self._since[purpose]

    @contextmanager
    def _paused(self, purpose: str) -> Iterator[None]:
        """What happens within does not count as `purpose`."""
        self.count_time()
        timed = self._since.pop(purpose, None)
        try:
            yield
        finally:
            if timed is not None:
                self._since[purpose] = time.perf_counter()

    def count_time(self) -> None:
        """Bring `run.seconds` up to now, in the middle of what is being timed."""
        now = time.perf_counter()
        for purpose, since in self._since.items():
            self.run.seconds[purpose] = self.run.seconds.get(purpose, 0.0) + now - since
            self._since[purpose] = now


@contextmanager
def _aside(student: Student, device: torch.device) -> Iterator[None]:
    """Whatever is drawn within is not missed after it, and each module is in the mode that it was in."""
    modes = {module: module.training for module in student.modules()}
    with forked(device):
        yield
    for module, training in modes.items():
        module.training = training
