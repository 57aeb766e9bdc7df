"""From a run's directory into MLflow: one parent run with everything that is compared, one child per experience.

There is one way into MLflow, and it starts from `metrics.jsonl`: a run that is being trained, one that is resumed and
one that is brought in a month later (`clkd track sync`) all look alike, and whatever is there already is left alone.

Everything goes through a client with explicit run ids: MLflow's own "active run" belongs to a thread, is taken over by
whoever starts another, and is closed with the wrong status when a process stops.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clkd.errors import TrackingError
from clkd.scenario.document import parse, read_text
from clkd.tracking import artifacts, labels, models, store
from clkd.tracking.events import END, EXPERIENCE, FILE, START, SYSTEM, WITHIN, Event, read
from clkd.tracking.host import TAG as HOST
from clkd.tracking.host import Host
from clkd.tracking.logged import Students
from clkd.tracking.points import clean_beside, clean_names, matrix_row
from clkd.tracking.stored import MOST_METRICS, Point, Stored

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun

STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
SCORES = ("stream/", "acc_matrix/", "class_acc/")
"""What of an experience's numbers is said of its student, too."""
MOST_OF_A_TAG = 500
"""Characters in the tag of an input."""
SETTLED = "clkd.settled"
"""Tag: the end, in milliseconds, whose artifacts are all there. That the run has ended is said even if they are not."""
VANISHED = {"event": END, "status": "killed", "error": "the process ended without a word, as by SIGKILL"}
"""How a run ended that did not say how."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where in MLflow a run goes.

    Attributes:
        uri: of the store, as `store.resolve_uri` gives it.
        experiment: None is $MLFLOW_EXPERIMENT_ID's or $MLFLOW_EXPERIMENT_NAME's, else that of the scenario's name.
        child_runs: one nested run per experience.
        tags: the user's, under clean names in the store; they override none of clkd's.
        registered, alias: as what its exported students enter the registry, and what moves to the newest of them.
    """

    uri: str
    experiment: str | None = None
    child_runs: bool = True
    tags: dict[str, str] = field(default_factory=dict)
    registered: str | None = None
    alias: str | None = None
    noted: str | None = None
    """The id of the experiment that the run is in already, if that is known."""
    host: Host | None = None
    """The MLflow run that it was started in."""

    @property
    def said(self) -> dict[str, Any]:
        """What may have been said anew at a resume, and then is in no other file of the run."""
        return {"tags": self.tags, "registered": self.registered, "alias": self.alias}


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
        self._names: dict[str, str] = {}
        """What each metric is called there: one that comes later does not take another's name."""
        self._taken: set[str] = set()
        self._milestones: list[Event] = []
        """All events but epochs."""
        self._first = _first_start(directory)
        self._latest = self._first
        store.check_reachable(destination.uri)
        with store.impatient(destination.uri), store.understood(destination.uri):
            self._connect()

    @property
    def found(self) -> dict[str, Any]:
        """Where the run is: what `run.tracking["mlflow"]` holds."""
        return {
            "uri": self.destination.uri,
            "experiment_id": self._experiment,
            "run_id": self._parent.id,
            "children": {index: child.id for index, child in self._children.items()},
            **self.destination.said,
        }

    def advance(self, otherwise: Event | None = None) -> None:
        """Bring in what is new. `otherwise` is how the run ended, if it did and its record does not say so."""
        store.check_reachable(self.destination.uri)
        with store.impatient(self.destination.uri), store.understood(self.destination.uri):
            self._advance(otherwise)

    def _advance(self, otherwise: Event | None) -> None:
        events, self._offset = read(self.directory / FILE, self._offset)
        self._milestones += [event for event in events if event["event"] not in WITHIN]
        self._latest = events[-1] if events else self._latest
        end = self._end(otherwise)
        self._describe(end)
        self._parent.log_points(point for event in events for point in self._points(event))
        for event in events:
            if event["event"] == EXPERIENCE and not event.get("carried"):
                self._log_child(event)
        self.events += len(events)
        self._finish(end)

    def _end(self, otherwise: Event | None) -> Event | None:
        if self._milestones[-1]["event"] == END:
            return self._milestones[-1]
        return {**otherwise, "time": self._latest["time"]} if otherwise else None

    # Finding it

    def _connect(self) -> None:
        """Find this run in the store, or create it."""
        self._client = store.open_client(self.destination.uri)
        found = self._find()
        run = found[0] if found else self._begin()
        self._parent = Stored(self._client, run, self.brought)
        self._files = artifacts.found(self._client, self._parent.id) if found else set()
        self._children = self._find_children() if found else {}
        self._students = Students(
            self._client,
            self._experiment,
            self._parent.id,
            self.destination.registered,
            self.destination.alias,
            self.brought,
            store.is_server(self.destination.uri),
        )

    def _find(self) -> list[StoredRun]:
        """It, if the store has it: in the experiment that was noted, or in the one that is asked for now."""
        mine = f"tags.`clkd.run_id` = '{self._first['tags']['clkd.run_id']}'"
        if self.destination.noted is not None:
            self._experiment = self.destination.noted
            if found := self._search(mine):
                return found
        self._hosting = self._get_host()
        self._experiment = (
            self._hosting.info.experiment_id
            if self._hosting
            else store.choose_experiment(
                self._client, self.destination.experiment, self._first["name"], self.destination.uri, self._about
            )
        )
        return self._search(mine)

    def _get_host(self) -> StoredRun | None:
        from mlflow.exceptions import MlflowException

        host = self.destination.host
        if host is None:
            return None
        try:
            return self._client.get_run(host.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            uri = store.plain(self.destination.uri)
            raise TrackingError(f"$MLFLOW_RUN_ID is '{host.run_id}', but {uri} has no such run: unset it") from error

    def _begin(self) -> StoredRun:
        """The run that this one was started in becomes its own, unless it is another's already."""
        host = self._hosting
        if host is None:
            return self._create()
        if "clkd.run_id" in host.data.tags:
            return self._create({"mlflow.parentRunId": host.info.run_id})
        assert self.destination.host is not None, "it was found by it"
        self._client.set_tag(host.info.run_id, HOST, self.destination.host.by)
        self._client.set_tag(host.info.run_id, "clkd.run_id", self._first["tags"]["clkd.run_id"])
        return self._client.get_run(host.info.run_id)

    def _search(self, condition: str) -> list[StoredRun]:
        """Runs of the experiment, the oldest first."""
        found: list[StoredRun] = []
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment], condition, order_by=["start_time"], page_token=token, max_results=MOST_METRICS
            )
            found += page
            token = page.token
            if not token:
                return found

    def _create(self, tags: Mapping[str, str] = {}) -> StoredRun:  # it is only read
        self.brought["runs"] += 1
        return self._client.create_run(
            self._experiment,
            start_time=_milliseconds(self._first),
            tags={"clkd.run_id": self._first["tags"]["clkd.run_id"], **tags},
            run_name=self._title,
        )

    def _find_children(self) -> dict[str, Stored]:
        """Children by experience index, as the store has them: the truth even after a crash."""
        found = self._search(f"tags.`mlflow.parentRunId` = '{self._parent.id}'")
        ours = [child for child in found if "clkd.experience" in child.data.tags]
        ours.sort(key=lambda child: int(child.data.tags["clkd.experience"]))
        indices = [child.data.tags["clkd.experience"] for child in ours]
        return {
            index: Stored(self._client, child, self.brought, int(index))
            for index, child in zip(indices, ours, strict=True)
        }

    # The parent run

    @property
    def _title(self) -> str:
        return f"{self._first['name']} s{self._first['tags'].get('clkd.seed')}"

    @property
    def _about(self) -> str:
        """What the scenario is, in markdown."""
        return labels.description(self._first["name"], self._first.get("description", {}))

    def _describe(self, end: Event | None) -> None:
        """Tags, parameters and, unless it is over, that it runs. How it ended is said last (`_finish`)."""
        running = {} if end else {"clkd.status_detail": "running"}
        if not end:
            self._parent.go_on()
        if not (end and end.get("error")):
            self._parent.delete_tag("clkd.error")
        self._parent.log_tags({**self._tags(), **running})
        if not self.events:
            self._parent.log_params(self._params())

    def _tags(self) -> dict[str, str]:
        """As the latest start says; where and with what a run was resumed is true of its end."""
        tags = clean_names(self.destination.tags)
        for event in self._milestones:
            tags |= event.get("tags", {})
        return tags

    def _params(self) -> dict[str, str]:
        config = parse(read_text(self.directory / "resolved.yaml")).data
        return clean_names(dict(labels.flatten({**config, "device": self._first["device"]})))

    def _finish(self, end: Event | None) -> None:
        """Artifacts, and how it ended, which is said even where an artifact cannot be written."""
        status, time = (STATUS[end["status"]], _milliseconds(end)) if end else ("RUNNING", None)
        settled = self._parent.tags.get(SETTLED) == str(time)
        rows = self._matrix() if end else []
        try:
            if end:
                self._parent.log_tags(self._conclusion(end, rows))
            contents = artifacts.of(self.directory, rows, self._title, over=end is not None)
            if rows:
                self._parent.log_tags({"mlflow.loggedArtifacts": artifacts.shown_as_tables(contents)})
            for name, content in contents.items():
                if name not in self._files or (name in artifacts.CHANGING and not settled):
                    artifacts.log(self._client, self._parent.id, name, content)
                    self._files.add(name)
                    self.brought["artifacts"] += 1
            if end:
                self._parent.log_tags({SETTLED: str(time)})
            self._log_students()
        finally:
            if time is not None:
                self._parent.end(status, time)

    def _conclusion(self, end: Event, rows: list[list[float]]) -> dict[str, str]:
        metrics = end.get("metrics") or self._latest_metrics()
        note = labels.note(self._first["name"], self._tags(), metrics, rows, self._first.get("description", {}))
        error = {"clkd.error": end["error"]} if end.get("error") else {}
        return {"clkd.status_detail": end["status"], "mlflow.note.content": note, **error}

    def _latest_metrics(self) -> dict[str, float]:
        """Headline numbers after the latest experience, by plain name."""
        experiences = [event for event in self._milestones if event["event"] == EXPERIENCE]
        metrics = experiences[-1]["metrics"] if experiences else {}
        return {name.removeprefix("stream/"): value for name, value in metrics.items()}

    def _matrix(self) -> list[list[float]]:
        """The lower triangle: row i holds the accuracy on experiences 0 … i after training on i."""
        rows = {e["experience"]: e["metrics"] for e in self._milestones if e["event"] == EXPERIENCE}
        return [matrix_row(rows[i], i) for i in sorted(rows)]

    # The child runs

    def _log_child(self, event: Event) -> None:
        """Its own run, if there are to be such; the parent knows its data in any case."""
        index = str(event["experience"])
        self._log_dataset(self._parent, event)
        if not self.destination.child_runs:
            return
        if index not in self._children:
            self._children[index] = self._create_child(event)
        child = self._children[index]
        child.log_points(self._points(event))
        self._log_dataset(child, event)
        if child.status != "FINISHED":
            child.end("FINISHED", _milliseconds(event))

    def _create_child(self, event: Event) -> Stored:
        index, place = event["experience"], self._milestones.index(event)
        child = self._client.create_run(
            self._experiment,
            start_time=_milliseconds(self._milestones[max(0, place - 1)]),
            tags={
                "mlflow.parentRunId": self._parent.id,
                "clkd.experience": str(index),
                "clkd.classes": ", ".join(map(str, event.get("classes", ())))[: labels.LONGEST_TAG],
                "clkd.dataset": self._tags()["clkd.dataset"],
            },
            run_name=f"exp_{index:02d} {event.get('name', '')}".strip(),
        )
        self.brought["children"] += 1
        return Stored(self._client, child, self.brought, index)

    # The models

    def _log_students(self) -> None:
        """Those that were exported, once it is told what they scored."""
        folders = models.folders(self.directory)
        for event in self._milestones if folders else ():
            index = event.get("experience")
            if event["event"] == EXPERIENCE and index in folders:
                runs = [run.id for run in (self._parent, self._children.get(str(index))) if run]
                points = [point for point in self._points(event) if point.key.startswith(SCORES)]
                self._students.bring(index, folders[index], runs, points)

    def _points(self, event: Event) -> list[Point]:
        """Every number of an event that MLflow shows."""
        kind, values, step = event["event"], event.get("metrics", {}), event["step"]
        if kind == START:
            values, step = {key if "/" in key else f"model/{key}": value for key, value in values.items()}, 0
        elif kind == EXPERIENCE:
            step = event["experience"]
        elif kind == END:
            return []
        elif kind == SYSTEM:
            return [point for sample in event["samples"] for point in self._points({"event": "sample", **sample})]
        time, named = _milliseconds(event), {self._named(name): value for name, value in values.items()}
        return [Point(key, step, math.nan if value is None else float(value), time) for key, value in named.items()]

    def _named(self, name: str) -> str:
        """A metric's clean name: the same in every event, since the record is read from its begin."""
        if name not in self._names:
            self._names[name] = clean_beside(name, self._taken)
            self._taken.add(self._names[name])
        return self._names[name]

    def _log_dataset(self, run: Stored, event: Event) -> None:
        """The rows that the experience was trained on, known by their digest, unless the run has them."""
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        tags, digest = self._tags(), event.get("digest")
        source = CodeDatasetSource({"mlflow.source.name": tags["mlflow.source.name"]})
        name = f"{tags.get('clkd.stand_in') or tags['clkd.dataset']}/exp_{event['experience']:02d}"
        if name in run.inputs:
            return
        dataset = MetaDataset(source, name=name, digest=digest[:36] if digest else None)  # type: ignore[abstract]  # `profile` is optional: MLflow itself makes these
        classes = ", ".join(map(str, event.get("classes", ())))[:MOST_OF_A_TAG]
        tags_of = [InputTag("mlflow.data.context", "train"), *([InputTag("classes", classes)] if classes else [])]
        self._client.log_inputs(run.id, [DatasetInput(dataset._to_mlflow_entity(), tags_of)])
        run.inputs.add(name)
        self.brought["inputs"] += 1


def _first_start(directory: Path) -> Event:
    """Who the run is."""
    events, _ = read(directory / FILE)
    start = next((event for event in events if event["event"] == START), None)
    if start is None or "tags" not in start:
        raise TrackingError(f"{directory / FILE} does not say whose it is: it was written by an older clkd, or cut")
    return start


def _milliseconds(event: Event) -> int:
    return round(1000 * float(event["time"]))
