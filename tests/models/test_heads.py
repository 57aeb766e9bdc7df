"""Heads: growth keeps the old bit for bit, starts the new as torch does, and survives a checkpoint."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from clkd.errors import UserError
from clkd.models.corrected import BiasCorrected
from clkd.models.heads import Cosine, Fixed, Linear, Multi
from clkd.models.prototypes import NearestMean
from clkd.models.proxies import SplitCosine
from clkd.models.slda import StreamingLDA

D = 6
PROXIES, FIXED_OLD = partial(SplitCosine, proxies=3), partial(SplitCosine, fixed_old=True)
GROWING = [Linear, Multi, Cosine, SplitCosine, PROXIES, FIXED_OLD, BiasCorrected, NearestMean, StreamingLDA]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("make", GROWING)
def test_growth_keeps_old_logits_bit_for_bit(make):
    head = make(D)
    head.grow((4, 1), 0, generator())
    probe = torch.eye(D)  # each logit is one weight and the bias, so that no order of summation can show
    before, weight = head(probe).detach(), head.weight.detach().clone()
    head.grow((7, 0, 2), 1, generator(1))
    assert torch.equal(head(probe)[:, :2], before)
    assert torch.equal(head.weight[:2], weight)
    assert head(probe).shape == (D, 5)


@pytest.mark.parametrize("make", GROWING)
def test_one_step_or_three_give_the_same_classes(make):
    once, thrice = make(D), make(D)
    once.grow((5, 3, 9), 0, generator())
    for experience, c in enumerate((5, 3, 9)):
        thrice.grow((c,), experience, generator())
    assert once.class_ids == thrice.class_ids == (5, 3, 9)
    assert once.class_ids_tensor.tolist() == thrice.class_ids_tensor.tolist() == [5, 3, 9]
    assert (once.born, thrice.born) == ((0, 0, 0), (0, 1, 2))


def test_new_columns_start_as_torchs_own_linear_layer():
    torch.manual_seed(11)
    reference = nn.Linear(D, 3)
    head = Linear(D)
    head.grow((0, 1, 2), 0, generator(11))
    assert torch.equal(head.weight, reference.weight)
    assert torch.equal(head.bias, reference.bias)


@pytest.mark.parametrize("make", GROWING)
def test_growth_uses_its_generator_only(make):
    state = torch.get_rng_state()
    head, same, other = make(D), make(D), make(D)
    for which, seed in ((head, 1), (same, 1), (other, 2)):
        which.grow((0, 1), 0, generator(seed))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(head.weight, same.weight)
    assert not torch.equal(head.weight, other.weight)


def test_growth_hands_out_old_and_new_so_that_momentum_can_follow():
    head = Linear(D)
    head.grow((0, 1), 0, generator())
    weight, bias = head.weight, head.bias
    (old_weight, new_weight), (old_bias, new_bias) = head.grow((2,), 1, generator())
    assert old_weight is weight
    assert old_bias is bias
    assert new_weight is head.weight
    assert new_bias is head.bias
    assert {id(p) for p in head.parameters()} == {id(new_weight), id(new_bias)}
    assert all(p.is_leaf and p.requires_grad for p in head.parameters())


@pytest.mark.parametrize("make", [Linear, Cosine])
def test_nothing_new_replaces_nothing(make):
    head = make(D)
    head.grow((0, 1), 0, generator())
    weight = head.weight
    assert head.grow((1, 0), 1, generator()) == []
    assert head.weight is weight
    assert head.born == (0, 0)


def test_repeated_names_of_a_class_make_one_column():
    head = Linear(D)
    head.grow((3, 3, 1, 3), 0, generator())
    assert head.class_ids == (3, 1)


def test_a_frozen_head_stays_frozen_and_keeps_its_type():
    head = Linear(D).double().requires_grad_(False)
    head.grow((0,), 0, generator())
    assert head.weight.dtype == head.bias.dtype == torch.float64
    assert not any(p.requires_grad for p in head.parameters())


@pytest.mark.parametrize("make", [*GROWING, lambda d: Fixed(d, tuple("abcdefgh"))])
def test_layout_round_trip(make):
    head = make(D)
    head.grow((4, 1), 0, generator())
    head.grow((7,), 2, generator(5))
    fresh = make(D)
    fresh.lay_out(head.layout())
    fresh.load_state_dict(head.state_dict())
    x = torch.randn(3, D)
    assert torch.equal(fresh(x), head(x))
    assert (fresh.class_ids, fresh.born) == (head.class_ids, head.born)
    assert fresh.class_ids_tensor.tolist() == list(head.class_ids)
    assert fresh.grow((4,) if make is not Multi else (), 3, generator()) == []


@pytest.mark.parametrize("make", GROWING)
def test_layout_can_also_shrink(make):
    """The previous self is laid out in a copy of a student that has grown since."""
    head = make(D)
    head.grow((4, 1), 0, generator())
    layout, state = head.layout(), copy.deepcopy(head.state_dict())
    head.grow((2,), 1, generator())
    head.lay_out(layout)
    head.load_state_dict(state)
    assert head(torch.randn(1, D)).shape == (1, 2)


def test_multi_is_task_aware_and_refuses_a_class_of_an_earlier_experience():
    head = Multi(D)
    head.grow((0, 1), 0, generator())
    assert head.task_aware
    assert not Linear(D).task_aware
    head.grow((1, 0), 0, generator())  # the same experience again, as after a resume
    with pytest.raises(UserError, match=r"experience 1 brings class 1 again: use the head 'linear'"):
        head.grow((2, 1), 1, generator())
    assert head.class_ids == (0, 1)


def test_fixed_has_every_column_from_the_start_and_notes_who_came():
    head = Fixed(D, ("a", "b", "c", "d"))
    weight = head.weight
    assert head.class_ids == (0, 1, 2, 3)
    assert head.born == (-1, -1, -1, -1)
    assert head.grow((2, 0), 0, generator()) == []
    assert head.grow((0, 3), 1, generator()) == []
    assert head.born == (0, -1, 0, 1)
    assert head.weight is weight
    assert head(torch.randn(2, D)).shape == (2, 4)


def test_fixed_is_torchs_linear_layer_under_the_same_global_seed():
    torch.manual_seed(5)
    reference = nn.Linear(D, 4)
    torch.manual_seed(5)
    head = Fixed(D, ("a",), classes=4)
    assert torch.equal(head.weight, reference.weight)
    assert torch.equal(head.bias, reference.bias)


def test_fixed_refuses_a_class_without_a_column():
    head = Fixed(D, ("a", "b", "c"), classes=2)
    with pytest.raises(UserError, match=r"has 2 classes from 0, but class 2 came: set 'classes' to at least 3"):
        head.grow((1, 2), 0, generator())
    assert head.born == (-1, -1)


def test_cosine_is_the_cosine_times_the_scale():
    head = Cosine(D, scale=7.0)
    head.grow(range(5), 0, generator())
    x = 100 * torch.randn(50, D)
    logits = head(x)
    expected = 7 * nn.functional.cosine_similarity(x[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(logits, expected)
    assert logits.abs().max() <= 7 * (1 + 1e-6)
    torch.testing.assert_close(head(3 * x), logits)
    assert head.bias is None


def test_cosine_learns_its_scale():
    head = Cosine(D)
    head.grow((0, 1), 0, generator())
    nn.functional.cross_entropy(head(torch.randn(8, D)), torch.zeros(8, dtype=torch.int64)).backward()
    assert head.scale.grad.abs() > 0
    assert len(head.grow((2,), 1, generator())) == 1  # the weight; there is no bias, and the scale stays
