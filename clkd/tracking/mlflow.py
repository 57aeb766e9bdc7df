"""The run in MLflow: one parent run with everything that is compared, one child per experience.

Everything goes through a client with explicit run ids: MLflow's own "active run" belongs to a thread, is taken over by
whoever starts another, and is closed with the wrong status when a process stops.
"""

from __future__ import annotations

import logging
import math
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from clkd.scenario.document import to_yaml
from clkd.tracking import labels, store
from clkd.tracking.base import Tracker
from clkd.tracking.jsonl import FILE
from clkd.tracking.points import clean_names, experience_points, without_nan

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as StoredRun

    from clkd.engine.run import Outcome, Run
    from clkd.experience import Experience

STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
MOST_PARAMS, MOST_METRICS = 100, 1000
"""What one request may carry."""

log = logging.getLogger("clkd.tracking")


class MlflowTracker(Tracker):
    """Records a run in MLflow, and goes on with the same MLflow run after a resume.

    Args:
        uri: of the tracking store; by default `$MLFLOW_TRACKING_URI`, else `sqlite:///mlflow.db` in this directory.
        experiment: by default the scenario's name.
        child_runs: one nested run per experience.
        tags: further tags of the parent run.

    `run.tracking["mlflow"]` holds `uri`, `experiment_id`, `run_id` and `children` (by experience index).

    Raises:
        TrackingError: the store cannot be used or does not answer; every other error is MLflow's own.
    """

    name = "mlflow"
    slow_start = True  # importing it and opening its store take longer than everything before the first step

    def __init__(
        self,
        uri: str | None = None,
        experiment: str | None = None,
        child_runs: bool = True,
        tags: dict[str, str] | None = None,
    ) -> None:
        self._uri, self._experiment, self._child_runs, self._tags = uri, experiment, child_runs, dict(tags or {})
        self._client: MlflowClient
        self._since = time.time()
        self._points: dict[tuple[str, str], set[int]] | None = None
        self._warned: set[str] = set()

    def start(self, run: Run) -> None:
        """Find this run in the store, or create it; a second start of one run changes nothing that is there."""
        state = run.tracking.setdefault("mlflow", {})
        uri = store.resolve_uri(self._uri, state.get("uri"))
        store.check_reachable(uri)
        self._client = store.open_client(uri)
        experiment = store.find_experiment(self._client, self._experiment or run.scenario.name, uri)
        config = run.scenario.model_dump(mode="json")
        tags = labels.run_tags(run, self._tags)
        found = self._find(experiment, f"tags.`clkd.run_id` = '{run.id}'")
        stored = self._take_up(found[0], tags) if found else self._create(experiment, run, tags)
        identity = stored.info.run_id
        state.update(uri=uri, experiment_id=experiment, run_id=identity, children=self._children(experiment, identity))
        self._log_params(stored, {**config, "seed": run.seed, "device": run.device})
        self._log_metrics(identity, {key if "/" in key else f"model/{key}": v for key, v in run.facts.items()}, 0)
        for index, points in enumerate(run.carried):
            self._log_metrics(identity, points, index)
        self._client.log_text(identity, run.source, "scenario.yaml")
        self._client.log_text(identity, to_yaml(config), "config.resolved.yaml")
        self._client.log_text(identity, labels.environment(), "environment.txt")
        self._since = time.time()

    def epoch(self, run: Run, experience: Experience, metrics: dict[str, float]) -> None:
        self._log_metrics(self._identity(run), metrics, run.step)

    def experience(self, run: Run, experience: Experience, result: dict[str, Any]) -> None:
        identity = self._identity(run)
        points = experience_points(run, experience, result)
        self._log_metrics(identity, points, experience.index)
        if self._child_runs:
            child = self._child(run, experience)
            self._log_metrics(child, points, experience.index)
            self._log_dataset(child, run, experience, result.get("digest"))
            self._client.set_terminated(child, "FINISHED")
        self._since = time.time()

    def end(self, run: Run, outcome: Outcome) -> None:
        """The status is set even where an artifact cannot be written."""
        identity = self._identity(run)
        try:
            self._log_end(identity, run, outcome)
        finally:
            self._client.set_terminated(identity, STATUS[outcome.status])

    # The parent run

    def _identity(self, run: Run) -> str:
        """The MLflow run's id, once its store has shown that it is still there."""
        state = run.tracking["mlflow"]
        store.check_reachable(state["uri"])
        identity: str = state["run_id"]
        return identity

    def _find(self, experiment: str, condition: str) -> list[StoredRun]:
        found: list[StoredRun] = list(self._client.search_runs([experiment], condition, max_results=MOST_METRICS))
        return found

    def _create(self, experiment: str, run: Run, tags: dict[str, str]) -> StoredRun:
        self._points = None
        return self._client.create_run(experiment, tags=tags, run_name=f"{run.scenario.name} s{run.seed}")

    def _take_up(self, stored: StoredRun, tags: dict[str, str]) -> StoredRun:
        """Go on with a run that is already there, and remember to ask which points it has."""
        from mlflow.entities import RunTag

        self._points = {}
        identity = stored.info.run_id
        self._client.update_run(identity, status="RUNNING")
        self._client.log_batch(identity, tags=[RunTag(name, value) for name, value in tags.items()])
        if "clkd.error" in stored.data.tags:
            self._client.delete_tag(identity, "clkd.error")
        return stored

    def _log_params(self, stored: StoredRun, config: dict[str, Any]) -> None:
        """Parameters that are not there yet: MLflow refuses to change one."""
        from mlflow.entities import Param

        texts = clean_names(dict(labels.flatten(config)))
        params = iter([Param(name, text) for name, text in texts.items() if name not in stored.data.params])
        while some := list(islice(params, MOST_PARAMS)):
            self._client.log_batch(stored.info.run_id, params=some)

    def _log_end(self, identity: str, run: Run, outcome: Outcome) -> None:
        from mlflow.entities import RunTag

        tags = {
            "clkd.status_detail": outcome.status,
            "mlflow.note.content": labels.note(run, outcome.result.get("metrics", {})),
        }
        if outcome.error:
            tags["clkd.error"] = outcome.error[: labels.LONGEST_TAG]
        self._client.log_batch(identity, tags=[RunTag(name, value) for name, value in tags.items()])
        self._client.log_dict(identity, without_nan(outcome.result), "result.json")
        if (run.directory / FILE).exists():
            self._client.log_artifact(identity, str(run.directory / FILE))
        if run.record.trained:
            self._log_matrix(identity, run)

    def _log_matrix(self, identity: str, run: Run) -> None:
        from clkd.tracking import figures

        rows = labels.trained_matrix(run)
        title = f"{run.scenario.name} s{run.seed}"
        self._client.log_text(identity, labels.matrix_csv(rows), "accuracy_matrix.csv")
        self._client.log_dict(identity, without_nan({"accuracy_matrix": rows}), "accuracy_matrix.json")
        self._client.log_figure(identity, figures.accuracy_matrix(rows, title), "figures/accuracy_matrix.png")
        self._client.log_figure(identity, figures.forgetting(rows, title), "figures/forgetting.png")

    # The child runs

    def _children(self, experiment: str, parent: str) -> dict[str, str]:
        """Children by experience index, as the store has them: the truth even after a crash."""
        if self._points is None:
            return {}
        found = self._find(experiment, f"tags.`mlflow.parentRunId` = '{parent}'")
        ours = [child for child in found if "clkd.experience" in child.data.tags]
        ours.sort(key=lambda child: int(child.data.tags["clkd.experience"]))
        return {child.data.tags["clkd.experience"]: child.info.run_id for child in ours}

    def _child(self, run: Run, experience: Experience) -> str:
        state = run.tracking["mlflow"]
        children: dict[str, str] = state["children"]
        index = str(experience.index)
        if index not in children:
            child = self._client.create_run(
                state["experiment_id"],
                start_time=int(1000 * self._since),
                tags={
                    "mlflow.parentRunId": state["run_id"],
                    "clkd.experience": index,
                    "clkd.classes": ", ".join(map(str, experience.classes))[: labels.LONGEST_TAG],
                    "clkd.dataset": run.dataset,
                },
                run_name=f"exp_{experience.index:02d} {experience.name}",
            )
            children[index] = child.info.run_id
        return children[index]

    def _log_dataset(self, child: str, run: Run, experience: Experience, digest: str | None) -> None:
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        source = CodeDatasetSource({"mlflow.source.name": run.command})
        name = f"{run.stand_in or run.dataset}/exp_{experience.index:02d}"
        dataset = MetaDataset(source, name=name, digest=digest[:36] if digest else None)  # type: ignore[abstract]  # `profile` is optional: MLflow itself makes these
        context = [InputTag("mlflow.data.context", "train")]
        self._client.log_inputs(child, [DatasetInput(dataset._to_mlflow_entity(), context)])

    # Numbers

    def _log_metrics(self, identity: str, values: dict[str, float], step: int) -> None:
        """One request for all of them (MLflow takes a thousand at once), without those that are there already."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        points = iter(
            [
                Metric(key, self._finite(key, value), now, step)
                for key, value in clean_names(values).items()
                if step not in self._steps(identity, key)
            ]
        )
        while some := list(islice(points, MOST_METRICS)):
            self._client.log_batch(identity, metrics=some)

    def _steps(self, identity: str, key: str) -> set[int]:
        """The steps a metric had before its run was taken up: they are trained again and must not be doubled."""
        if self._points is None:
            return set()
        known = self._points
        if (identity, key) not in known:
            known[identity, key] = {point.step for point in self._client.get_metric_history(identity, key)}
        return known[identity, key]

    def _finite(self, key: str, value: float) -> float:
        """MLflow would store infinity as the largest float, which hides it and spoils every chart."""
        if not math.isinf(value):
            return float(value)
        if key not in self._warned:
            log.warning("metric '%s' is infinite; MLflow shows it as not a number", key)
            self._warned.add(key)
        return math.nan
