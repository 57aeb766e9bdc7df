"""The student: one forward pass, growth, specs, copies, and layouts that only change rounding."""

import pytest
import torch
from torch import nn

from clkd.frozen import state_hash
from clkd.models.backbones.mlp import MLP
from clkd.models.backbones.resnet import resnet8
from clkd.models.cost import parameter_count
from clkd.models.heads import Fixed, Linear, Multi
from clkd.models.student import Student
from clkd.signals import Needs, Spec

SHAPE = (3, 9, 7)


def student(channels_last=True, head=None, shape=SHAPE):
    torch.manual_seed(0)
    backbone = resnet8(shape) if len(shape) == 3 else MLP(shape, hidden=(16,))
    made = Student(backbone, head or Linear(backbone.out_features), shape, channels_last=channels_last)
    made.grow((4, 2), 0, torch.Generator().manual_seed(1))
    return made


@pytest.mark.parametrize("shape", [SHAPE, (1, 28, 28), (5,)])
def test_forward_and_signals_agree(shape):
    model, x = student(shape=shape).eval(), torch.randn(3, *shape)
    said = model.signals(x, Needs())
    assert torch.equal(said.logits, model(x))
    assert said.class_ids.tolist() == [4, 2]
    assert said.class_ids is model.class_ids_tensor
    assert said.valid is None


def test_channels_last_changes_rounding_only():
    on, off = student(True), student(False)
    x = torch.randn(4, *SHAPE)
    assert on.backbone.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert off.backbone.layer1[0].conv1.weight.is_contiguous()
    on.request(["stage1"])
    off.request(["stage1"])
    needs = Needs(features=("stage1",))
    ours, theirs = on.signals(x, needs), off.signals(x, needs)
    torch.testing.assert_close(ours.logits, theirs.logits)
    assert ours.features["stage1"].is_contiguous(memory_format=torch.channels_last)
    assert theirs.features["stage1"].is_contiguous()
    assert state_hash(student(True)) == state_hash(student(False))


def test_signals_do_not_change_their_input():
    model, x = student(), torch.randn(4, *SHAPE)
    before = x.clone()
    model(x)
    assert torch.equal(x, before)
    assert x.is_contiguous()


def test_growth_reaches_head_spec_and_signals():
    model = student()
    pairs = model.grow((2, 9), 1, torch.Generator())
    assert [new.shape[0] for _, new in pairs] == [3, 3]
    assert (model.class_ids, model.born, model.task_aware) == ((4, 2, 9), (0, 0, 1), False)
    assert model.spec() == Spec((4, 2, 9), (0, 0, 1), False)
    assert model.signals(torch.randn(2, *SHAPE), Needs()).logits.shape == (2, 3)
    assert student(head=Multi(64)).spec().task_aware


@pytest.mark.parametrize(
    ("feature", "shape"),
    [("penultimate", (64,)), ("stage1", (16, 9, 7)), ("stage2", (32, 5, 4)), ("layer3.0.bn1", (64, 3, 2))],
)
def test_spec_tells_a_features_shape(feature, shape):
    assert student().spec(feature) == Spec((4, 2), (0, 0), False, feature, shape)


class Restless(nn.Module):
    """Draws random numbers and counts its passes even in eval mode."""

    out_features = 2

    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))
        self.bn = nn.BatchNorm1d(2)

    def forward(self, x):
        self.passes += 1
        return self.bn(x + torch.rand(2))


@pytest.mark.parametrize("training", [True, False])
def test_spec_leaves_no_trace(training):
    model = Student(Restless(), Linear(2), (2,)).train(training)
    before, rng = state_hash(model), torch.get_rng_state()
    assert model.spec("bn").shape == (2,)
    assert state_hash(model) == before
    assert torch.equal(torch.get_rng_state(), rng)
    assert model.training is training
    assert model.backbone.bn.training is training
    assert model.taps.bound == {}


def test_a_frozen_copy_stands_still_while_the_student_learns_and_grows():
    model, x = student(), torch.randn(6, *SHAPE)
    model.request(["stage1"])
    previous = model.frozen_copy()
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m.training for m in previous.modules())
    assert not any(p.requires_grad for p in previous.parameters())
    before, said = state_hash(previous), previous.signals(x, Needs(features=("stage1",)))
    model(x).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    model.grow((7,), 1, torch.Generator())
    assert state_hash(previous) == before
    assert previous.class_ids == (4, 2)
    again = previous.signals(x, Needs(features=("stage1",)))
    assert torch.equal(again.logits, said.logits)
    assert torch.equal(again.features["stage1"], said.features["stage1"])


@pytest.mark.parametrize("head", [lambda: Linear(64), lambda: Multi(64), lambda: Fixed(64, tuple("abcdefgh"))])
def test_checkpoint_round_trip(head):
    model = student(head=head()).eval()
    model.grow((7,), 1, torch.Generator())
    torch.manual_seed(9)
    fresh = Student(resnet8(SHAPE), head(), SHAPE).eval()
    fresh.lay_out(model.layout())
    fresh.load_state_dict(model.state_dict())
    x = torch.randn(2, *SHAPE)
    assert torch.equal(fresh(x), model(x))
    assert state_hash(fresh) == state_hash(model)
    assert fresh.spec() == model.spec()


def test_parameters_are_counted():
    model = student(shape=(5,))
    assert parameter_count(model) == 5 * 16 + 16 + 2 * 16 + 2
