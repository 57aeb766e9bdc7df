"""Every built-in loss keeps the laws, and every law catches a loss that breaks it."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from clkd.losses.base import Loss, logits_of
from clkd.losses.classification import CrossEntropy
from clkd.losses.feature import Features
from clkd.losses.relation import Relation
from clkd.losses.response import KD
from clkd.plugins import load_plugins
from clkd.testing.contract import check, check_loss
from clkd.testing.loss_laws import LOSS_LAWS

REGISTRY = load_plugins().registry


@pytest.mark.parametrize("name", REGISTRY.names("losses"))
def test_built_in_losses_keep_the_contract(name):
    check_loss(lambda: REGISTRY.build(REGISTRY.parse("losses", name), seed=0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: CrossEntropy(over="own", label_smoothing=0.1),
        lambda: CrossEntropy(over="new"),
        lambda: KD(variant="ce"),
        lambda: KD(variant="mse", rows="valid"),
        lambda: KD(scope="per_task", convention="plain"),
        lambda: Features(normalize="l2"),
        lambda: Relation(variant="both", mix=True),
        lambda: Relation(variant="angle"),
    ],
)
def test_other_options_keep_it_too(make):
    check_loss(make)


class Apart(Loss):
    """Difference of the common columns, without any virtue; the broken ones below change one thing each."""

    def forward(self, batch, a, b=None):
        return (logits_of(a)[:, :2] - logits_of(b)[:, :2].detach()).square().mean(1)


class NoShape(Apart):
    def forward(self, batch, a, b=None):
        return super().forward(batch, a, b)[:, None]


class Repelled(Apart):
    def forward(self, batch, a, b=None):
        return -super().forward(batch, a, b)


class Leaking(Apart):
    def forward(self, batch, a, b=None):
        return (logits_of(a)[:, :2] - logits_of(b)[:, :2]).square().mean(1)


class Overflowing(Apart):
    def forward(self, batch, a, b=None):
        return logits_of(a)[:, 0].exp().log() + super().forward(batch, a, b)


class Variance(Apart):
    def forward(self, batch, a, b=None):
        return logits_of(a).std(0).mean() + super().forward(batch, a, b)


class NormRoot(Apart):
    def forward(self, batch, a, b=None):
        rows = logits_of(a)[:, :2]
        return (rows[:, None] - rows[None]).square().sum(2).sqrt().mean()


class FirstRow(Apart):
    def forward(self, batch, a, b=None):
        return super().forward(batch, a, b) * torch.arange(len(batch))


class Stuck(Apart):
    def bind(self, a, b):
        self.width = getattr(self, "width", len(a.class_ids))

    def forward(self, batch, a, b=None):
        assert a.logits.shape[1] == self.width
        return super().forward(batch, a, b)


class Halved(Apart):
    def forward(self, batch, a, b=None):
        return (a.logits[:, :2] - b.logits[:, :2].detach()).square().mean(1)


class Forgetful(Apart):
    def bind(self, a, b):
        self.scale = torch.rand(())

    def forward(self, batch, a, b=None):
        return self.scale * super().forward(batch, a, b)


class Boastful(Apart):
    reads_known = True


BROKEN = {
    "shape": NoShape, "agreement": Repelled, "one_direction": Leaking, "finite": Overflowing, "single_row": Variance,
    "equal_rows": NormRoot, "permutation": FirstRow, "growth": Stuck, "precision": Halved, "partial": Boastful,
    "state": Forgetful,
}  # fmt: skip


def test_the_plain_example_keeps_the_contract():
    check_loss(Apart)


@pytest.mark.filterwarnings("ignore:std.*degrees of freedom")
@pytest.mark.parametrize("law", LOSS_LAWS)
def test_each_law_catches_a_loss_that_breaks_it(law):
    with pytest.raises((AssertionError, RuntimeError)) as caught:
        check(BROKEN[law], {law: LOSS_LAWS[law]})
    assert f"while checking the law '{law}' of {BROKEN[law].__name__}" in caught.value.__notes__


def test_a_class_may_opt_out_of_a_law_with_a_reason():
    class Excused(Repelled):
        contract_optouts: ClassVar[dict[str, str]] = {"agreement": "drives models apart on purpose"}

    check_loss(Excused)


@pytest.mark.parametrize(("optouts", "message"), [({"agreemnt": "x"}, "did you mean"), ({"finite": ""}, "reason")])
def test_an_opt_out_names_a_law_and_a_reason(optouts, message):
    class Excused(Apart):
        contract_optouts: ClassVar[dict[str, str]] = optouts

    with pytest.raises(AssertionError, match=message):
        check_loss(Excused)
