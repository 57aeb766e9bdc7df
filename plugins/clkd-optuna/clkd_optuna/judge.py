"""What a setting is worth: accuracy on an experience's validation rows, right after it was trained."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clkd import hookimpl
from clkd.engine.execute import execute, make_room
from clkd.engine.guard import NonFiniteError
from clkd.errors import UserError
from clkd.scenario.request import RunRequest
from clkd.scenario.settings import as_setting

if TYPE_CHECKING:
    from clkd import Experience
    from clkd.engine.run import Run
    from clkd.plugins import Plugins

BASE = "base"


@dataclass(slots=True)
class Score:
    """Accuracy on validation rows, over all seeds, and how many rows that were.

    >>> round(Score(0.9, 100).standard_error, 3), round(Score(1.0, 28).standard_error, 3)
    (0.031, 0.043)
    """

    accuracy: float
    rows: int

    @property
    def standard_error(self) -> float:
        """What other rows would have made of it: binomial, with two right and two wrong answers more (Agresti & Coull
        1998), so that a few rows which are all right are not taken for certainty. Seeds come on top."""
        share = (self.accuracy * self.rows + 2) / (self.rows + 4)
        return math.sqrt(share * (1 - share) / (self.rows + 4))


@dataclass(slots=True, eq=False)
class _Listener:
    """Hears what one experience's validation rows say, and nothing of test rows."""

    wanted: int
    heard: Score | None = None

    @hookimpl
    def clkd_experience_end(self, run: Run, experience: Experience) -> None:
        if experience.index == self.wanted and len(experience.validation):
            self.heard = Score(run.record.validation[-1][self.wanted], len(experience.validation))


@dataclass(slots=True)
class Judge:
    """Trains a scenario at a setting, up to one experience.

    Args:
        experience: the one that decides. What comes before it is trained once for each seed, by the scenario as it
            stands, and every trial goes on from there.
        always: settings of every run, such as the share of rows that are held out.
        seeds: None is the scenario's own.
    """

    scenario: Path
    experience: int
    always: tuple[str, ...]
    seeds: tuple[int | None, ...]
    out: Path
    plugins: Plugins
    device: str | None = None
    limit_batches: int | None = None
    _bases: dict[int | None, Path] = field(default_factory=dict)

    def __call__(self, settings: tuple[str, ...]) -> Score:
        """Over all seeds. A setting with which training breaks (a loss is no number any more) is worth nothing.

        Raises:
            UserError: it cannot be trained at all, or the experience has no rows to tell by.
        """
        scores = [self._of(settings, seed) for seed in self.seeds]
        return Score(sum(score.accuracy for score in scores) / len(scores), sum(score.rows for score in scores))

    def check(self) -> None:
        """Look at the stream before anything is trained.

        Raises:
            UserError: the scenario cannot be trained, or the experience is not there or has no rows to tell by.
        """
        stream = execute(RunRequest(self.scenario, self.always, dry_run=True, quiet=True), self.plugins)["stream"]
        if self.experience >= len(stream) or not stream[self.experience]["validation"]:
            raise self._nothing()

    def _nothing(self) -> UserError:
        return UserError(f"--experience {self.experience}: there is none, or it has no labelled rows to hold out")

    def _of(self, settings: tuple[str, ...], seed: int | None) -> Score:
        origin = f"{self._base(seed)}@{self.experience - 1}" if self.experience else None
        try:
            return self._heard(settings, seed, self.out / "trial", origin)
        except NonFiniteError:
            return Score(0.0, 0)

    def _heard(self, settings: tuple[str, ...], seed: int | None, directory: Path, origin: str | None) -> Score:
        listener = _Listener(self.experience)
        self.plugins.manager.register(listener)
        try:
            self._run(settings, seed, directory, self.experience + 1, origin)
        finally:
            self.plugins.manager.unregister(listener)
            shutil.rmtree(directory, ignore_errors=True)
        if listener.heard is None:
            raise self._nothing()
        return listener.heard

    def _base(self, seed: int | None) -> Path:
        """The run that every trial of a seed goes on from; one that was stopped is made again."""
        directory = self.out / (BASE if seed is None else f"{BASE}-{seed}")
        whole = directory.with_suffix(".done")
        if not whole.exists():
            shutil.rmtree(directory, ignore_errors=True)
            self._run((), seed, directory, self.experience)
            whole.touch()
        return directory

    def _run(
        self, settings: tuple[str, ...], seed: int | None, directory: Path, experiences: int, origin: str | None = None
    ) -> dict[str, Any]:
        if directory.exists():
            shutil.rmtree(directory)
        request = RunRequest(
            scenario=self.scenario,
            overrides=(*settings, *self.always, as_setting("output", str(directory.absolute()))),
            seed=seed,
            device=self.device,
            limit_experiences=experiences,
            limit_batches=self.limit_batches,
            tracking="off",
            origin=origin,
            quiet=True,
        )
        make_room()
        return execute(request, self.plugins)
