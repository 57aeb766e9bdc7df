"""Backbones: shapes, published sizes, and the attributes that the student relies on."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from clkd.errors import UserError
from clkd.models.backbones.base import Backbone
from clkd.models.backbones.lenet import LeNet
from clkd.models.backbones.mlp import MLP
from clkd.models.backbones.resnet import resnet8, resnet18, resnet20, resnet32, resnet56
from clkd.models.cost import multiply_accumulates, parameter_count

IMAGES = [(1, 28, 28), (3, 32, 32), (3, 17, 23), (2, 12, 33)]


def with_head(backbone, classes):
    return parameter_count(backbone) + (backbone.out_features + 1) * classes


@pytest.mark.parametrize("shape", [*IMAGES, (7,)])
@pytest.mark.parametrize("make", [MLP, LeNet, resnet8, resnet18])
def test_any_shape_becomes_a_vector_and_every_stage_exists(make, shape):
    if len(shape) == 1 and make is not MLP:
        with pytest.raises(UserError, match=r"use another model|use the model 'mlp'"):
            make(shape)
        return
    options = {"width": 8} if make is resnet18 else {}
    backbone = make(shape, **options)
    assert backbone(torch.randn(3, *shape)).shape == (3, backbone.out_features)
    modules = dict(backbone.named_modules())
    assert list(backbone.stages) == [f"stage{k + 1}" for k in range(len(backbone.stages))]
    assert all(path in modules for path in backbone.stages.values())


def test_lenet_refuses_what_would_vanish():
    with pytest.raises(UserError, match="at least 12 × 12"):
        LeNet((1, 11, 28))


def test_mlp_of_the_literature_has_478410_parameters():
    assert with_head(MLP((1, 28, 28)), 10) == 478_410


@pytest.mark.parametrize(("hidden", "count"), [((256, 256, 256), 335_114), ((128,), 101_770)])
def test_mlps_of_the_textbook_have_their_parameters(hidden, count):
    """784·256 + 2·256·256 + 256·10 weights and 3·256 + 10 biases; 784·128 + 128·10 and 128 + 10."""
    assert with_head(MLP((1, 28, 28), hidden), 10) == count


def test_a_lenet_three_times_as_wide_has_the_parameters_of_its_layers():
    """On 3 × 32 × 32: convolutions of 18 and 48 channels, 360 and 252 units."""
    layers = [(3 * 25, 18), (18 * 25, 48), (48 * 25, 360), (360, 252), (252, 10)]
    assert with_head(LeNet((3, 32, 32), width=3), 10) == sum(n * m + m for n, m in layers) == 548_878


def test_a_lenet_with_batch_norm_normalises_what_each_relu_reads():
    backbone = LeNet((1, 16, 16), batch_norm=True)
    modules = dict(backbone.named_modules())
    assert all(isinstance(modules[path], _BatchNorm) for path in backbone.before_relu.values())
    assert sum(isinstance(each, _BatchNorm) for each in modules.values()) == 4
    plain = parameter_count(LeNet((1, 16, 16)))
    assert parameter_count(backbone) == plain + 2 * (6 + 16 + 120 + 84)


def test_mlp_without_hidden_layers_is_flattening():
    x = torch.randn(2, 1, 3, 4)
    backbone = MLP((1, 3, 4), hidden=())
    assert torch.equal(backbone(x), x.flatten(1))
    assert backbone.out_features == 12


def test_mlp_drops_units_in_training_only():
    backbone = MLP((50,), hidden=(4000,), dropout=0.25)
    x = torch.randn(1, 50)
    whole = backbone.eval()(x)
    dropped = backbone.train()(x)
    live = whole > 0
    assert (dropped[live] == 0).float().mean() == pytest.approx(0.25, abs=0.05)
    kept = dropped > 0
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)


@pytest.mark.parametrize(
    ("make", "classes", "published"),
    [
        (LeNet, 10, 61_706),
        (resnet18, 10, 11_173_962),
        (resnet8, 10, 78_042),
        (resnet20, 10, 272_474),
        (resnet32, 10, 466_906),
        (resnet56, 10, 855_770),
    ],
)
def test_parameter_counts_are_the_published_ones(make, classes, published):
    assert with_head(make((1, 32, 32) if make is LeNet else (3, 32, 32)), classes) == published


@pytest.mark.parametrize(("make", "published"), [(resnet20, 40.8e6), (resnet56, 125.8e6)])
def test_multiply_accumulates_are_the_published_ones(make, published):
    assert multiply_accumulates(make((3, 32, 32)), (3, 32, 32)) == pytest.approx(published, rel=1e-3)


def test_multiply_accumulates_of_a_convolution_by_hand():
    conv = nn.Conv2d(4, 6, 3, padding=1, groups=2)
    assert multiply_accumulates(conv, (4, 5, 7)) == 6 * 5 * 7 * (4 // 2) * 9


class Attends(nn.Module):
    """Attention as PyTorch has it twice: as a layer, and as a function."""

    def __init__(self, layer: bool) -> None:
        super().__init__()
        self.inner, self.layer = nn.MultiheadAttention(8, 2, batch_first=True), layer

    def forward(self, x):
        if self.layer:
            return self.inner(x, x, x, need_weights=False)[0]
        return nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])


@pytest.mark.parametrize("layer", [True, False])
def test_multiply_accumulates_of_attention_by_hand(layer):
    projections, products = 4 * 8 * 8 * 5, 2 * 5 * 5 * 8
    assert multiply_accumulates(Attends(layer), (5, 8)) == products + (projections if layer else 0)


@pytest.mark.parametrize("width", [8, 32])
def test_width_is_the_first_stages_channels(width):
    backbone = resnet8((3, 8, 8), width=width)
    assert backbone.layer1(backbone.stem(torch.randn(1, 3, 8, 8))).shape[1] == width
    assert backbone.out_features == 4 * width


def test_resnet_is_the_papers_formula():
    """The block against the equation, with the functional forms of its layers."""
    torch.manual_seed(0)
    backbone = resnet8((3, 9, 9)).eval()
    block = backbone.layer2[0]
    x = torch.randn(2, 16, 9, 9)

    def bn(layer, y):
        y = (y - layer.running_mean[:, None, None]) / torch.sqrt(layer.running_var[:, None, None] + layer.eps)
        return y * layer.weight[:, None, None] + layer.bias[:, None, None]

    conv = nn.functional.conv2d
    inner = bn(block.bn1, conv(x, block.conv1.weight, stride=2, padding=1)).clamp(min=0)
    residual = bn(block.bn2, conv(inner, block.conv2.weight, padding=1))
    shortcut = bn(block.shortcut[1], conv(x, block.shortcut[0].weight, stride=2))
    torch.testing.assert_close(block(x), (residual + shortcut).clamp(min=0))


@pytest.mark.parametrize("make", [MLP, LeNet, resnet8])
def test_own_backbones_never_write_in_place(make):
    """What `in_place = False` promises: no output changes after its module has given it."""
    backbone = make((3, 16, 16))
    assert isinstance(backbone, Backbone)
    assert not backbone.in_place
    versions = []
    for module in backbone.modules():
        module.register_forward_hook(lambda m, a, output: versions.append((output, output._version)))
    backbone(torch.randn(2, 3, 16, 16))
    assert len(versions) > 5
    assert all(output._version == version for output, version in versions)


def test_the_global_seed_gives_the_weights():
    def build():
        torch.manual_seed(3)
        return nn.utils.parameters_to_vector(resnet8((3, 8, 8)).parameters())

    assert torch.equal(build(), build())
