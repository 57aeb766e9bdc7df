"""The laws of models: of backbones, that is, of what stands before a head."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from clkd.frozen import freeze, state_hash
from clkd.models.heads import Linear
from clkd.models.student import Student
from clkd.signals import Needs
from clkd.testing import material

Make = Callable[[tuple[int, ...]], nn.Module]
Shape = tuple[int, ...]
ROWS = 4


def features(make: Make, shape: Shape) -> None:
    """Rows become finite float32 features `[B, out_features]`, in train and in eval mode, and one row alone, too."""
    model = _fresh(make, shape)
    for rows, training in ((ROWS, True), (ROWS, False), (1, False)):
        said = model.train(training)(_rows(shape, rows))
        assert isinstance(said, Tensor), f"it gives a {type(said).__name__}, not a tensor"
        assert said.shape == (rows, model.out_features), f"{rows} rows become {tuple(said.shape)}"
        assert said.dtype == torch.float32, f"features are {said.dtype}"
        assert torch.isfinite(said).all(), "features are not finite"


def seeded(make: Make, shape: Shape) -> None:
    """Torch's global seed decides its weights, and nothing else does."""
    one = _fresh(make, shape)
    random.random()
    np.random.random()
    assert state_hash(one) == state_hash(_fresh(make, shape)), "made twice with one seed, it has different weights"


def repeatable(make: Make, shape: Shape) -> None:
    """In eval mode, the same rows become the same features, bit for bit."""
    model, x = _fresh(make, shape).eval(), _rows(shape)
    assert torch.equal(model(x), model(x)), "its second answer differs"


def row_by_row(make: Make, shape: Shape) -> None:
    """In eval mode, a row's features depend on no other row."""
    model, x = _fresh(make, shape).eval(), _rows(shape)
    whole = model(x)
    for at in range(ROWS):
        assert _close(model(x[at : at + 1]), whole[at : at + 1]), f"row {at} has other features when it comes alone"


def still(make: Make, shape: Shape) -> None:
    """In eval mode, a forward pass changes no parameter and no buffer."""
    model = _fresh(make, shape).eval()
    before = state_hash(model)
    model(_rows(shape))
    assert state_hash(model) == before, "its buffers move"


def freezable(make: Make, shape: Shape) -> None:
    """Frozen, every module in it is in eval mode, and no parameter asks for a gradient."""
    model = freeze(_fresh(make, shape))
    awake = [name for name, module in model.named_modules() if module.training]
    assert not awake, f"still in train mode: {', '.join(awake[:3])}"
    assert not any(parameter.requires_grad for parameter in model.parameters()), "a parameter asks for a gradient"


def gradient(make: Make, shape: Shape) -> None:
    """In train mode, a finite gradient reaches every parameter that asks for one."""
    model = _fresh(make, shape).train()
    said = model(_rows(shape))
    torch.autograd.backward((said * _rows(tuple(said.shape[1:]))).sum())
    asking = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    idle = [name for name, grad in asking.items() if grad is None]
    assert not idle, f"no gradient reaches {', '.join(idle[:3])}"
    assert all(grad is None or torch.isfinite(grad).all() for grad in asking.values()), "a gradient is not finite"


def taps(make: Make, shape: Shape) -> None:
    """Every stage that it names can be tapped, and tapping changes nothing."""
    model = _fresh(make, shape).eval()
    plain, names = model(_rows(shape)), _aliases(model)
    student = _student(model, shape)
    student.request(names)
    said = student.signals(_rows(shape), Needs(logits=False, features=("penultimate", *names))).features
    assert _close(said["penultimate"], plain), "features differ when stages are tapped"
    for name in names:
        assert len(said[name]) == ROWS, f"'{name}' has shape {tuple(said[name].shape)} for {ROWS} rows"


def in_place(make: Make, shape: Shape) -> None:
    """Where `in_place` is False, no operation overwrites what a stage has put out."""
    model = _fresh(make, shape).eval()
    names = _aliases(model)
    if getattr(model, "in_place", True) or not names:
        return
    kept = []
    for in_place in (False, True):
        copied = copy.deepcopy(model)
        copied.in_place = in_place  # type: ignore[assignment]  # True: taps keep a clone
        student = _student(copied, shape)
        student.request(names)
        kept.append(student.signals(_rows(shape), Needs(logits=False, features=names)).features)
    for name in names:
        assert torch.equal(kept[0][name], kept[1][name]), f"what '{name}' put out is overwritten later"


def channels_last(make: Make, shape: Shape) -> None:
    """Images that are laid out channels-last become the same features, up to rounding."""
    if len(shape) != 3:
        return
    model, x = _fresh(make, shape).eval(), _rows(shape)
    plain = model(x)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs leave it out
    assert _close(model(x.contiguous(memory_format=torch.channels_last)), plain), "features differ"


def autocast(make: Make, shape: Shape) -> None:
    """Under autocast to bfloat16 it runs, and features stay finite."""
    model = _fresh(make, shape).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(model(_rows(shape))).all(), "features are not finite"


def state(make: Make, shape: Shape) -> None:
    """One with other weights that takes its state gives the same features, bit for bit."""
    model, other = _fresh(make, shape), _fresh(make, shape, seed=1)
    model.train()(_rows(shape))  # moves what a batch norm knows
    other.load_state_dict(model.state_dict())
    x = _rows(shape)
    assert torch.equal(model.eval()(x), other.eval()(x)), "features differ after load_state_dict"


def copied(make: Make, shape: Shape) -> None:
    """A copy of it shares nothing with it."""
    model, x = _fresh(make, shape).eval(), _rows(shape)
    twin = copy.deepcopy(model)
    before = twin(x)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            material.change(tensor)
    assert torch.equal(twin(x), before), "a copy changes with the original"


def untouched(make: Make, shape: Shape) -> None:
    """It does not change the rows in place."""
    x = _rows(shape)
    before = x.clone()
    _fresh(make, shape).eval()(x)
    assert torch.equal(x, before), "rows have other pixels afterwards"


class Law(Protocol):
    """A law of models; `shape` is that of one row."""

    def __call__(self, make: Make, shape: Shape) -> None: ...


MODEL_LAWS: dict[str, Law] = {
    law.__name__: law
    for law in (
        features, seeded, repeatable, row_by_row, still, freezable, gradient, taps, in_place, channels_last, autocast,
        state, copied, untouched,
    )
}  # fmt: skip


def _fresh(make: Make, shape: Shape, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(shape)


def _rows(shape: Shape, rows: int = ROWS) -> Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(7))


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def _aliases(model: nn.Module) -> tuple[str, ...]:
    """The names under which it offers its stages."""
    return (*getattr(model, "stages", {}), *getattr(model, "before_relu", {}))


def _student(model: nn.Module, shape: Shape) -> Student:
    out: int = model.out_features  # type: ignore[assignment]  # of a module, any attribute may be a tensor
    return Student(model, Linear(out), shape).eval()
