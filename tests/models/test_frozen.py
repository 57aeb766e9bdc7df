"""A frozen model does not move, and any movement shows."""

import copy

import pytest
import torch
from torch import nn

from clkd.frozen import freeze, state_hash


def model():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    made.register_buffer("quiet", torch.zeros(3), persistent=False)
    return made


def test_a_frozen_model_is_the_same_object_in_eval_mode_and_takes_no_gradient():
    made = model()
    frozen = freeze(made)
    assert frozen is made
    before = state_hash(made)
    assert not made(torch.randn(4, 2, 5, 5)).requires_grad
    assert state_hash(made) == before


NAMES = [name for name, _ in [*model().named_parameters(), *model().named_buffers()]]


@pytest.mark.parametrize("name", NAMES)
def test_the_hash_sees_any_one_number_move(name):
    made = model()
    before = state_hash(made)
    tensor = dict([*made.named_parameters(), *made.named_buffers()])[name]
    with torch.no_grad():
        tensor.view(-1)[-1] += 1
    assert state_hash(made) != before


def test_a_training_mode_forward_pass_shows():
    made = model()
    before = state_hash(made)
    made(torch.randn(4, 2, 5, 5))
    assert state_hash(made) != before


def test_equal_models_have_equal_hashes_whatever_their_layout():
    made = model()
    assert state_hash(made) == state_hash(model())
    assert state_hash(copy.deepcopy(made).to(memory_format=torch.channels_last)) == state_hash(made)


def holding(tensor, name="weight"):
    made = nn.Module()
    made.register_buffer(name, tensor)
    return made


@pytest.mark.parametrize(
    "other",
    [
        holding(torch.zeros(6, 4)),
        holding(torch.zeros(4, 6, dtype=torch.int32)),
        holding(torch.zeros(4, 6), "bias"),
    ],
    ids=["shape", "dtype", "name"],
)
def test_shape_dtype_and_name_count_even_where_the_bytes_agree(other):
    assert state_hash(other) != state_hash(holding(torch.zeros(4, 6)))


def test_bfloat16_can_be_hashed():
    assert state_hash(nn.Linear(2, 2).bfloat16()) != ""
