"""A compiled backbone says what an uncompiled one says, is compiled once for all experiences, and never in pieces."""

from __future__ import annotations

import copy
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from clkd.errors import UserError
from clkd.models.backbones.mlp import MLP
from clkd.models.backbones.resnet import ResNet
from clkd.models.compiled import Compiled
from clkd.models.heads import Linear
from clkd.models.student import Student
from clkd.signals import Needs

SHAPE, ROWS = (3, 8, 8), 6
NEEDS = Needs(features=("stage1", "penultimate"))


def student(backbone: nn.Module | None = None) -> Student:
    torch.manual_seed(0)
    backbone = backbone or ResNet(SHAPE, blocks=(1,), width=4)
    made = Student(backbone, Linear(backbone.out_features), SHAPE)
    made.request(NEEDS.features)
    made.grow((0, 1), 0, torch.Generator())
    return made


def experience(model: Student, previous: Student | None, index: int) -> Student:
    """A few steps, some of odd size, an evaluation, and a copy."""
    model.grow((2 * index, 2 * index + 1), index, torch.Generator())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.train()
    for rows in (ROWS, ROWS, 5, 1):
        x = torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(rows))
        said = model.signals(x, NEEDS)
        loss = said.logits.logsumexp(1).mean() + said.features["stage1"].square().mean()
        if previous is not None:
            with torch.no_grad():
                target = previous.signals(x, NEEDS)
            loss = loss + (said.features["stage1"] - target.features["stage1"]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        model.signals(torch.zeros(ROWS, *SHAPE), Needs())
    return model.frozen_copy()


def stream(model: Student, counter: CompileCounter | None = None) -> list[int]:
    """Graphs compiled by the end of each of four experiences."""
    previous, seen = None, []
    for index in range(4):
        previous = experience(model, previous, index)
        seen.append(counter.frame_count if counter else 0)
    return seen


def test_neither_growth_nor_a_new_previous_self_compiles_anything() -> None:
    counters.clear()
    counter = CompileCounter()
    compiled, plain = student(), student()
    compiled.runner = Compiled("default", frozenset({ROWS}), counter)
    # train and eval in the first experience; the previous self comes with the second
    assert stream(compiled, counter) == [2, 3, 3, 3]
    assert not counters["graph_break"]
    assert not compiled.runner.failed
    stream(plain)
    for (name, a), b in zip(compiled.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b), name  # the counter's backend runs the graph as it is


def test_other_networks_do_not_use_up_the_limit() -> None:
    counter = CompileCounter()
    for width in range(4, 14):
        model = Student(MLP(SHAPE, hidden=(width,)), Linear(width), SHAPE)
        model.runner = Compiled("default", frozenset({ROWS}), counter)
        model.signals(torch.zeros(ROWS, *SHAPE), Needs())
        assert not model.runner.failed
    assert counter.frame_count == 10


def test_names_and_copies_stay_what_they_are() -> None:
    model, plain = student(), student()
    model.runner = Compiled("default", frozenset({ROWS}), CompileCounter())
    model.signals(torch.zeros(ROWS, *SHAPE), NEEDS)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert copy.deepcopy(model).runner is model.runner
    assert model.frozen_copy().backbone is not model.backbone


class Broken(MLP):
    """Its result depends on a value, which no single graph can hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y + 1 if float(y.detach().sum()) > 0 else y - 1


def test_what_cannot_be_compiled_runs_as_it_is_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    model = Student(Broken(SHAPE, hidden=(4,)), Linear(4), SHAPE)
    x = torch.randn(ROWS, *SHAPE)
    plain = model.signals(x, Needs()).logits
    model.runner = Compiled("default", frozenset({ROWS}), CompileCounter())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert torch.equal(model.signals(x, Needs()).logits, plain)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "train.compile: the backbone Broken cannot be compiled and runs as it is: " in caplog.text


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # inductor's own
@pytest.mark.slow
def test_so_it_is_without_a_compiler(caplog: pytest.LogCaptureFixture) -> None:
    import torch._inductor.config as inductor
    from torch._inductor.utils import fresh_cache

    model = student()
    model.runner = Compiled("default", frozenset({ROWS}))
    with fresh_cache(), inductor.patch({"cpp.cxx": ("/nowhere/g++",)}), caplog.at_level(logging.WARNING):
        assert model.signals(torch.zeros(ROWS, *SHAPE), NEEDS).logits.shape == (ROWS, 2)
    assert model.runner.failed
    assert "C++ compiler" in caplog.text


def test_a_mistake_in_a_tap_is_still_told() -> None:
    class Idle(MLP):
        def __init__(self) -> None:
            super().__init__(SHAPE, hidden=(4,))
            self.idle = nn.Linear(1, 1)

    model = Student(Idle(), Linear(4), SHAPE)
    model.request(["idle"])
    model.runner = Compiled("default", frozenset({ROWS}), CompileCounter())
    with pytest.raises(UserError, match="does not run this module"):
        model.signals(torch.zeros(ROWS, *SHAPE), Needs(features=("idle",)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune"])
def test_inductor_compiles_three_graphs_and_agrees_up_to_rounding(mode: str) -> None:
    counters.clear()
    model, plain = student(), student()
    model.runner = Compiled(mode, frozenset({ROWS}))
    stream(model)
    assert not model.runner.failed
    assert counters["stats"]["unique_graphs"] == 3
    assert not counters["graph_break"]
    stream(plain)
    for (name, a), b in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_backward_pass_may_keep_its_graph_whatever_was_compiled_before(backend: str) -> None:
    """A second network finds what was compiled for the first one in torch's cache."""
    for _ in range(2):
        model = Student(MLP(SHAPE, hidden=(8, 8)), Linear(8), SHAPE)
        model.grow((0, 1), 0, torch.Generator())
        model.runner = Compiled("default", frozenset({ROWS}), backend)
        for keeps in (False, True, True):
            loss = model.signals(torch.randn(ROWS, *SHAPE), Needs()).logits.logsumexp(1).mean()
            model.zero_grad()
            loss.backward(retain_graph=keeps)
        assert not model.runner.failed
        once = [parameter.grad.clone() for parameter in model.parameters()]
        with ThreadPoolExecutor(1) as thread:  # as on a GPU
            thread.submit(loss.backward, retain_graph=True).result()
        assert all(torch.equal(2 * grad, p.grad) for grad, p in zip(once, model.parameters(), strict=True))


def test_bf16_holds_for_the_backbone_only_and_for_copies_too() -> None:
    model = student()
    model.autocast = torch.bfloat16
    said = model.signals(torch.randn(ROWS, *SHAPE), NEEDS)
    assert said.features["stage1"].dtype == torch.bfloat16
    assert said.logits.dtype == torch.float32
    said.logits.sum().backward()
    assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters()} == {torch.float32}
    assert model.frozen_copy().signals(torch.randn(2, *SHAPE), NEEDS).features["stage1"].dtype == torch.bfloat16
