"""A run as MLflow has it: what it lacks can be added, what it has is left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from clkd.tracking import host, labels

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MOST_PARAMS, MOST_METRICS = 100, 1000
"""What one request may carry."""
ENDED = "clkd.ended"
"""Tag: when clkd's part of a run ended that goes on in somebody's program."""


class Point(NamedTuple):
    """One number of a metric; `time` is in milliseconds."""

    key: str
    step: int
    value: float
    time: int


class Stored:
    """One run in the store, parent or child.

    Args:
        client: of the store.
        run: as the store gave it.
        brought: counts what was added.
        step: the one step that all points have, of a child.
    """

    def __init__(self, client: MlflowClient, run: Run, brought: Counter[str], step: int | None = None) -> None:
        self.id: str = run.info.run_id
        self.status: str = run.info.status
        self.ended: int | None = run.info.end_time
        self.tags: dict[str, str] = dict(run.data.tags)
        self.host = self.tags.get(host.TAG)
        self.inputs = {each.dataset.name for each in (run.inputs.dataset_inputs if run.inputs else ())}
        self._client, self._brought, self._step = client, brought, step
        self._params = set(run.data.params)
        self._keys = set(run.data.metrics)
        self._steps: dict[str, set[int]] = {}

    def log_points(self, points: Iterable[Point]) -> None:
        """A request for each thousand, without those that are there already: a key has one point at a step."""
        from mlflow.entities import Metric

        new = (Metric(p.key, p.value, p.time, p.step) for p in points if self._is_new(p))
        while some := list(islice(new, MOST_METRICS)):
            self._client.log_batch(self.id, metrics=some)
            self._brought["points"] += len(some)

    def _is_new(self, point: Point) -> bool:
        if point.key not in self._steps:
            self._steps[point.key] = self._ask_steps(point.key) if point.key in self._keys else set()
        known = point.step in self._steps[point.key]
        self._steps[point.key].add(point.step)
        return not known

    def _ask_steps(self, key: str) -> set[int]:
        if self._step is not None:
            return {self._step}
        return {point.step for point in self._client.get_metric_history(self.id, key)}

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set those that are not so already. Where a run that is not ours comes from, its maker has said."""
        from mlflow.entities import RunTag

        cut = {name: value[: labels.LONGEST_TAG] for name, value in tags.items()}
        if self.host:
            cut = {name: value for name, value in cut.items() if not name.startswith("mlflow.source.")}
        new = {name: value for name, value in cut.items() if self.tags.get(name) != value}
        if new:
            self._client.log_batch(self.id, tags=[RunTag(name, value) for name, value in new.items()])
            self.tags |= new
            self._brought["tags"] += len(new)

    def delete_tag(self, name: str) -> None:
        """Take a tag away, if it is there."""
        if name in self.tags:
            self._client.delete_tag(self.id, name)
            del self.tags[name]
            self._brought["tags"] += 1

    def log_params(self, params: Mapping[str, str]) -> None:
        """Parameters that are not there yet: MLflow refuses to change one."""
        from mlflow.entities import Param

        new = iter([Param(name, text) for name, text in params.items() if name not in self._params])
        while some := list(islice(new, MOST_PARAMS)):
            self._client.log_batch(self.id, params=some)
            self._brought["params"] += len(some)
        self._params |= set(params)

    def go_on(self) -> None:
        """It is being trained again."""
        if self.status != "RUNNING" and not self._is_anothers:
            self._client.update_run(self.id, status="RUNNING")
            self.status, self.ended = "RUNNING", None

    def end(self, status: str, time: int) -> None:
        """It has ended, at `time` in milliseconds. A run that is active in somebody's program is ended there."""
        if self._is_anothers:
            self.log_tags({ENDED: str(time)})
        elif (self.status, self.ended) != (status, time):
            self._client.set_terminated(self.id, status, time)
            self.status, self.ended = status, time
            self._brought["ends"] += 1

    @property
    def _is_anothers(self) -> bool:
        return self.host == "active"
