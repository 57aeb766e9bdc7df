"""From a run's directory into MLflow: one parent run with everything that is compared, one child per experience.

There is one way into MLflow, and it starts from `metrics.jsonl`: a run that is being trained, one that is resumed and
one that is brought in a month later (`clkd track sync`) all look alike, and whatever is there already is left alone.

Everything goes through a client with explicit run ids: MLflow's own "active run" belongs to a thread, is taken over by
whoever starts another, and is closed with the wrong status when a process stops.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clkd.errors import TrackingError
from clkd.scenario.document import parse, read_text
from clkd.tracking import labels, store
from clkd.tracking.events import END, EPOCH, EXPERIENCE, FILE, START, Event, read
from clkd.tracking.jsonl import ENVIRONMENT
from clkd.tracking.points import clean_names, matrix_row, without_nan

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun

STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
MOST_PARAMS, MOST_METRICS = 100, 1000
"""What one request may carry."""
VANISHED = {"event": END, "status": "killed", "error": "the process ended without a word, as by SIGKILL"}
"""How a run ended that did not say how."""
CONSTANT = {"scenario.yaml": "scenario.yaml", "config.resolved.yaml": "resolved.yaml"}
CHANGING = {ENVIRONMENT: ENVIRONMENT, "result.json": "result.json", FILE: FILE}
"""Artifacts, by the file of the run's directory that each is a copy of."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where in MLflow a run goes.

    Attributes:
        uri: of the store, as `store.resolve_uri` gives it.
        experiment: None is the scenario's name.
        child_runs: one nested run per experience.
        tags: the user's; they override none of clkd's.
    """

    uri: str
    experiment: str | None = None
    child_runs: bool = True
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Stored:
    """What a run has in the store, as far as that was looked up."""

    id: str
    step: int | None = None
    """The one step that all points of a child have."""
    status: str = "RUNNING"
    ended: int | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    """Metrics that had points when this was looked up."""
    steps: dict[str, set[int]] = field(default_factory=dict)
    inputs: bool = False
    artifacts: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, run: StoredRun, step: int | None = None) -> _Stored:
        data = run.data
        inputs = bool(run.inputs and run.inputs.dataset_inputs)
        return cls(
            run.info.run_id,
            step,
            run.info.status,
            run.info.end_time,
            dict(data.params),
            dict(data.tags),
            set(data.metrics),
            inputs=inputs,
        )


class Upload:
    """Brings what a run's directory holds into MLflow, as far as it is not there.

    After an error it is not to be used again: make a new one, which looks up what the store has.

    Attributes:
        events: how many lines of `metrics.jsonl` the store has.
        brought: how many points, params, tags, children, artifacts and so on were not there.

    Raises:
        TrackingError: the store cannot be used or does not answer; every other error is MLflow's own.
    """

    def __init__(self, directory: Path, destination: Destination) -> None:
        self.directory, self.destination = directory, destination
        self.events = 0
        self.brought: Counter[str] = Counter()
        self._offset = 0
        self._milestones: list[Event] = []
        """All events but epochs."""
        self._latest: Event = {}
        store.check_reachable(destination.uri)
        with store.impatient():
            self._connect()

    @property
    def found(self) -> dict[str, Any]:
        """Where the run is: what `run.tracking["mlflow"]` holds."""
        children = {index: child.id for index, child in self._children.items()}
        return {
            "uri": self.destination.uri,
            "experiment_id": self._experiment,
            "run_id": self._parent.id,
            "children": children,
        }

    def advance(self, over: bool = False) -> None:
        """Bring in what is new. `over`: nobody trains this run any more, even if it did not say so."""
        store.check_reachable(self.destination.uri)
        with store.impatient():
            self._advance(over)

    def _advance(self, over: bool) -> None:
        events, self._offset = read(self.directory / FILE, self._offset)
        self._milestones += [event for event in events if event["event"] != EPOCH]
        self._latest = events[-1] if events else self._latest
        end = self._end(over)
        self._describe(end)
        self._log_points(self._parent, (point for event in events for point in _points(event)))
        if self.destination.child_runs:
            for event in events:
                if event["event"] == EXPERIENCE:
                    self._log_child(event)
        self.events += len(events)
        self._finish(end)

    def _end(self, over: bool) -> Event | None:
        """How the run ended, if it did."""
        if self._milestones[-1]["event"] == END:
            return self._milestones[-1]
        return {**VANISHED, "time": self._latest["time"]} if over else None

    # The parent run

    def _connect(self) -> None:
        """Find this run in the store, or create it."""
        start = _first_start(self.directory)
        self._name = start["name"]
        self._client = store.open_client(self.destination.uri)
        name = self.destination.experiment or self._name
        self._experiment = store.find_experiment(self._client, name, self.destination.uri)
        found = self._search(f"tags.`clkd.run_id` = '{start['tags']['clkd.run_id']}'")
        self._parent = self._take_up(found[0]) if found else self._create(start)
        self._children = self._find_children() if found else {}

    def _search(self, condition: str) -> list[StoredRun]:
        """Runs of the experiment, the oldest first."""
        found, token = [], None
        while True:
            page = self._client.search_runs(
                [self._experiment], condition, order_by=["start_time"], page_token=token, max_results=MOST_METRICS
            )
            found += list(page)
            token = page.token
            if not token:
                return found

    def _create(self, start: Event) -> _Stored:
        tags = {**self.destination.tags, **start["tags"]}
        name = f"{self._name} s{start['tags'].get('clkd.seed')}"
        made = self._client.create_run(self._experiment, start_time=_milliseconds(start), tags=tags, run_name=name)
        self.brought["runs"] += 1
        return _Stored(made.info.run_id, tags=dict(made.data.tags))

    def _take_up(self, run: StoredRun) -> _Stored:
        stored = _Stored.of(run)
        for item in self._client.list_artifacts(stored.id):
            inside = self._client.list_artifacts(stored.id, item.path) if item.is_dir else [item]
            stored.artifacts |= {file.path for file in inside}
        return stored

    def _describe(self, end: Event | None) -> None:
        """Status, tags and parameters. How it ended is said last (`_finish`)."""
        if end is None and self._parent.status != "RUNNING":
            self._client.update_run(self._parent.id, status="RUNNING")
            self._parent.status, self._parent.ended = "RUNNING", None
        tags = self._tags()
        if end is not None:
            del tags["clkd.status_detail"]
        self._log_tags(tags, end)
        self._log_params()

    def _tags(self) -> dict[str, str]:
        """As the latest start says; where and with what a run was resumed is true of its end."""
        tags = dict(self.destination.tags)
        for event in self._milestones:
            tags |= event.get("tags", {})
        return {"clkd.status_detail": "running", **tags}

    def _log_tags(self, tags: dict[str, str], end: Event | None) -> None:
        from mlflow.entities import RunTag

        ours, there = self._parent.id, self._parent.tags
        if "clkd.error" in there and not (end and end.get("error")):
            self._client.delete_tag(ours, "clkd.error")
            del there["clkd.error"]
        new = {name: value for name, value in tags.items() if there.get(name) != value}
        if new:
            self._client.log_batch(ours, tags=[RunTag(name, value) for name, value in new.items()])
            there.update(new)
            self.brought["tags"] += len(new)

    def _log_params(self) -> None:
        """Parameters that are not there yet: MLflow refuses to change one."""
        from mlflow.entities import Param

        start, there = self._milestones[0], self._parent.params
        config = parse(read_text(self.directory / "resolved.yaml")).data
        config = {**config, "seed": int(start["tags"]["clkd.seed"]), "device": start["device"]}
        new = {name: text for name, text in clean_names(dict(labels.flatten(config))).items() if name not in there}
        params = iter([Param(name, text) for name, text in new.items()])
        while some := list(islice(params, MOST_PARAMS)):
            self._client.log_batch(self._parent.id, params=some)
        there.update(new)
        self.brought["params"] += len(new)

    def _finish(self, end: Event | None) -> None:
        """Artifacts, and how it ended, which is said even where an artifact cannot be written."""
        if end is None:
            self._log_files(CONSTANT, anew=False)
            return
        status, time = STATUS[end["status"]], _milliseconds(end)
        settled = (self._parent.status, self._parent.ended) == (status, time)
        try:
            self._log_tags(self._conclusion(end), end)
            self._log_files(CONSTANT, anew=False)
            self._log_files(CHANGING, anew=not settled)
            self._log_matrix(anew=not settled)
        finally:
            if not settled:
                self._client.set_terminated(self._parent.id, status, time)
                self._parent.status, self._parent.ended = status, time
                self.brought["ends"] += 1

    def _conclusion(self, end: Event) -> dict[str, str]:
        metrics = end.get("metrics") or self._latest_metrics()
        tags = {
            "clkd.status_detail": end["status"],
            "mlflow.note.content": labels.note(self._name, self._tags(), metrics, self._matrix()),
        }
        if end.get("error"):
            tags["clkd.error"] = end["error"][: labels.LONGEST_TAG]
        return tags

    def _latest_metrics(self) -> dict[str, float]:
        """Headline numbers after the latest experience, by plain name."""
        experiences = [event for event in self._milestones if event["event"] == EXPERIENCE]
        metrics = experiences[-1]["metrics"] if experiences else {}
        return {name.removeprefix("stream/"): value for name, value in metrics.items()}

    # Artifacts

    def _log_files(self, files: dict[str, str], anew: bool) -> None:
        for name, file in files.items():
            path = self.directory / file
            if path.exists() and self._lacks(name, anew):
                if name == file:
                    self._client.log_artifact(self._parent.id, str(path))
                else:
                    self._client.log_text(self._parent.id, path.read_text(encoding="utf-8"), name)
                self._has(name)

    def _log_matrix(self, anew: bool) -> None:
        rows, ours = self._matrix(), self._parent.id
        if not rows:
            return
        title = f"{self._name} s{self._milestones[0]['tags'].get('clkd.seed')}"
        if self._lacks("accuracy_matrix.csv", anew):
            self._client.log_text(ours, labels.matrix_csv(rows), "accuracy_matrix.csv")
            self._has("accuracy_matrix.csv")
        if self._lacks("accuracy_matrix.json", anew):
            self._client.log_dict(ours, without_nan({"accuracy_matrix": rows}), "accuracy_matrix.json")
            self._has("accuracy_matrix.json")
        for name in ("accuracy_matrix", "forgetting"):
            path = f"figures/{name}.png"
            if self._lacks(path, anew):
                from clkd.tracking import figures

                self._client.log_figure(ours, getattr(figures, name)(rows, title), path)
                self._has(path)

    def _lacks(self, name: str, anew: bool) -> bool:
        return anew or name not in self._parent.artifacts

    def _has(self, name: str) -> None:
        self._parent.artifacts.add(name)
        self.brought["artifacts"] += 1

    def _matrix(self) -> list[list[float]]:
        """The lower triangle: row i holds the accuracy on experiences 0 … i after training on i."""
        rows = {e["experience"]: e["metrics"] for e in self._milestones if e["event"] == EXPERIENCE}
        return [matrix_row(rows[i], i) for i in sorted(rows)]

    # The child runs

    def _find_children(self) -> dict[str, _Stored]:
        """Children by experience index, as the store has them: the truth even after a crash."""
        found = self._search(f"tags.`mlflow.parentRunId` = '{self._parent.id}'")
        ours = [child for child in found if "clkd.experience" in child.data.tags]
        ours.sort(key=lambda child: int(child.data.tags["clkd.experience"]))
        indices = [child.data.tags["clkd.experience"] for child in ours]
        return {index: _Stored.of(child, int(index)) for index, child in zip(indices, ours, strict=True)}

    def _log_child(self, event: Event) -> None:
        index = str(event["experience"])
        if index not in self._children:
            self._children[index] = self._create_child(event)
            self.brought["children"] += 1
        child = self._children[index]
        self._log_points(child, _points(event))
        if not child.inputs:
            self._log_dataset(child, event)
        if child.status != "FINISHED":
            self._client.set_terminated(child.id, "FINISHED", _milliseconds(event))
            child.status = "FINISHED"

    def _create_child(self, event: Event) -> _Stored:
        index, begin = event["experience"], max(0, self._milestones.index(event) - 1)
        child = self._client.create_run(
            self._experiment,
            start_time=_milliseconds(self._milestones[begin]),
            tags={
                "mlflow.parentRunId": self._parent.id,
                "clkd.experience": str(index),
                "clkd.classes": ", ".join(map(str, event.get("classes", ())))[: labels.LONGEST_TAG],
                "clkd.dataset": self._tags()["clkd.dataset"],
            },
            run_name=f"exp_{index:02d} {event.get('name', '')}".strip(),
        )
        return _Stored(child.info.run_id, step=index)

    def _log_dataset(self, child: _Stored, event: Event) -> None:
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        tags, digest = self._tags(), event.get("digest")
        source = CodeDatasetSource({"mlflow.source.name": tags["mlflow.source.name"]})
        name = f"{tags.get('clkd.stand_in') or tags['clkd.dataset']}/exp_{event['experience']:02d}"
        dataset = MetaDataset(source, name=name, digest=digest[:36] if digest else None)  # type: ignore[abstract]  # `profile` is optional: MLflow itself makes these
        context = [InputTag("mlflow.data.context", "train")]
        self._client.log_inputs(child.id, [DatasetInput(dataset._to_mlflow_entity(), context)])
        child.inputs = True
        self.brought["inputs"] += 1

    # Numbers

    def _log_points(self, run: _Stored, points: Iterable[tuple[str, int, float, int]]) -> None:
        """A request for each thousand, without those that are there already: a key has one point at a step."""
        from mlflow.entities import Metric

        new = (Metric(key, value, time, step) for key, step, value, time in points if self._is_new(run, key, step))
        while some := list(islice(new, MOST_METRICS)):
            self._client.log_batch(run.id, metrics=some)
            self.brought["points"] += len(some)

    def _is_new(self, run: _Stored, key: str, step: int) -> bool:
        if key not in run.steps:
            run.steps[key] = self._ask_steps(run, key) if key in run.keys else set()
        known = step in run.steps[key]
        run.steps[key].add(step)
        return not known

    def _ask_steps(self, run: _Stored, key: str) -> set[int]:
        if run.step is not None:
            return {run.step}
        return {point.step for point in self._client.get_metric_history(run.id, key)}


def _first_start(directory: Path) -> Event:
    """Who the run is."""
    events, _ = read(directory / FILE)
    start = next((event for event in events if event["event"] == START), None)
    if start is None or "tags" not in start:
        raise TrackingError(f"{directory / FILE} does not say whose it is: it was written by an older clkd, or cut")
    return start


def _points(event: Event) -> list[tuple[str, int, float, int]]:
    """Key, step, value and time of every number of an event that MLflow shows."""
    kind, values, step = event["event"], event.get("metrics", {}), event["step"]
    if kind == START:
        values, step = {key if "/" in key else f"model/{key}": value for key, value in values.items()}, 0
    elif kind == EXPERIENCE:
        step = event["experience"]
    elif kind == END:
        return []
    time = _milliseconds(event)
    named = clean_names(values).items()
    return [(key, step, math.nan if value is None else float(value), time) for key, value in named]


def _milliseconds(event: Event) -> int:
    return round(1000 * float(event["time"]))
