"""The scenarios that come with clkd."""

from pathlib import Path

import pytest

from clkd.scenario.load import load

HOUSE = Path(__file__).parents[2]
SHIPPED = sorted((HOUSE / "scenarios").rglob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(HOUSE)))
def test_a_shipped_scenario_is_right(path, registry):
    scenario = load(path, [], registry).scenario
    assert scenario.losses
    assert scenario.name


def test_the_main_scenario_is_shipped():
    assert HOUSE / "scenarios" / "split_cifar.yaml" in SHIPPED
