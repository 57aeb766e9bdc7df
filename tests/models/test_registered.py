"""What a scenario may name: every built-in model and head can be built from its options."""

import subprocess
import sys

import pytest
import torch

from clkd import models
from clkd.models.heads import Head
from clkd.models.student import Student
from clkd.registry import Registry

SHAPE = (3, 32, 32)


@pytest.fixture
def registry():
    made = Registry()
    models.clkd_register_models(made.register_for("models", "clkd.models", "clkd"))
    models.clkd_register_heads(made.register_for("heads", "clkd.models", "clkd"))
    return made


MODELS = {
    "mlp": {"hidden": [12, 8], "dropout": 0.1},
    "lenet": {},
    "resnet8": {"width": 4},
    "resnet20": {"width": 4},
    "resnet32": {"width": 4},
    "resnet56": {"width": 4},
    "resnet18": {"width": 4},
    "torchvision": {"model": "squeezenet1_1"},
}
HEADS = {
    "linear": {"align": True},
    "fixed": {"classes": 5},
    "multi": {},
    "cosine": {"scale": 3.0},
    "split_cosine": {"proxies": 3, "fixed_old": True},
    "bias_corrected": {},
    "ncm": {"rows": "memory"},
    "slda": {"shrinkage": 0.01},
}


def test_nothing_else_is_registered(registry):
    assert registry.names("models") == sorted(MODELS)
    assert registry.names("heads") == sorted(HEADS)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_goes_with_every_head(registry, model, head):
    backbone = registry.build(registry.parse("models", {"kind": model, **MODELS[model]}), shape=SHAPE)
    part = registry.parse("heads", {"kind": head, **HEADS[head]})
    top = registry.build(part, in_features=backbone.out_features, class_names=("a", "b", "c"))
    assert isinstance(top, Head)
    student = Student(backbone, top, SHAPE)
    student.grow((2, 0), 0, torch.Generator())
    assert student(torch.randn(2, *SHAPE)).shape == (2, 5 if head == "fixed" else 2)


def test_depths_are_what_their_names_say(registry):
    for depth in (8, 20, 32, 56):
        backbone = registry.build(registry.parse("models", f"resnet{depth}"), shape=(3, 8, 8))
        convolutions = [
            m for n, m in backbone.named_modules() if isinstance(m, torch.nn.Conv2d) and "shortcut" not in n
        ]
        assert len(convolutions) + 1 == depth  # and the head


@pytest.mark.parametrize(
    "bad",
    [{"kind": "mlp", "hidden": [0]}, {"kind": "mlp", "dropout": 1}, {"kind": "resnet8", "width": 0}, "torchvision"],
)
def test_impossible_options_are_refused(registry, bad):
    with pytest.raises(ValueError, match=r"hidden|dropout|width|model: is missing"):
        registry.parse("models", bad)


def test_the_front_door_loads_nothing_heavy():
    code = "import sys, clkd.models; print([m for m in ('torch', 'torchvision', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
