"""What one model sees of the rows of others: against the same pixels, changed and normalised by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from taught import FIT, MLP, SCENARIO, cached, compose, composer, logits, rows_of
from torch import Tensor

from clkd.data.convert import grey
from clkd.engine.execute import execute
from clkd.errors import UserError
from clkd.options import ViewOptions
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest
from clkd.signals import Needs
from clkd.teachers.network import NetworkTeacher
from clkd.view import View, view_of

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
LUMA = torch.tensor([0.299, 0.587, 0.114])


def pixels(channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (4, channels, 6, 6), generator=torch.Generator().manual_seed(0)).float() / 255


def normalised(x: Tensor, mean: Any, std: Any) -> Tensor:
    mean, std = torch.as_tensor(mean), torch.as_tensor(std)
    return (x - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)


def seen(**options: Any) -> Tensor:
    x = normalised(pixels(), MEAN, STD)
    view = view_of(ViewOptions(**options), MEAN, STD, (3, 6, 6))
    assert view is not None
    found = view(x)
    assert tuple(found.shape[1:]) == view.shape((3, 6, 6))
    return found


def test_gray_is_how_bright_the_colours_are() -> None:
    gray = (pixels() * LUMA.view(1, 3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(seen(channels="gray", mean=[0.3], std=[0.5]), normalised(gray, [0.3], [0.5]))
    as_given = normalised(gray, [float((LUMA * MEAN).sum())], [float((LUMA * STD).sum())])
    torch.testing.assert_close(seen(channels="gray"), as_given)
    stored = grey((pixels() * 255).round().to(torch.uint8)) / 255
    assert (gray - stored).abs().max() <= 0.5 / 255 + 1e-6, "but for the rounding, as the data set's `channels: 1`"


def test_channels_come_in_their_order_with_their_own_statistics() -> None:
    own = normalised(pixels(), MEAN, STD)
    torch.testing.assert_close(seen(channels=[2, 0]), own[:, [2, 0]])
    wanted = normalised(pixels()[:, [2]], [0.1], [0.2])
    torch.testing.assert_close(seen(channels=[2], mean=[0.1], std=[0.2]), wanted)


def test_one_channel_becomes_three() -> None:
    view = view_of(ViewOptions(channels="rgb", mean=MEAN.tolist(), std=STD.tolist()), MEAN[:1], STD[:1], (1, 6, 6))
    assert view is not None
    x = pixels(1)
    torch.testing.assert_close(view(normalised(x, MEAN[:1], STD[:1])), normalised(x.expand(-1, 3, -1, -1), MEAN, STD))


def test_a_cut_a_turn_and_a_size_in_this_order() -> None:
    own = normalised(pixels(), MEAN, STD)
    torch.testing.assert_close(seen(crop=4), own[..., 1:5, 1:5])
    torch.testing.assert_close(seen(crop=3), own[..., 1:4, 1:4])
    upright = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    one = torch.ones(1)
    turned = View((0 * one, one), rotate=90)(upright)
    assert turned.flatten().tolist() == [2, 4, 1, 3], "counter-clockwise"
    torch.testing.assert_close(View((0 * one, one), rotate=270)(turned), upright)
    all_three = F.interpolate(own[..., 1:5, 1:5].rot90(1, (-2, -1)), size=(8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(seen(size=8, rotate=90, crop=4), all_three)
    assert View((one, one), rotate=90).shape((1, 2, 3)) == (1, 3, 2)


def test_features_of_vectors() -> None:
    mean, std = torch.arange(5.0), torch.arange(1.0, 6.0)
    view = view_of(ViewOptions(channels=[4, 1], mean=[0.0, 0.0], std=[1.0, 1.0]), mean, std, (5,))
    assert view is not None
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(view((x - mean) / std), x[:, [4, 1]])
    assert view.shape((5,)) == (2,)


@pytest.mark.parametrize(
    ("options", "shape", "said"),
    [
        ({"channels": "gray"}, (1, 8, 8), "'gray' is made of 3 channels, but rows have 1 channels"),
        ({"channels": "rgb"}, (3, 8, 8), "'rgb' is made of 1 channel, but rows have 3"),
        ({"channels": [3]}, (3, 8, 8), "'channels' asks for 3, but rows have 3 channels, 0 to 2"),
        ({"crop": 9}, (1, 8, 8), "'crop' cannot cut 9 pixels out of 8×8"),
        ({"size": 9}, (7,), "'size' is for images, but rows are vectors of 7 features"),
        ({"mean": [0.5]}, (3, 8, 8), "'mean' has 1 numbers, but it sees 3 channels"),
    ],
)
def test_what_cannot_be_seen(options: dict[str, Any], shape: tuple[int, ...], said: str) -> None:
    ones = torch.ones(shape[0])
    with pytest.raises(UserError, match=said):
        view_of(ViewOptions(**options), ones, ones, shape)


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ({"channels": "grey"}, r"s.yaml:\d+:\d+: student.view.channels: 'grey' is not known (did you mean 'gray'?)"),
        ({"channels": []}, "student.view.channels: give gray, rgb, or a list of channels"),
        ({"rotate": 45}, "student.view.rotate: give 90, 180 or 270; got 45"),
        ({"sise": 45}, "student.view.sise: unknown key (did you mean 'size'?)"),
    ],
)
def test_mistakes_have_a_place(tmp_path: Path, view: dict[str, Any], said: str) -> None:
    student = {**SCENARIO["student"], "view": view}
    with pytest.raises(UserError, match=said.replace("(", r"\(").replace("?)", r"\?\)")) as refused:
        composer(tmp_path, FIT, student=student)
    assert len(str(refused.value).splitlines()) == 1


RGB = {**SCENARIO["stream"], "dataset": {"name": "digits", "rows_per_class": 12, "channels": 3}}
GRAY = {**SCENARIO["student"], "view": {"channels": "gray"}}


def test_the_teacher_sees_colours_and_the_student_gray(tmp_path: Path) -> None:
    """Logits and features, replayed rows and past selves: everybody sees a row in its own way."""
    losses = [
        "cross_entropy",
        {"kind": "kd", "between": ["student", "big"]},
        {"kind": "kd", "between": ["student", "previous"], "weight": "old_fraction"},
        {"kind": "features", "between": ["student.penultimate", "big.penultimate"], "align": "linear"},
    ]
    teachers = {"big": {**FIT, "model": MLP}, "previous": "previous"}
    base = {**SCENARIO, "losses": losses, "teachers": teachers, "tracking": {"mode": "off"}, "stream": RGB}
    made = {**base, "student": GRAY, "memory": {"kind": "reservoir", "size": 20}, "output": str(tmp_path / "run")}
    (tmp_path / "run.yaml").write_text(to_yaml(made))
    result = execute(RunRequest(scenario=tmp_path / "run.yaml", quiet=True), load_plugins())
    assert result["status"] == "finished"
    parts = compose(tmp_path, FIT, stream=RGB, student=GRAY).parts
    teacher = parts.teachers["big"]
    assert isinstance(teacher, NetworkTeacher)
    assert parts.student.backbone.layers[0].linear.in_features == 64
    assert teacher.module().backbone.layers[0].linear.in_features == 3 * 64  # type: ignore[union-attr]
    assert teacher.views() == []


def test_a_fitted_teacher_learns_and_teaches_in_its_own_view(tmp_path: Path) -> None:
    """Its network turns each row before its first layer sees it."""
    turned = compose(tmp_path, {**FIT, "view": {"rotate": 90}})
    plain = compose(tmp_path, FIT)
    assert len(cached(tmp_path)) == 2
    x = rows_of(plain).x
    teachers = [made.parts.teachers["big"] for made in (turned, plain)]
    own, others = (teacher.module() for teacher in teachers)
    assert own is not None
    assert others is not None
    assert torch.equal(logits(turned), own(x))
    upright = own.backbone(x.rot90(1, (-2, -1)))  # type: ignore[operator]
    assert torch.equal(own.head(upright), own(x))  # type: ignore[operator]
    assert teachers[0].identity() != teachers[1].identity()


def test_two_sensors_in_one_row(tmp_path: Path) -> None:
    """A teacher that sees a third channel teaches a student that sees the first: cross-modal distillation."""
    digits = load_digits()
    images = (digits.images[:200] * 255 / 16).round().astype(np.uint8)
    rows = np.stack([images, images // 2, 255 - images], 3)
    np.savez(
        tmp_path / "d.npz",
        x_train=rows[:150],
        y_train=digits.target[:150],
        x_test=rows[150:],
        y_test=digits.target[150:200],
    )
    stream = {"dataset": {"name": "arrays", "path": "d.npz"}, "split": SCENARIO["stream"]["split"], "augment": "none"}
    student = {**SCENARIO["student"], "view": {"channels": [0]}}
    made = compose(tmp_path, {**FIT, "view": {"channels": [2]}}, stream=stream, student=student)
    batch = rows_of(made)
    blind = batch.x.clone()
    blind[:, :2] = 0
    teacher, pupil = made.parts.teachers["big"].module(), made.parts.student
    assert teacher is not None
    assert torch.equal(teacher(blind), teacher(batch.x))
    pupil.grow(made.stream[0].classes, 0, torch.Generator().manual_seed(0))
    assert not torch.equal(pupil(blind), pupil(batch.x))
    blind = batch.x.clone()
    blind[:, 1:] = 0
    assert torch.equal(pupil(blind), pupil(batch.x))
    said = pupil.signals(batch.x, Needs()).logits
    assert said is not None
    assert torch.equal(said, pupil(batch.x))
