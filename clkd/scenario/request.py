"""What `clkd run` was asked to do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One `clkd run`.

    Attributes:
        scenario: the scenario file; None only with `resume` or `origin`, which have their own copy.
        overrides: each `--set a.b=v`, as typed.
        seed, device: instead of the scenario's.
        dry_run: compose everything, train nothing, write nothing.
        limit_experiences, limit_batches: stop early.
        tracking, tracking_uri: instead of the scenario's `tracking.mode` and `tracking.uri`.
        resume: a run's directory, its id, or `last`.
        origin: the run that a new one goes on from, as `resume` names it, perhaps with `@EXPERIENCE`.
        json: print one JSON object on stdout, and nothing else.
        quiet: less on stderr.
        command: what was typed.
    """

    scenario: Path | None = None
    overrides: tuple[str, ...] = ()
    seed: int | None = None
    device: str | None = None
    dry_run: bool = False
    limit_experiences: int | None = None
    limit_batches: int | None = None
    tracking: Literal["mlflow", "required", "offline", "off"] | None = None
    tracking_uri: str | None = None
    resume: str | None = None
    origin: str | None = None
    json: bool = False
    quiet: bool = False
    command: str = ""

    @property
    def settings(self) -> list[str]:
        """Every change to the scenario as `load` takes it: flags that stand for one come last and win.

        >>> RunRequest(overrides=("name=a",), seed=3, tracking_uri="sqlite:///x.db").settings
        ['name=a', 'seed=3', 'tracking.uri="sqlite:///x.db"']
        """
        flags = {
            "seed": self.seed,
            "device": self.device,
            "tracking.mode": self.tracking,
            "tracking.uri": self.tracking_uri,
        }
        given = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in flags.items() if value is not None]
        return [*self.overrides, *given]
