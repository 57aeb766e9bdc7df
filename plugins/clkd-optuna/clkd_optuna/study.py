"""The search itself: optuna's sampler over a study that lies in a file and goes on where it was stopped."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from clkd.errors import UserError
from clkd.seeding import derive
from clkd_optuna.judge import Score
from clkd_optuna.space import Space

FILE = "study.db"
ABOUT, SETTINGS, ROWS, RELAXED = "about", "settings", "rows", "relaxed"
"""What is stored beside what optuna stores itself."""


Judging = Callable[[tuple[str, ...]], Score]


@cache
def optuna() -> Any:
    """The module `optuna`, which says nothing of its own accord."""
    library = importlib.import_module("optuna")
    library.logging.set_verbosity(library.logging.WARNING)
    return library


class Study:
    """Settings that were tried, and what they were worth.

    Which setting is tried next depends on those that are finished alone, so a search that was stopped ends like one
    that was not.

    Args:
        about: what is searched, as plain data. A folder that holds another search is refused.

    Raises:
        UserError: the folder holds another search.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{folder / FILE}"
        self._study = optuna().create_study(
            storage=storage, study_name="clkd", direction="maximize", load_if_exists=True
        )
        self._own(folder, about)

    def _own(self, folder: Path, about: dict[str, Any]) -> None:
        known = self._study.user_attrs.get(ABOUT)
        plain = json.loads(json.dumps(about))
        if known is None:
            self._study.set_user_attr(ABOUT, plain)
        elif known != plain:
            differ = [key for key in plain if known.get(key) != plain[key]]
            raise UserError(f"{folder} holds another search ({', '.join(differ)} differ): give another --out")

    def run(
        self, trials: int, space: Space, judge: Callable[[tuple[str, ...]], Score], tell: Callable[[str], None]
    ) -> None:
        """Try settings until so many are known. One that comes again is not trained again."""
        self._give_up_unfinished()
        while (done := len(self.scores())) < trials:
            self._study.sampler = optuna().samplers.TPESampler(seed=derive(0, "tune", done) % 2**32)
            trial = self._study.ask()
            settings = space.ask(trial)
            before = dict(self.scores()).get(settings)
            score = judge(settings) if before is None else before
            trial.set_user_attr(SETTINGS, list(settings))
            trial.set_user_attr(ROWS, score.rows)
            self._study.tell(trial, score.accuracy)
            again = "" if before is None else " (known)"
            tell(f"[{done + 1}/{trials}] {', '.join(settings) or 'as it stands'}: {100 * score.accuracy:.2f} %{again}")

    def _give_up_unfinished(self) -> None:
        """Those that another process was about to train when it was stopped."""
        states = optuna().trial.TrialState
        for trial in self._study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            self._study.tell(trial.number, state=states.FAIL)

    def scores(self) -> list[tuple[tuple[str, ...], Score]]:
        """Each trial that is finished: its settings, and what they are worth."""
        states = optuna().trial.TrialState
        found = self._study.get_trials(deepcopy=False, states=(states.COMPLETE,))
        return [(tuple(each.user_attrs[SETTINGS]), Score(each.value, each.user_attrs[ROWS])) for each in found]

    def best(self) -> tuple[tuple[str, ...], Score]:
        """Of several that are worth the same, the one that was tried first."""
        return max(self.scores(), key=lambda scored: scored[1].accuracy)

    def relaxed(self) -> dict[str, list[float]]:
        """What `--stability` was worth, by its setting: accuracy and rows."""
        found: dict[str, list[float]] = self._study.user_attrs.get(RELAXED, {})
        return dict(found)

    def note_relaxed(self, setting: str, score: Score) -> None:
        self._study.set_user_attr(RELAXED, {**self.relaxed(), setting: [score.accuracy, score.rows]})
