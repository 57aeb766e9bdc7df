"""Every built-in strategy keeps the laws, and every law catches a strategy that breaks it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clkd.plugins import load_plugins
from clkd.testing.contract import check, check_transfer
from clkd.testing.transfer_laws import TRANSFER_LAWS
from clkd.transfer.base import Transfer
from clkd.transfer.coral import Coral

REGISTRY = load_plugins().registry


@pytest.mark.parametrize("name", REGISTRY.names("transfers"))
def test_built_in_strategies_keep_the_contract(name):
    check_transfer(lambda: REGISTRY.build(REGISTRY.parse("transfers", name), seed=0))


def test_options_keep_it_too():
    check_transfer(lambda: Coral(feature="stage1", mean=True))


class PerRow(Coral):
    def forward(self, batch, a):
        return a.features["penultimate"].sum(1)


class Undefined(Coral):
    def forward(self, batch, a):
        return a.features["penultimate"][batch.new :].sum() / (len(batch) - batch.new)


class Detached(Coral):
    def forward(self, batch, a):
        return super().forward(batch, a).detach() + 0 * a.features["penultimate"].sum()


class Halved(Coral):
    def forward(self, batch, a):
        return a.features["penultimate"].mean()


class Forgetful(Coral):
    def __init__(self):
        super().__init__()
        self.scale = torch.rand(())

    def forward(self, batch, a):
        return self.scale * super().forward(batch, a)


class Once(Transfer):
    def begin(self, experience, student):
        assert not hasattr(self, "seen")
        self.seen = nn.Linear(1, 1)


BROKEN = {
    "scalar": PerRow, "nothing_old": Undefined, "gradient": Detached, "precision": Halved, "state": Forgetful,
    "moments": Once,
}  # fmt: skip


@pytest.mark.parametrize("law", TRANSFER_LAWS)
def test_each_law_catches_a_strategy_that_breaks_it(law):
    with pytest.raises(AssertionError) as caught:
        check(BROKEN[law], {law: TRANSFER_LAWS[law]})
    assert f"while checking the law '{law}' of {BROKEN[law].__name__}" in caught.value.__notes__
