"""torchvision's classifiers as backbones: nothing is downloaded, nothing surprises later."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from clkd.errors import UserError
from clkd.models.backbones.vision import vision
from clkd.models.heads import Linear
from clkd.models.student import Student
from clkd.signals import Needs

SHAPE = (3, 40, 36)


@pytest.mark.parametrize(
    ("model", "features", "stage"),
    [
        ("resnet18", 512, "layer1"),
        ("mobilenet_v3_small", 1024, "features.0"),
        ("squeezenet1_1", 512, "features.0"),
        ("shufflenet_v2_x0_5", 1024, None),
    ],
)
def test_classifiers_become_backbones(model, features, stage):
    backbone = vision(SHAPE, model)
    assert backbone.out_features == features
    assert backbone.stages.get("stage1") == stage
    assert backbone(torch.randn(2, *SHAPE)).shape == (2, features)


def test_networks_with_an_auxiliary_classifier_give_a_tensor_in_training():
    backbone = vision((3, 64, 64), "googlenet").train()
    assert backbone(torch.randn(2, 3, 64, 64)).shape == (2, 1024)


def test_taps_before_an_in_place_relu_stay_negative():
    """torchvision's blocks overwrite: bn1 by an in-place ReLU, bn2 by `out += identity` as well."""
    backbone = vision(SHAPE, "resnet18").eval()
    student = Student(backbone, Linear(512), SHAPE)
    names = ("stage1", "layer2.0.bn1", "layer1.0.bn2", "layer1.0.relu")
    student.request(names)
    x = torch.randn(2, *SHAPE)
    said = student.signals(x, Needs(features=names)).features
    assert said["layer2.0.bn1"].min() < 0
    assert said["layer1.0.bn2"].min() < 0
    assert said["layer1.0.relu"].min() == 0
    block = backbone.layer1[0]
    pooled = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(x))))
    expected = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(pooled)))))
    torch.testing.assert_close(said["layer1.0.bn2"], expected)


def test_grey_images_are_shown_to_all_three_channels():
    torch.manual_seed(0)
    grey = vision((1, 32, 32), "resnet18").eval()
    torch.manual_seed(0)
    colour = vision((3, 32, 32), "resnet18").eval()
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(grey(x), colour(x.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_local_weights_are_loaded_without_their_classes(tmp_path, suffix):
    torch.manual_seed(1)
    source = vision(SHAPE, "squeezenet1_1").eval()
    state = {
        **source.state_dict(),
        "classifier.1.weight": torch.zeros(7, 512, 1, 1),
        "classifier.1.bias": torch.zeros(7),
    }
    (torch.save if suffix == "pt" else save_file)(state, tmp_path / f"w.{suffix}")
    context = SimpleNamespace(base=tmp_path)
    loaded = vision(SHAPE, "squeezenet1_1", weights=f"w.{suffix}", context=context).eval()
    x = torch.randn(1, *SHAPE)
    assert torch.equal(loaded(x), source(x))


def test_weights_that_are_missing_broken_or_of_another_model_are_refused(tmp_path):
    def load(path):
        return vision(SHAPE, "squeezenet1_1", weights=str(path))

    with pytest.raises(UserError, match=r"none\.pt"):
        load(tmp_path / "none.pt")
    for name in ("broken.pt", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"x" * 50)
        with pytest.raises(UserError, match="cannot be read as a state dict"):
            load(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds no state dict"):
        load(tmp_path / "list.pt")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"do not fit the model: .*Missing key"):
        load(tmp_path / "other.pt")


def test_pickled_code_is_not_run(tmp_path):
    torch.save(SimpleNamespace(a=1), tmp_path / "code.pt")
    with pytest.raises(UserError, match="cannot be read as a state dict"):
        vision(SHAPE, "squeezenet1_1", weights=str(tmp_path / "code.pt"))


@pytest.mark.parametrize(
    ("shape", "model", "message"),
    [
        (SHAPE, "resnet19", "no classifier 'resnet19', did you mean 'resnet1"),
        (SHAPE, "fasterrcnn_resnet50_fpn", "no classifier"),
        ((5, 32, 32), "resnet18", "grey or colour images"),
        ((64,), "resnet18", "grey or colour images"),
        ((3, 8, 8), "squeezenet1_1", r"'squeezenet1_1' does not take images of shape \(3, 8, 8\)"),
    ],
)
def test_what_cannot_work_is_refused_at_once(shape, model, message):
    with pytest.raises(UserError, match=message):
        vision(shape, model)
