"""A run's exported students in MLflow: a logged model each, its versions in the registry, and the alias that moves."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clkd.tracking import models
from clkd.tracking.stored import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

NAME = "student"
"""What a logged model is called in its run: `runs:/<run>/student` is the newest one."""
EXPERIENCE, EXPORTED, DONE = "clkd.experience", "clkd.exported", "clkd.alias"
"""Tags: of a model and its version, when it was exported, and that the alias was moved if it was to move."""


def registered_name(wanted: bool | str, scenario: str) -> str | None:
    """What `tracking.register_as` means."""
    return (scenario if wanted else None) if isinstance(wanted, bool) else wanted


class Students:
    """Brings exported students into the store, as far as they are not there.

    Args:
        client: of the store.
        experiment, run: where they belong.
        registered: their name in the registry; None registers none.
        alias: the one that moves to the newest; None moves none.
        brought: counts what was added.
        served: whether the store is a server.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment: str,
        run: str,
        registered: str | None,
        alias: str | None,
        brought: Counter[str],
        served: bool,
    ) -> None:
        self._client, self._experiment, self._run, self._served = client, experiment, run, served
        self._registered, self._alias, self._brought = registered, alias, brought
        self._done: set[int] = set()
        self._there: dict[str, LoggedModel] | None = None

    def bring(self, index: int, folder: Path, runs: Iterable[str], points: Iterable[Point]) -> None:
        """One student, with the runs that it is an output of and the numbers that it scored."""
        if index in self._done:
            return
        model = self._find(index) or self._log(index, folder, runs, points)
        if self._registered is not None:
            self._register(self._registered, model)
        self._done.add(index)

    def _find(self, index: int) -> LoggedModel | None:
        """What is there, if it is whole; what an earlier try left half done is deleted."""
        from mlflow.entities import LoggedModelStatus

        if self._there is None:
            self._there = {}
            for model in self._search():
                if model.name != NAME or EXPERIENCE not in model.tags:
                    continue
                if model.status == LoggedModelStatus.READY:
                    self._there[model.tags[EXPERIENCE]] = model
                else:
                    self._client.delete_logged_model(model.model_id)
        return self._there.get(str(index))

    def _search(self) -> Iterator[LoggedModel]:
        """All models of the run."""
        token: str | None = ""
        while token is not None:
            mine = f"source_run_id = '{self._run}'"
            page = self._client.search_logged_models([self._experiment], mine, page_token=token or None)
            yield from page
            token = page.token or None

    def _log(self, index: int, folder: Path, runs: Iterable[str], points: Iterable[Point]) -> LoggedModel:
        from mlflow.entities import LoggedModelOutput, Metric

        about = _about(folder)
        tags = {EXPERIENCE: str(index), EXPORTED: str(about["exported"]), "clkd.run_id": about["run_id"]}
        model = self._client.create_logged_model(self._experiment, NAME, self._run, tags, {"seed": str(about["seed"])})
        self._upload(model, folder)
        for run in runs:
            self._client.log_outputs(run, [LoggedModelOutput(model.model_id, step=index)])
        scored = [Metric(p.key, p.value, p.time, p.step, model_id=model.model_id) for p in points]
        self._client.log_batch(self._run, metrics=scored)  # the very points that the run has: it gets none twice
        self._brought["models"] += 1
        ready: LoggedModel = self._client.finalize_logged_model(model.model_id, "READY")
        return ready

    def _upload(self, model: LoggedModel, folder: Path) -> None:
        """A copy, which says whose it is and where it came to lie."""
        from mlflow.models import Model

        with tempfile.TemporaryDirectory() as place:
            copy = Path(shutil.copytree(folder, Path(place) / "model"))
            told = Model.load(str(copy))
            told.run_id, told.model_uuid, told.artifact_path = self._run, model.model_id, model.artifact_location
            told.model_id = model.model_id
            told.save(str(copy / "MLmodel"))
            self._client.log_model_artifacts(model.model_id, str(copy))

    def _register(self, name: str, model: LoggedModel) -> None:
        """A version of its own, unless there is one."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
                raise
        source = self._source(model)
        quote = '"' if "'" in name else "'"
        own = [v for v in self._client.search_model_versions(f"name = {quote}{name}{quote}") if v.source == source]
        version = own[0] if own else self._add_version(name, source, model)
        if DONE not in version.tags:
            if self._alias is not None and self._is_newest(name, self._alias, model.tags):
                self._client.set_registered_model_alias(name, self._alias, version.version)
            self._client.set_model_version_tag(name, version.version, DONE, self._alias or "none")

    def _source(self, model: LoggedModel) -> str:
        """A server knows its models by id. A database would look that up wherever the process has its MLflow."""
        uri: str = model.model_uri if self._served else model.artifact_location
        return uri

    def _add_version(self, name: str, source: str, model: LoggedModel) -> ModelVersion:
        """As `mlflow.register_model`, which also tells the model of it: so its page shows the version."""
        tags = dict(model.tags)
        version: ModelVersion = self._client.create_model_version(
            name, source, self._run, tags, await_creation_for=0, model_id=model.model_id
        )
        shown = json.dumps([{"name": name, "version": str(version.version)}])
        self._client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": shown})
        self._brought["versions"] += 1
        return version

    def _is_newest(self, name: str, alias: str, tags: Mapping[str, str]) -> bool:
        """A run that is brought in late takes the alias from no student that was trained after its own."""
        holder = self._client.get_registered_model(name).aliases.get(alias)
        if holder is None:
            return True
        other = self._client.get_model_version(name, holder).tags
        return float(other.get(EXPORTED, 0)) <= float(tags[EXPORTED])


def _about(folder: Path) -> dict[str, Any]:
    """What clkd wrote into the model's metadata."""
    from mlflow.models import Model

    told: dict[str, Any] = (Model.load(str(folder)).metadata or {})[models.KEY]
    return told
