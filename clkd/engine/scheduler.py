"""The scheduler: streams experiences through the student, and evaluates, records and saves after each."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pluggy

from clkd.engine.evaluate import evaluate, known_experiences
from clkd.engine.loop import Loop
from clkd.engine.parts import Hygiene, Parts
from clkd.engine.run import Run
from clkd.experience import Experience, Rows
from clkd.metrics.base import Metric
from clkd.streams.base import Stream
from clkd.tracking.group import Trackers

RESIDENT_LIMIT = 2**28
"""Bytes of warped rows that are kept at most from one evaluation to the next."""


@dataclass(slots=True)
class Scheduler:
    """Runs a stream from where `run.record` stands to its end, or to `limit` experiences."""

    run: Run
    stream: Stream
    parts: Parts
    loop: Loop
    metrics: dict[str, Metric]
    trackers: Trackers
    hook: pluggy.HookRelay
    save: Callable[[], None]
    limit: int | None = None
    warped: dict[tuple[int, str], Experience] = field(default_factory=dict)
    """Experiences whose rows for evaluation have been warped into their domain."""

    def go(self) -> bool:
        """Train what is left of the stream. True when its end was reached."""
        end = min(len(self.stream), self.limit or len(self.stream))
        for experience in self.stream[self.run.record.trained : end]:
            self.hook.clkd_experience_start(run=self.run, experience=experience)
            self._train(experience)
            result = self._evaluate(experience)
            with self._timed("tracking"):
                self.trackers.experience(self.run, experience, result)
            self.hook.clkd_experience_end(run=self.run, experience=experience, result=result)
            self.save()
        return self.run.record.trained == len(self.stream)

    def _train(self, experience: Experience) -> None:
        with self._timed("teachers"):
            replaced = self.parts.begin(experience, self.run.seed)
        if experience.index == 0:
            self._baseline()
        hygiene = Hygiene({name: t for name, t in self.parts.teachers.items() if t.frozen})
        with self._timed("train"):
            self.loop.train(experience, replaced)
        hygiene.check()
        with self._timed("teachers"):
            self.parts.end(experience)
        self.parts.compare(self.loop.ranks)
        self.run.rows, self.run.step = self.loop.rows, self.loop.progress.step

    def _baseline(self) -> None:
        """What an untrained student scores: forward transfer is measured against it."""
        known = known_experiences(self.parts.student, self.stream)
        accuracy, aware, _ = self._pass(known)
        counts = aware if self.run.record.task_labels else accuracy
        for experience, share in zip(known, counts, strict=True):
            self.run.record.baseline[experience.index] = share

    def _evaluate(self, experience: Experience) -> dict[str, Any]:
        """Fill this experience's row of the matrices, and the next one's entry if the head can answer it at all."""
        record, i = self.run.record, experience.index
        seen = self.stream[: i + 1]
        accuracy, aware, confusion = self._pass(seen)
        coming = known_experiences(self.parts.student, self.stream[i + 1 : i + 2])
        if coming:
            ahead, ahead_aware, _ = self._pass(coming)
            accuracy, aware = accuracy + ahead, aware + ahead_aware
        record.class_incremental[i][: len(accuracy)] = accuracy
        record.task_aware[i][: len(aware)] = aware
        record.confusion = confusion
        record.trained = i + 1
        return self._result(experience)

    def _validation(self, experience: Experience) -> dict[str, float]:
        """Accuracy on the rows held out of training: what may be selected on, since test rows may not."""
        held = [e for e in self.stream[: experience.index + 1] if len(e.validation)]
        if not held:
            return {}
        accuracy, aware, _ = self._pass(held, "validation")
        counts = aware if self.run.record.task_labels else accuracy
        return {"validation/average_accuracy": sum(counts) / len(counts)}

    def _pass(
        self, experiences: Sequence[Experience], split: Literal["test", "validation"] = "test"
    ) -> tuple[list[float], list[float], list[list[int]]]:
        if not experiences:
            return [], [], []
        loop, parts, classes = self.loop, self.parts, len(self.stream.class_names)
        size = loop.options.eval_batch_size
        with self._timed("evaluate"):
            ready = [self._warped(experience, split) for experience in experiences]
            found = evaluate(parts.student, ready, parts.augment, size, classes, split, loop.ranks)
        confusion: list[list[int]] = found.confusion.tolist()
        return found.accuracy, found.task_aware, confusion

    def _warped(self, experience: Experience, split: str) -> Experience:
        """The experience with its rows warped, which takes longer than evaluating them: once, while there is room."""
        rows: Rows = getattr(experience, split)
        if rows.warp is None or not rows.resident:
            return experience
        key = experience.index, split
        if key not in self.warped:
            size = len(rows) * rows.x[:1].nbytes
            if size + sum(getattr(kept, name).x.nbytes for (_, name), kept in self.warped.items()) > RESIDENT_LIMIT:
                return experience
            ready = rows.ready(self.parts.device)
            test = split == "test"
            self.warped[key] = replace(experience, test=ready) if test else replace(experience, validation=ready)
        return self.warped[key]

    def _result(self, experience: Experience) -> dict[str, Any]:
        """What trackers and plugins are told about a finished experience."""
        record = self.run.record
        return {
            "accuracy": record.class_incremental[experience.index],
            "accuracy_task_aware": record.task_aware[experience.index],
            "per_class": self._per_class(),
            "classes": [self.stream.class_names[c] for c in experience.classes],
            "rows": {"train": len(experience.train), "test": len(experience.test)},
            "digest": digest(experience),
            "metrics": {f"stream/{name}": metric(record) for name, metric in self.metrics.items()}
            | self._validation(experience)
            | self._resources(),
        }

    def _resources(self) -> dict[str, float]:
        """What the accuracy cost: memory, compute, speed."""
        memory = self.parts.memory
        held = {self.stream.class_names[c]: rows for c, rows in memory.histogram().items()}
        return {
            "memory/rows": len(memory),
            "memory/bytes": memory.nbytes(),
            **{f"memory_classes/{name}": rows for name, rows in held.items()},
            "speed/rows_per_second": self.run.rows / self.run.seconds["train"],
            **(self.parts.cache.metrics() if self.parts.cache else {}),
        }

    def _per_class(self) -> dict[str, float]:
        """Accuracy of each class that has test rows by now."""
        rows = enumerate(self.run.record.confusion)
        return {self.stream.class_names[c]: row[c] / sum(row) for c, row in rows if sum(row)}

    @contextmanager
    def _timed(self, purpose: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.run.seconds[purpose] = self.run.seconds.get(purpose, 0.0) + time.perf_counter() - start


def digest(experience: Experience) -> str:
    """A short name for exactly these training rows in exactly this guise, as MLflow wants one for a data set."""
    rows = experience.train
    content = hashlib.sha256(repr((experience.classes, rows.domain, rows.warp)).encode())
    content.update(rows.sample_id.cpu().numpy().tobytes())
    return content.hexdigest()[:16]
