"""Every built-in teacher keeps the laws, and every law catches a teacher that breaks it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from clkd.plugins import isolated
from clkd.signals import Signals
from clkd.teachers.base import Teacher
from clkd.teachers.ema import Ema
from clkd.teachers.previous import Previous
from clkd.testing.contract import check, check_teacher
from clkd.testing.parts import check_part
from clkd.testing.teacher_laws import TEACHER_LAWS
from clkd.testing.tiny import Tiny

MLP = {"kind": "mlp", "hidden": [8]}
SAID = {
    "previous": {},
    "snapshot": {},
    "ema": {"decay": 0.5},
    "stored": {},
    "fit": {"model": MLP, "epochs": 1},
    "born_again": {"model": MLP, "epochs": 1, "generations": 2},
    "checkpoint": {"model": MLP, "path": "teacher.pt", "classes": ["top", "bottom", "left", "right"]},
}
ELSEWHERE = {"before_phase", "ensemble", "run", "torchvision", "mlflow"}
"""Those that need a phase, other teachers, a finished run or files of somebody else's: they are tried alone."""


@pytest.fixture
def tiny(tmp_path) -> Tiny:
    return Tiny(tmp_path, isolated())


def test_all_teachers_are_told_of():
    assert set(isolated().registry.names("teachers")) == set(SAID) | ELSEWHERE


@pytest.mark.parametrize("name", SAID)
def test_built_in_teachers_keep_the_contract(name, tiny):
    if name == "checkpoint":
        made = tiny.context.network(tiny.registry.parse("models", MLP), (0, 1, 2, 3), 0)
        torch.save(made.state_dict(), tiny.folder / "teacher.pt")
    check_part(tiny, "teachers", {"kind": name, **SAID[name]})


class Masked(Previous):
    """Its network has a buffer of flags."""

    def end(self, experience, student):
        super().end(experience, student)
        self.network.register_buffer("open", torch.tensor([True, False]))


def test_flags_are_among_what_a_fingerprint_is_about():
    check(Masked, {"fingerprinted": TEACHER_LAWS["fingerprinted"]})


class Silent(Teacher):
    ready = False


class Misfit(Previous):
    def spec(self, feature=None):
        spec = super().spec(feature)
        return type(spec)(spec.class_ids[::-1], spec.born, spec.task_aware, feature, spec.shape)


class Awake(Previous):
    def end(self, experience, student):
        super().end(experience, student)
        self.network.train()


class Asking(Previous):
    def _say(self, batch, needs):
        return self.network.requires_grad_().signals(batch.x, needs)


class Drawing(Previous):
    def signals(self, batch, needs):
        said = super().signals(batch, needs)
        return Signals(said.logits + torch.rand(()), said.class_ids, said.features, said.valid)


class Centred(Previous):
    """What a batch norm in train mode does."""

    def signals(self, batch, needs):
        said = super().signals(batch, needs)
        return Signals(said.logits - said.logits.mean(0), said.class_ids, said.features, said.valid)


class Boastful(Previous):
    def _valid(self, y):
        return torch.ones_like(y, dtype=torch.bool)


class Counting(Previous):
    def signals(self, batch, needs):
        self.network.head.bias.add_(1e-6)
        return super().signals(batch, needs)


class Unsigned(Previous):
    def fingerprint(self):
        return "always the same"


class Meddling(Previous):
    def after_step(self, student):
        student.eval()


class Sharing(Previous):
    def end(self, experience, student):
        super().end(experience, student)
        self.network.backbone = student.backbone


class Forgetful(Ema):
    def state_dict(self):
        return {}


class Impostor(Previous):
    """Says that it stays the same from run to run, and does not."""

    made = 0

    def __init__(self):
        super().__init__()
        type(self).made += 1
        self.shift = float(self.made)

    def identity(self):
        return {"weights": "mine"}

    def signals(self, batch, needs):
        said = super().signals(batch, needs)
        return Signals(said.logits + self.shift, said.class_ids, said.features, said.valid)


BROKEN = {
    "speaks": Silent, "fitting": Misfit, "frozen": Awake, "no_gradient": Asking, "repeatable": Drawing,
    "row_by_row": Centred, "honest": Boastful, "unmoved": Counting, "fingerprinted": Unsigned, "apart": Meddling,
    "own": Sharing, "state": Forgetful, "identified": Impostor,
}  # fmt: skip


@pytest.mark.parametrize("law", TEACHER_LAWS)
def test_each_law_catches_a_teacher_that_breaks_it(law):
    with pytest.raises(AssertionError) as caught:
        check(BROKEN[law], {law: TEACHER_LAWS[law]})
    assert f"while checking the law '{law}' of {BROKEN[law].__name__}" in caught.value.__notes__


def test_a_teacher_that_keeps_learning_is_caught():
    """A network in train mode whose batch norm follows what it is shown."""

    class Learning(Previous):
        def end(self, experience, student):
            super().end(experience, student)
            copied = copy.deepcopy(self.network)
            copied.backbone = nn.Sequential(nn.BatchNorm2d(1), copied.backbone)
            self.network = copied.train()

    with pytest.raises(AssertionError):
        check_teacher(Learning)
