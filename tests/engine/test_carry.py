"""Growth loses nothing that an optimizer knew."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from clkd.engine.carry import carry_state
from clkd.models.heads import Linear
from clkd.optimizers import OPTIMIZERS, OptimizerOptions, build_optimizer


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.Adam(p, 0.1)])
def test_old_columns_move_as_if_the_head_had_not_grown(make) -> None:
    """A head that grows by a class which gets no gradient moves its old columns as one that never grew."""
    features = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    heads = [Linear(5), Linear(5)]
    optimizers = []
    for head in heads:
        head.grow((0, 1), 0, torch.Generator().manual_seed(2))
        optimizers.append(make(list(head.parameters())))
        step(head, optimizers[-1], features)
    replaced = heads[1].grow((2,), 1, torch.Generator().manual_seed(3))
    grown = make(list(heads[1].parameters()))
    carry_state(optimizers[1], grown, replaced)
    step(heads[0], optimizers[0], features)
    step(heads[1], grown, features)
    assert torch.equal(heads[0].weight, heads[1].weight[:2])
    assert torch.equal(heads[0].bias, heads[1].bias[:2])


def step(head: nn.Module, optimizer: torch.optim.Optimizer, features: torch.Tensor) -> None:
    optimizer.zero_grad()
    head(features)[:, :2].square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_goes_on_with_what_it_knew(kind: str) -> None:
    """A layer beside a head that grew moves as if its optimizer had never been replaced; and the head moves on, too."""
    rows = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))

    def trained(grows: bool) -> nn.Module:
        torch.manual_seed(3)
        layer, head = nn.Linear(5, 5), Linear(5)
        head.grow((0,), 0, torch.Generator().manual_seed(2))

        def built() -> torch.optim.Optimizer:
            return build_optimizer(OptimizerOptions(kind=kind), [*layer.parameters(), *head.parameters()])

        optimizer = built()
        step(nn.Sequential(layer, head), optimizer, rows)
        if grows:
            replaced, before = head.grow((1, 2), 1, torch.Generator().manual_seed(3)), optimizer
            optimizer = built()
            carry_state(before, optimizer, replaced)
        step(layer, optimizer, rows)
        moved = copy.deepcopy(layer)
        step(head, optimizer, rows)
        assert head.weight.isfinite().all()
        return moved

    alone, beside = trained(False), trained(True)
    assert torch.equal(alone.weight, beside.weight)
    assert torch.equal(alone.bias, beside.bias)
