"""The marker for plugins and the hooks they may implement.

Things are registered, moments are told; the training step calls neither. Hooks may gain arguments, never lose them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from clkd.engine.run import Outcome, Run
    from clkd.experience import Experience
    from clkd.registry import Register, Registry
    from clkd.scenario.model import Scenario

PROJECT = "clkd"
"""pluggy's project name and the entry-point group that plugins declare."""

hookimpl = pluggy.HookimplMarker(PROJECT)
hookspec = pluggy.HookspecMarker(PROJECT)


@hookspec
def clkd_register_losses(register: Register) -> None:
    """Once per process: call `register(name, factory, config=…, summary=…)` for each loss."""


@hookspec
def clkd_register_memories(register: Register) -> None:
    """Once per process: register what keeps rows of the past."""


@hookspec
def clkd_register_retrievals(register: Register) -> None:
    """Once per process: register what chooses the rows that a memory replays."""


@hookspec
def clkd_register_transfers(register: Register) -> None:
    """Once per process: register strategies that make domains comparable."""


@hookspec
def clkd_register_teachers(register: Register) -> None:
    """Once per process: register sources of teaching signals."""


@hookspec
def clkd_register_models(register: Register) -> None:
    """Once per process: register backbones."""


@hookspec
def clkd_register_heads(register: Register) -> None:
    """Once per process: register classifiers that sit on a backbone and may grow."""


@hookspec
def clkd_register_datasets(register: Register) -> None:
    """Once per process: register where images and labels come from."""


@hookspec
def clkd_register_streams(register: Register) -> None:
    """Once per process: register ways to cut a data set into experiences."""


@hookspec
def clkd_register_schedules(register: Register) -> None:
    """Once per process: register what a weight or temperature may follow."""


@hookspec
def clkd_register_gradients(register: Register) -> None:
    """Once per process: register policies that change a step's gradient by what it does to replayed rows."""


@hookspec
def clkd_register_metrics(register: Register) -> None:
    """Once per process: register numbers computed from an evaluation."""


@hookspec
def clkd_register_trackers(register: Register) -> None:
    """Once per process: register where a run is recorded."""


@hookspec
def clkd_register_methods(register: Register) -> None:
    """Once per process: register named presets, each a fragment of a scenario that the scenario may override."""


@hookspec
def clkd_register_commands(cli: click.Group) -> None:
    """Once, when the command line is built: add commands to `cli`."""


@hookspec
def clkd_configure(scenario: Scenario, registry: Registry) -> None:
    """After a scenario was checked and before data is touched, also on `--dry-run`. May raise `UserError`."""


@hookspec
def clkd_run_start(run: Run) -> None:
    """Once, before the first experience of this process."""


@hookspec
def clkd_run_end(run: Run, outcome: Outcome) -> None:
    """Once, however the run ended."""


@hookspec
def clkd_experience_start(run: Run, experience: Experience) -> None:
    """Before an experience is trained."""


@hookspec
def clkd_experience_end(run: Run, experience: Experience, result: dict[str, Any]) -> None:
    """After an experience was trained and evaluated."""


@hookspec
def clkd_epoch_end(run: Run, experience: Experience, metrics: dict[str, float]) -> None:
    """After each epoch, with the means that are logged: the finest grain there is."""
