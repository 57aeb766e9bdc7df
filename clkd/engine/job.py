"""What is to be run: a new scenario, or a run that goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clkd.engine.directory import SCENARIO, RunDirectory, create, find, new_run_id
from clkd.engine.material import Past
from clkd.engine.origin import Fork, open_fork, pinned
from clkd.engine.provenance import RESOLVED, check_plugins, check_scenario, check_state, digest, plugins_of
from clkd.engine.saver import Saved, newest
from clkd.errors import UserError
from clkd.ranks import ALONE, Ranks
from clkd.registry import Registry
from clkd.scenario.document import read_text, to_yaml
from clkd.scenario.load import Loaded, load
from clkd.scenario.model import Scenario
from clkd.scenario.request import RunRequest
from clkd.scenario.resolve import config_sha, resolved

PORTABLE = ("tracking", "device", "checkpoint", "report", "shift", "train.on_nan", "train.most_skips")
"""What a resumed run may change by `--set`: nothing that its numbers so far depend on."""


@dataclass(frozen=True, slots=True)
class Job:
    """One execution, decided but not composed.

    Attributes:
        scenario: checked and complete.
        source: the scenario file's text.
        base: where the scenario's relative paths start.
        directory: the run's own; None on a dry run.
        run_id: the run's.
        limit_batches: batches per epoch, a property of the run that resuming keeps.
        saved: where an earlier process stopped, if one did and had saved anything.
        resumed: whether there was an earlier process.
        fork: what this new run goes on from, if that is another run.
        origin: which run and experience that was, also after a resume.
        past: what is known of the stream, where it was trained in part.
    """

    scenario: Scenario
    source: str
    base: Path
    directory: RunDirectory | None
    run_id: str
    limit_batches: int | None = None
    saved: Saved | None = None
    tracking: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What trackers noted when the run first started, by tracker."""
    fork: Fork | None = None
    origin: dict[str, Any] | None = None
    past: Past | None = None
    resumed: bool = False

    @property
    def kept(self) -> tuple[Path, ...]:
        """Where copies of teachers' weights are: the run's own, and those of the run it goes on from."""
        places = [self.directory, self.fork.directory if self.fork else None]
        return tuple(place.teachers for place in places if place is not None)


@contextmanager
def open_job(request: RunRequest, registry: Registry, cache: Path, ranks: Ranks = ALONE) -> Iterator[Job]:
    """Read what the request names. Every rank does so; the first alone makes the directory of a new run, and keeps
    other processes from training the same one for as long as it is open.

    Raises:
        UserError: the scenario is wrong, the run to resume is not there or is being trained by another process, or the
            run's directory cannot be written.
    """
    if request.resume:
        directory = find(request.resume, cache)
        with _claimed(directory, request, ranks):  # before its checkpoints are read: they are still being written else
            yield _resumed(request, registry, directory)
        return
    job = _new(request, registry, cache, ranks)
    with _claimed(job.directory, request, ranks):
        yield job


def _claimed(directory: RunDirectory | None, request: RunRequest, ranks: Ranks) -> AbstractContextManager[None]:
    """Of several ranks the first speaks for all."""
    if directory is None or request.dry_run or not ranks.first:
        return nullcontext()
    return directory.claimed("training it")


def _new(request: RunRequest, registry: Registry, cache: Path, ranks: Ranks) -> Job:
    # Of what is `last`, the first rank's word counts: it makes a newer one soon.
    origin = ranks.tell(pinned(request.origin, cache)) if request.origin else None
    fork = open_fork(origin, cache) if origin else None
    loaded = _loaded(request, registry, fork)
    run_id = new_run_id()
    limit = request.limit_batches or (fork.manifest["limit_batches"] if fork else None)
    directory = None
    if ranks.first and not request.dry_run:
        directory = create(loaded.scenario.output, loaded.scenario.name, run_id, cache, loaded.source_text)
        if SCENARIO not in directory.manifest().get("found", ()):
            directory.write(SCENARIO, loaded.source_text)
        text = to_yaml(resolved(loaded.scenario))
        directory.write(RESOLVED, text)
        directory.update(
            base=str(loaded.base),
            command=request.command,
            limit_batches=limit,
            resolved_sha256=digest(text.encode()),
            plugins=plugins_of(loaded.scenario, registry, trackers=False),
        )
        if fork:
            directory.update(origin=fork.origin)
    run_id, directory = ranks.tell((run_id, directory))
    job = Job(loaded.scenario, loaded.source_text, loaded.base, directory, run_id, limit)
    return replace(job, fork=fork, origin=fork.origin, past=fork.past) if fork else job


def _loaded(request: RunRequest, registry: Registry, fork: Fork | None) -> Loaded:
    """The scenario of a new run: the file that is named, or a copy of the one it goes on from."""
    if request.scenario is not None:
        return load(request.scenario, request.settings, registry)
    assert fork is not None, "the command line asks for a scenario unless a run is named"
    settings = ["output=null", *request.settings]  # a place of its own
    return load(fork.directory.path / "resolved.yaml", settings, registry, base=Path(fork.manifest["base"]))


def _resumed(request: RunRequest, registry: Registry, directory: RunDirectory) -> Job:
    _refuse_changes(request)
    manifest = directory.manifest()
    check_scenario(directory, manifest)
    loaded = load(directory.path / RESOLVED, request.settings, registry, base=Path(manifest["base"]))
    if request.scenario is not None:
        _refuse_another(load(request.scenario, (), registry).scenario, loaded.scenario, request)
    check_plugins(manifest, loaded.scenario, registry)
    saved, origin = newest(directory.checkpoints), manifest.get("origin")
    if saved:
        check_state(saved.state, manifest, saved.path)
    elif origin:
        raise UserError(
            f"--resume {request.resume}: it stopped before it had taken over what run {origin['run']} had learned: "
            f"start it again with --from {origin['run']}@{origin['experience']}"
        )
    trained = saved.state["run"]["record"]["trained"] if saved else 0
    return Job(
        scenario=loaded.scenario,
        source=read_text(directory.path / SCENARIO),
        base=loaded.base,
        directory=directory,
        run_id=manifest["id"],
        limit_batches=manifest["limit_batches"],
        saved=saved,
        resumed=True,
        tracking=manifest.get("tracking", {}),
        origin=origin,
        past=Past(manifest.get("stream", []), trained),
    )


def _refuse_another(named: Scenario, own: Scenario, request: RunRequest) -> None:
    """A run goes on with its own copy of its scenario; a file named beside `--resume` must say the same."""
    if config_sha(named) != config_sha(own):
        raise UserError(
            f"--resume {request.resume}: {request.scenario} is not the scenario of that run: leave it out to "
            f"go on with the run's own copy, or leave --resume out to start a new run"
        )


def _refuse_changes(request: RunRequest) -> None:
    for setting in request.settings:
        key = setting.partition("=")[0].strip()
        if not {key, key.partition(".")[0]} & set(PORTABLE):
            raise UserError(
                f"--resume: {key} cannot change, since the run goes on as if it had never stopped; "
                f"start a new run for another {key}"
            )
    if request.limit_batches is not None:
        raise UserError("--resume: --limit-batches is a property of the run and cannot change")
