"""Taps give what a module put out, change nothing, hold nothing, and belong to their own copy."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from clkd.errors import UserError
from clkd.models.backbones.base import Backbone
from clkd.models.backbones.resnet import resnet8
from clkd.models.heads import Linear
from clkd.models.student import Student
from clkd.signals import Needs

SHAPE = (3, 8, 8)


def student(backbone=None):
    torch.manual_seed(0)
    backbone = backbone or resnet8(SHAPE)
    made = Student(backbone, Linear(backbone.out_features), SHAPE)
    made.grow((0, 1), 0, torch.Generator())
    return made


def features(model, x, *names):
    return model.signals(x, Needs(features=names)).features


class Rude(nn.Module):
    """Somebody else's backbone: it overwrites, reuses a module, skips one, and gives a tuple."""

    out_features = 4

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(192, 4)
        self.relu = nn.ReLU(inplace=True)
        self.twice = nn.Linear(4, 4)
        self.idle = nn.Linear(4, 4)
        self.pair = nn.LSTM(4, 4)

    def forward(self, x):
        y = self.relu(self.linear(x.flatten(1)))
        y = self.twice(self.twice(y))
        self.pair(y)
        return y


def test_taps_give_the_modules_output_and_change_nothing():
    model, x = student().eval(), torch.randn(5, *SHAPE)
    plain = model(x)
    backbone = model.backbone
    stage1 = backbone.layer1(backbone.stem(x))
    model.request(["stage1", "layer2.0.conv1", "penultimate"])
    said = model.signals(x, Needs(features=("stage1", "layer2.0.conv1", "penultimate")))
    assert torch.equal(said.logits, plain)
    assert list(said.features) == ["stage1", "layer2.0.conv1", "penultimate"]
    torch.testing.assert_close(said.features["stage1"], stage1)
    torch.testing.assert_close(said.features["layer2.0.conv1"], backbone.layer2[0].conv1(stage1))
    torch.testing.assert_close(model.head(said.features["penultimate"]), plain)


def test_only_what_is_asked_for_is_given():
    model, x = student(), torch.randn(2, *SHAPE)
    model.request(["stage1", "stage2"])
    assert list(features(model, x, "stage2")) == ["stage2"]
    assert features(model, x) == {}
    said = model.signals(x, Needs(logits=False, features=("penultimate",)))
    assert said.logits is None
    assert said.features["penultimate"].shape == (2, 64)


def test_gradients_flow_through_a_tap():
    model = student()
    model.request(["stage2"])
    features(model, torch.randn(2, *SHAPE), "stage2")["stage2"].square().sum().backward()
    grads = {name: p.grad is not None for name, p in model.backbone.named_parameters()}
    assert grads["stem.0.weight"]
    assert not grads["layer3.0.conv1.weight"]


@pytest.mark.parametrize("plain", [True, False])
def test_nothing_is_held_after_the_forward_pass(plain):
    model, x = student(), torch.randn(2, *SHAPE)
    model.request(["stage1"])
    if plain:
        model(x)
        assert model.taps.bound["stage1"].value is None
        return
    kept = features(model, x, "stage1")["stage1"]
    gone = weakref.ref(kept)
    del kept
    gc.collect()
    assert gone() is None


def test_nothing_is_held_or_wanted_after_a_failed_forward_pass():
    model = student()
    model.request(["stage1"])
    model.backbone.layer3.register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        features(model, torch.randn(2, *SHAPE), "stage1")
    tap = model.taps.bound["stage1"]
    assert tap.value is None
    assert not tap.wanted


def test_copies_have_taps_of_their_own():
    model, x = student().eval(), torch.randn(2, *SHAPE)
    model.request(["stage1"])
    twin, backbone = copy.deepcopy(model), copy.deepcopy(model.backbone)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    ours = features(model, x, "stage1")["stage1"]
    theirs = features(twin, x, "stage1")["stage1"]
    assert not torch.equal(ours, theirs)
    assert torch.equal(features(model, x, "stage1")["stage1"], ours)
    twin.request(["stage2"])
    assert "stage2" not in model.taps.bound
    bound = model.taps.bound["stage1"]
    assert twin.taps.bound["stage1"] is not bound
    assert bound not in backbone.layer1._forward_hooks.values()
    assert bound not in twin.backbone.layer1._forward_hooks.values()


def test_an_in_place_operation_behind_a_tap_cannot_change_it():
    model, x = student(Rude()), torch.randn(8, *SHAPE)
    model.request(["linear", "relu"])
    said = features(model, x, "linear", "relu")
    assert said["linear"].min() < 0
    assert torch.equal(said["relu"], said["linear"].clamp(min=0))


def test_a_backbone_that_promises_not_to_write_is_not_copied():
    class Polite(Backbone):
        out_features, stages = 4, {"stage1": "linear"}

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(192, 4)

        def forward(self, x):
            self.seen = self.linear(x.flatten(1))
            return self.seen

    polite, rude = student(Polite()), student(Rude())
    polite.request(["stage1"])
    rude.request(["linear"])
    assert features(polite, torch.randn(1, *SHAPE), "stage1")["stage1"] is polite.backbone.seen
    assert rude.taps.bound["linear"].clone


def test_a_module_that_runs_twice_is_tapped_at_its_last_run():
    model, x = student(Rude()), torch.randn(2, *SHAPE)
    model.request(["twice"])
    said = features(model, x, "twice", "penultimate")
    assert torch.equal(said["twice"], said["penultimate"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stage4", "did you mean 'stage3'"),
        ("penultimat", "did you mean 'penultimate'"),
        ("layer2.0.conv3", "did you mean 'layer2.0.conv"),
        ("@@@", "allowed: penultimate, stage1, stage2, stage3, or a module's path"),
        ("", "allowed: penultimate"),
    ],
)
def test_unknown_taps_are_refused_with_a_suggestion(name, message):
    with pytest.raises(UserError, match=f"tap '{name}' is not known, {message}"):
        student().request([name])


def test_taps_must_be_requested_first():
    with pytest.raises(UserError, match="tap 'stage1' was never requested"):
        features(student(), torch.randn(1, *SHAPE), "stage1")


@pytest.mark.parametrize(("name", "message"), [("idle", "does not run this module"), ("pair", "gives a tuple")])
def test_what_cannot_be_tapped_is_said_before_training(name, message):
    with pytest.raises(UserError, match=f"tap '{name}': .*{message}"):
        student(Rude()).spec(name)


def test_taps_survive_compilation_without_a_graph_break():
    model, x = student().eval(), torch.randn(2, *SHAPE)
    model.request(["stage1", "stage2"])
    compiled = torch.compile(model.signals, backend="eager", fullgraph=True)
    needs = Needs(features=("stage2",))
    ours, theirs = compiled(x, needs), model.signals(x, needs)
    assert list(ours.features) == ["stage2"]
    assert torch.equal(ours.features["stage2"], theirs.features["stage2"])
    assert torch.equal(ours.logits, theirs.logits)
    assert model.taps.bound["stage2"].value is None
