"""Taps before a ReLU: what it is about to cut off, in every backbone that offers it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from clkd.errors import UserError
from clkd.models.backbones.lenet import LeNet
from clkd.models.backbones.mlp import MLP
from clkd.models.backbones.resnet import resnet8, resnet20
from clkd.models.compiled import Compiled
from clkd.models.heads import Linear
from clkd.models.student import Student
from clkd.models.taps import Taps
from clkd.signals import Needs

X = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", [resnet8, resnet20, lambda shape: MLP(shape, hidden=(5, 7))])
def test_the_tap_before_a_stages_last_relu_is_the_stage_before_its_relu(make):
    backbone, taps = make((1, 16, 16)).eval(), Taps()
    names = tuple(name for stage in backbone.stages for name in (stage, f"{stage}_pre"))
    taps.bind(backbone, names)
    _, said = taps.run(backbone, X, names)
    for stage in backbone.stages:
        assert (said[f"{stage}_pre"] < 0).any()
        assert torch.equal(said[f"{stage}_pre"].relu(), said[stage])


def test_lenets_are_not_pooled_yet():
    backbone, taps = LeNet((1, 28, 28)), Taps()
    taps.bind(backbone, ["stage1_pre", "stage1", "stage3_pre"])
    _, said = taps.run(backbone, torch.randn(2, 1, 28, 28), ("stage1_pre", "stage1", "stage3_pre"))
    assert torch.equal(nn.functional.max_pool2d(said["stage1_pre"].relu(), 2), said["stage1"])
    assert (said["stage3_pre"] < 0).any()


class InPlace(nn.Module):
    """As torchvision's networks do it: one in-place ReLU, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.out_features, self.stages = 4, {"stage1": "conv"}
        self.conv, self.relu = nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.relu(self.conv(x)) - 0.1).mean((2, 3))


def test_an_in_place_relu_does_not_overwrite_what_was_tapped_before_it():
    """mdistiller, torchdistill: a hooked pre-activation is 0 at its lowest, for the ReLU behind it wrote over it."""
    backbone, taps = InPlace(), Taps()
    taps.bind(backbone, ["relu:in"])
    _, said = taps.run(backbone, X, ("relu:in",))
    expected = backbone.conv(X).relu() - 0.1
    assert torch.equal(said["relu:in"], expected), "the last run's input"
    twin = copy.deepcopy((backbone, taps))
    assert torch.equal(twin[1].run(twin[0], X, ("relu:in",))[1]["relu:in"], expected)


def test_it_is_tapped_in_a_compiled_network_as_well():
    made = Student(resnet8((1, 16, 16), width=4), Linear(16), (1, 16, 16)).eval()
    made.request(("stage2_pre",))
    needs = Needs(logits=False, features=("stage2_pre",))
    plain = made.signals(X, needs).features["stage2_pre"]
    made.runner = Compiled("default", frozenset({len(X)}), "eager")
    assert torch.equal(made.signals(X, needs).features["stage2_pre"], plain)
    assert not made.runner.failed


@pytest.mark.parametrize("name", ["stage3_pree", "layer1:out", "layer9:in"])
def test_what_is_not_there_is_refused(name):
    with pytest.raises(UserError, match="is not known"):
        Taps().bind(resnet8((1, 8, 8)), [name])
