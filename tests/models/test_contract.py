"""Every built-in model keeps the laws, and every law catches a model that breaks it."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from clkd.models.backbones.base import Backbone
from clkd.models.backbones.mlp import MLP
from clkd.plugins import isolated
from clkd.testing.contract import check, check_model
from clkd.testing.model_laws import MODEL_LAWS

REGISTRY = isolated().registry
SHAPES = {"lenet": (1, 28, 28), "torchvision": (3, 64, 64)}
SMALL = {name: {"width": 4} for name in REGISTRY.names("models") if name.startswith("resnet")}
SMALL["torchvision"] = {"model": "squeezenet1_1"}


@pytest.mark.parametrize("name", REGISTRY.names("models"))
def test_built_in_models_keep_the_contract(name):
    part = REGISTRY.parse("models", {"kind": name, **SMALL.get(name, {})})
    check_model(lambda shape: REGISTRY.build(part, shape=shape), SHAPES.get(name, (3, 16, 16)))


class Plain(Backbone):
    """A convolution, a batch norm and a ReLU; the broken ones below change one thing each."""

    def __init__(self, shape):
        super().__init__()
        self.conv = nn.Conv2d(shape[0], 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.out_features = 4
        self.stages, self.before_relu = {"stage1": "relu"}, {"stage1_pre": "norm"}

    def forward(self, x):
        return self.relu(self.norm(self.conv(x))).mean((2, 3))


class Masked(Plain):
    """A channel of it is shut."""

    def __init__(self, shape):
        super().__init__(shape)
        self.register_buffer("open", torch.tensor([True, True, True, False]))

    def forward(self, x):
        return super().forward(x) * self.open


class Wide(Plain):
    def __init__(self, shape):
        super().__init__(shape)
        self.out_features = 5


class Random(Plain):
    def __init__(self, shape):
        super().__init__(shape)
        self.conv.bias.data.fill_(random.random())


class Noisy(Plain):
    def forward(self, x):
        return super().forward(x + torch.rand(()))


class BatchCentred(Plain):
    def forward(self, x):
        return super().forward(x - x.mean(0))


class Counting(Plain):
    def __init__(self, shape):
        super().__init__(shape)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return super().forward(x)


class Sleepless(Plain):
    def train(self, mode=True):
        super().train(mode)
        self.norm.train()
        return self


class Idle(Plain):
    def __init__(self, shape):
        super().__init__(shape)
        self.spare = nn.Linear(2, 2)


class Unrun(Plain):
    def forward(self, x):
        return self.norm(self.conv(x)).relu().mean((2, 3))


class Overwriting(Plain):
    """Says that nothing in it writes in place."""

    def forward(self, x):
        return torch.relu_(self.norm(self.conv(x))).mean((2, 3)) + 0 * self.relu(x).sum()


class Viewing(Plain):
    def forward(self, x):
        return super().forward(x.view(-1).view(x.shape))


class Mixing(Plain):
    """Mixes what a convolution says, which autocast makes bfloat16, with a weight that stays float32."""

    def forward(self, x):
        said = self.norm(self.conv(x))
        return self.relu(torch.lerp(said, torch.zeros(said.shape), 0.5)).mean((2, 3))


class Unregistered(Plain):
    def __init__(self, shape):
        super().__init__(shape)
        self.scales = [torch.rand(())]

    def forward(self, x):
        return super().forward(x) * self.scales[0]


class Shared(Plain):
    """A weight that every copy has in common."""

    def __init__(self, shape):
        super().__init__(shape)
        self.scale = nn.Parameter(torch.ones(()))

    def __deepcopy__(self, memo):
        twin = Plain.__new__(type(self))
        twin.__dict__ = dict(self.__dict__)
        return twin


class InPlace(Plain):
    def forward(self, x):
        return super().forward(x.mul_(2))


BROKEN = {
    "features": Wide, "seeded": Random, "repeatable": Noisy, "row_by_row": BatchCentred, "still": Counting,
    "freezable": Sleepless, "gradient": Idle, "taps": Unrun, "in_place": Overwriting, "channels_last": Viewing,
    "autocast": Mixing, "state": Unregistered, "copied": Shared, "untouched": InPlace,
}  # fmt: skip


@pytest.mark.parametrize("example", [Plain, Masked])
def test_the_examples_keep_the_contract(example):
    check_model(example, (3, 8, 8))


class SharedMask(Masked):
    __deepcopy__ = Shared.__deepcopy__


def test_a_mask_that_every_copy_has_in_common_is_found():
    with pytest.raises(AssertionError, match="a copy changes with the original"):
        check(SharedMask, {"copied": MODEL_LAWS["copied"]}, SharedMask, shape=(3, 8, 8))


@pytest.mark.parametrize("law", MODEL_LAWS)
def test_each_law_catches_a_model_that_breaks_it(law):
    with pytest.raises(Exception) as caught:  # noqa: PT011  # also what a tap or torch itself says
        check(BROKEN[law], {law: MODEL_LAWS[law]}, BROKEN[law], shape=(3, 8, 8))
    assert f"while checking the law '{law}' of {BROKEN[law].__name__}" in caught.value.__notes__


def test_vectors_will_do_for_an_mlp():
    check_model(MLP, (5,))
