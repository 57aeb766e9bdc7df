"""Which plugins a run must find again."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from clkd.engine.provenance import check_plugins, plugins_of
from clkd.errors import UserError
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load

PLUGIN = """
from clkd import Loss, Tracker, hookimpl

class Watch(Tracker):
    \"\"\"Looks on.\"\"\"
    name = "watch"

class Nothing(Loss):
    \"\"\"Adds nothing.\"\"\"
    def forward(self, batch, a, b=None):
        return a.logits.sum(1) * 0

@hookimpl
def clkd_register_trackers(register):
    register("watch", Watch, summary="looks on")

@hookimpl
def clkd_register_losses(register):
    register("nothing", Nothing, summary="adds nothing")
"""
SCENARIO = {
    "name": "tiny",
    "stream": {"dataset": "digits", "split": {"by": "class", "experiences": 2}},
    "student": {"model": "mlp", "head": "linear"},
    "losses": ["cross_entropy"],
    "train": {"optimizer": "sgd"},
}


def test_numbers_do_not_depend_on_who_looks_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    registry = load_plugins([tmp_path]).registry

    def scenario(**changes: object) -> object:
        (tmp_path / "s.yaml").write_text(to_yaml({**SCENARIO, **changes}))
        return load(tmp_path / "s.yaml", (), registry).scenario

    watched = scenario(tracking={"trackers": ["watch"]})
    assert plugins_of(watched, registry).keys() == {"mine"}
    assert plugins_of(watched, registry, trackers=False) == {}
    with caplog.at_level(logging.WARNING):
        check_plugins({"plugins": {"mine": "mine.py 000000000000"}}, watched, registry)  # as earlier versions noted it
    assert not caplog.records
    taught = scenario(losses=["cross_entropy", "nothing"], tracking={"trackers": ["watch"]})
    noted = plugins_of(taught, registry, trackers=False)
    assert noted.keys() == {"mine"}
    check_plugins({"plugins": noted}, taught, registry)
    with pytest.raises(UserError, match="the run began with plugin 'mine'"):
        check_plugins({"plugins": noted}, scenario(), registry)
