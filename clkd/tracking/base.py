"""The base of every tracker: all of its moments, each harmless."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clkd.engine.run import Outcome, Run
    from clkd.experience import Experience


class Tracker:
    """Records a run somewhere. May fail: a failure is reported once and never stops training."""

    name = "tracker"

    def start(self, run: Run) -> None:
        """Once per process, before training; `run.resumed` tells whether it was started before."""

    def arrival(self, run: Run, experience: Experience, drift: dict[str, Any]) -> None:
        """Before an experience is trained, where `shift` is measured: what the drift monitor says of its rows (`alarm`,
        `p`, `nearest` and `domains`: see `clkd.metrics.shift.Drift`). Once more where a run goes on within it."""

    def epoch(self, run: Run, experience: Experience, metrics: dict[str, float]) -> None:
        """After each epoch: means over the epoch, named as MLflow shows them (`train/loss`, `train/loss_kd`)."""

    def evaluation(self, run: Run, experience: Experience, metrics: dict[str, float]) -> None:
        """After each evaluation within an experience (`train.evaluate_every`), after `run.step` steps."""

    def experience(self, run: Run, experience: Experience, result: dict[str, Any]) -> None:
        """After each experience: `result["metrics"]` (named for MLflow), `accuracy`, `accuracy_task_aware`,
        `per_class`, `report` if one was asked for, and the matrix so far in `run.record`."""

    def end(self, run: Run, outcome: Outcome) -> None:
        """Once, however the run ended."""
