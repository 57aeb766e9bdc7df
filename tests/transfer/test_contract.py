"""Every built-in strategy keeps the laws, and every law catches a strategy that breaks it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from clkd.plugins import load_plugins
from clkd.testing import material
from clkd.testing.contract import check, check_transfer
from clkd.testing.transfer_laws import TRANSFER_LAWS, _begun, _said
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


class Counting(Coral):
    """Weighs by a count that its state does not have."""

    steps = 0

    def forward(self, batch, a):
        self.steps += 1
        return self.steps * super().forward(batch, a)


def test_a_strategy_that_gathers_something_aside_of_its_state_is_caught():
    with pytest.raises(AssertionError, match="the value differs after load_state_dict"):
        check(Counting, {"state": TRANSFER_LAWS["state"]})


TARGETED = [n for n in REGISTRY.names("transfers") if "target" in REGISTRY.get("transfers", n).options.model_fields]
OURS = torch.tensor([True, False, True, True, False, False, True, False, True])


@pytest.mark.parametrize("target", ["unlabelled", "domain"])
@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in TARGETED), ("coral", {"form": "closed"}), ("entropy", {"diversity": 1})],
)
def test_a_strategy_goes_by_the_target_that_it_is_told(name, options, target):
    """The same rows with the target's first, as new ones, are worth as much where it is `new`."""
    plain = material.batch(6, 3)
    changes = {"y": torch.where(OURS, -1, plain.y)} if target == "unlabelled" else {"domain": torch.where(OURS, 7, 2)}
    told, order = replace(plain, **changes), torch.cat([OURS.nonzero()[:, 0], (~OURS).nonzero()[:, 0]])

    def worth(which, first=False):
        """The value, and the gradients in the order of `told`."""
        torch.manual_seed(0)
        part = REGISTRY.parse("transfers", {"kind": name, "target": which, **options})
        strategy = _begun(lambda: REGISTRY.build(part, seed=0))
        heard = _said(lambda: strategy)
        value = strategy(told.pick(order[:5], order[5:]), heard.pick(order)) if first else strategy(told, heard)
        value.backward()
        return value.detach(), torch.cat(material.gradients(heard), 1)

    found, otherwise = worth(target), worth("new")
    torch.testing.assert_close(found, worth("new", first=True), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found[1], otherwise[1], rtol=1e-2, atol=1e-4), "else it would prove nothing"


def test_all_that_know_a_target_are_tried():
    assert {"afn", "cdan", "coral", "dan", "dann", "entropy", "jan", "mcc", "mcd", "mmd"} <= set(TARGETED)
