"""Every built-in loss keeps the laws, and every law catches a loss that breaks it."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from clkd.losses.base import Loss, common_columns, logits_of
from clkd.losses.classification import CrossEntropy
from clkd.losses.correlation import DIST
from clkd.losses.decoupled import DKD, NKD
from clkd.losses.feature import Features
from clkd.losses.multilevel import MLKD
from clkd.losses.pseudo_label import HardLabel
from clkd.losses.relation import Relation
from clkd.losses.response import KD
from clkd.losses.virtual import VirtualTeacher
from clkd.plugins import load_plugins
from clkd.schedules.constant import Constant
from clkd.signals import Needs
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
        lambda: KD(variant="l2"),
        lambda: CrossEntropy(over="batch"),
        lambda: KD(scope="per_task", convention="plain"),
        lambda: KD(standardize=True, rows="valid"),
        lambda: KD(standardize=True, few_classes="kd"),
        lambda: KD(top_k=2),
        lambda: KD(variant="mse", top_k=1),
        lambda: DKD(temperature=Constant(4.0), few_classes="kd"),
        lambda: DKD(standardize=True),
        lambda: NKD(temperature=2.0, gamma=0.5, few_classes="kd"),
        lambda: DIST(temperature=2.0, rows="valid", few_classes="kd"),
        lambda: MLKD(rows="valid"),
        lambda: MLKD(standardize=True, few_classes="kd"),
        lambda: HardLabel(threshold=0.5, rows="valid"),
        lambda: VirtualTeacher(correct=0.6, temperature=1.0, over="own"),
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


class Matched(Apart):
    """The plainest loss that keeps every law."""

    reads_known = True

    def bind(self, a, b):
        self.at_a, self.at_b = common_columns(a, b)

    def forward(self, batch, a, b=None):
        squares = (logits_of(a)[:, self.at_a] - logits_of(b)[:, self.at_b].detach()).square()
        return (squares if b.known is None else squares.where(b.known[:, self.at_b], 0.0)).mean(1)


class Boastful(Matched):
    """Believes a stored answer about classes that came later."""

    def forward(self, batch, a, b=None):
        return super().forward(batch, a, replace(b, known=None))


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
        return (logits_of(a) / 0.5).exp().sum(1).log() + super().forward(batch, a, b)


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
    """Keeps what it saw at its first bind."""

    def bind(self, a, b):
        self.width = getattr(self, "width", len(a.class_ids))

    def forward(self, batch, a, b=None):
        return super().forward(batch, a, b) * self.width


class Halved(Apart):
    def forward(self, batch, a, b=None):
        return (a.logits[:, :2] - b.logits[:, :2].detach()).square().mean(1)


class Forgetful(Apart):
    """Counts its batches, and does not save the count."""

    count = 0

    def forward(self, batch, a, b=None):
        self.count += 1
        return self.count * super().forward(batch, a, b)


class BelowZero(Apart):
    def forward(self, batch, a, b=None):
        return super().forward(batch, a, b) - 1


class Idle(Apart):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


class Frozen(Apart):
    """Its value depends on more than its gradient says."""

    def forward(self, batch, a, b=None):
        rows = super().forward(batch, a, b)
        return rows * rows.detach()


class Labelled(Apart):
    """A class without a column has no place in it."""

    def forward(self, batch, a, b=None):
        known = (batch.y >= 0).float()
        return super().forward(batch, a, b) * known / known.sum()


class TopTwo(Apart):
    """Says nothing where there are but two classes, and does not say so."""

    def forward(self, batch, a, b=None):
        z, v = logits_of(a)[:, :2], logits_of(b)[:, :2].detach()
        third = logits_of(a)[:, 2] if a.logits.shape[1] > 2 else 0
        return (z * 0 - v * 0).square().mean(1) + abs(third) * (third - 1) ** 2


class InPlace(Apart):
    def forward(self, batch, a, b=None):
        b.logits.detach().mul_(2)
        return super().forward(batch, a, b)


class Square(Apart):
    """Takes every map for a square one."""

    needs = Needs(features=("penultimate",))

    def forward(self, batch, a, b=None):
        f, g = a.features["penultimate"], b.features["penultimate"].detach()
        if f.dim() == 2:
            return (f - g).square().mean(1)
        side = f.shape[-1]
        return (f.reshape(len(f), -1, side, side) - g.reshape(len(g), -1, side, side)).square().mean((1, 2, 3))


class Unregistered(Apart):
    """A plain list, as in a well-known repository: its tensors are neither moved, optimised nor saved."""

    def __init__(self):
        super().__init__()
        self.scales = [nn.Parameter(torch.ones(()))]

    def forward(self, batch, a, b=None):
        return self.scales[0] * super().forward(batch, a, b)


BROKEN = {
    "shape": NoShape, "agreement": Repelled, "non_negative": BelowZero, "one_direction": Leaking, "trained": Idle,
    "gradient": Frozen, "finite": Overflowing, "precision": Halved, "single_row": Variance, "equal_rows": NormRoot,
    "unlabelled": Labelled, "permutation": FirstRow, "two_classes": TopTwo, "growth": Stuck, "class_order": Apart,
    "partial": Boastful, "untouched": InPlace, "maps": Square, "state": Forgetful,
}  # fmt: skip


def test_the_plain_example_keeps_the_contract():
    check_loss(Matched)


@pytest.mark.filterwarnings("ignore:std.*degrees of freedom")
@pytest.mark.parametrize("law", LOSS_LAWS)
def test_each_law_catches_a_loss_that_breaks_it(law):
    with pytest.raises((AssertionError, RuntimeError)) as caught:
        check(BROKEN[law], {law: LOSS_LAWS[law]})
    assert f"while checking the law '{law}' of {BROKEN[law].__name__}" in caught.value.__notes__


def test_parameters_in_a_plain_list_are_caught():
    with pytest.raises(AssertionError, match="ModuleList"):
        check(Unregistered, {"one_direction": LOSS_LAWS["one_direction"]})


class LastClass(Loss):
    """Looks the column of a label up by indexing, which for -1 finds the last one."""

    sides = 1

    def forward(self, batch, a, b=None):
        place = torch.full((7,), 0)
        place[a.class_ids] = torch.arange(len(a.class_ids))
        return torch.nn.functional.cross_entropy(logits_of(a), place[batch.y], reduction="none")


def test_a_loss_that_takes_no_label_for_a_class_is_caught():
    with pytest.raises(AssertionError, match="are taken for rows of some class"):
        check(LastClass, {"unlabelled": LOSS_LAWS["unlabelled"]})


def test_a_class_may_opt_out_of_a_law_with_a_reason():
    class Excused(Matched):
        contract_optouts: ClassVar[dict[str, str]] = {
            "agreement": "drives models apart on purpose", "non_negative": "the further apart, the better"
        }  # fmt: skip

        def forward(self, batch, a, b=None):
            return -super().forward(batch, a, b)

    check_loss(Excused)


@pytest.mark.parametrize(("optouts", "message"), [({"agreemnt": "x"}, "did you mean"), ({"finite": ""}, "reason")])
def test_an_opt_out_names_a_law_and_a_reason(optouts, message):
    class Excused(Matched):
        contract_optouts: ClassVar[dict[str, str]] = optouts

    with pytest.raises(AssertionError, match=message):
        check_loss(Excused)


class Centred(Loss):
    """Entropy about a centre that follows the answers: reads no label, and counts."""

    sides = 1

    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(()))

    def forward(self, batch, a, b=None):
        logits = a.logits.float() - self.centre
        self.centre = 0.9 * self.centre + logits.detach().mean() + 0.1
        return -(logits.softmax(1) * logits.log_softmax(1)).sum(1) * (1 + self.centre.tanh())


def test_a_loss_that_counts_is_not_taken_for_one_that_reads_labels():
    check(Centred, {"unlabelled": LOSS_LAWS["unlabelled"]})
