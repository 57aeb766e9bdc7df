"""Bugs and habits of other tools' regularisers that clkd does not have, each by name."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from clkd import vision
from clkd.losses.ewc import EWC
from clkd.losses.mas import MAS
from clkd.losses.rwalk import RWalk
from clkd.losses.si import SI
from clkd.models.heads import Linear
from clkd.models.student import Student
from clkd.seeding import generator
from clkd.signals import Batch, Signals
from clkd.testing import material

FIRST = next(material.experiences())


class Norm(nn.Module):
    out_features, stages = 4, {}

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(x.flatten(1))


class Flat(nn.Module):
    out_features, stages = 4, {}

    def forward(self, x):
        return x.flatten(1)


def student(backbone=Flat) -> Student:
    torch.manual_seed(0)
    made = Student(backbone(), Linear(4), material.SHAPE)
    made.grow((3, 0), 0, generator(0))
    return made


def batch_of(x, y) -> Batch:
    i = torch.arange(len(x))
    return Batch(x, y, i, i, i, new=len(x))


def reviewed(loss, model, *batches):
    loss.begin(FIRST, model)
    loss.review(iter(batches), FIRST, model)
    loss.end(FIRST, model)
    return loss.kept["importance"]


def rows(count=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    y = torch.tensor([3, 0])[torch.randint(0, 2, (count,), generator=draw)]
    return batch_of(torch.randn(count, *material.SHAPE, generator=draw), y)


def test_avalanche_squares_the_mean_gradient_of_a_batch_so_that_importance_depends_on_its_size():
    model, whole = student(), rows()
    at_once = reviewed(EWC(fisher="empirical"), model, whole)
    one_by_one = reviewed(EWC(fisher="empirical"), model, *(whole.rows(i, i + 1) for i in range(len(whole))))
    loss = F.cross_entropy(model(whole.x), (whole.y == 0).long())
    (theirs,) = torch.autograd.grad(loss, [model.head.weight])
    torch.testing.assert_close(at_once, one_by_one)
    assert (theirs.square() < 0.5 * at_once["head.weight"]).all(), "theirs shrinks with the batch"


def test_facil_and_avalanche_average_gradients_before_the_absolute_value_of_mas():
    """Two rows whose gradients cancel matter as much as each alone."""
    model = student()
    model.head.bias.data.zero_()
    x = torch.randn(1, *material.SHAPE)
    opposite = batch_of(torch.cat([x, -x]), torch.tensor([3, 0]))
    both, one = (reviewed(MAS(), model, batch) for batch in (opposite, opposite.rows(0, 1)))
    (theirs,) = torch.autograd.grad(model(opposite.x).square().sum(1).mean(), [model.head.bias])
    assert theirs.abs().max() < 1e-6
    torch.testing.assert_close(both["head.bias"], one["head.bias"])


@pytest.mark.parametrize("loss", [EWC, MAS])
def test_mammoth_avalanche_and_facil_measure_in_train_mode_so_that_batch_norm_moves_and_mixes_rows(loss):
    model, whole = student(Norm).train(), rows()
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    alone = reviewed(loss(), model, *(whole.rows(i, i + 1) for i in range(len(whole))))
    torch.testing.assert_close(reviewed(loss(), model, whole), alone)
    assert material.equal(dict(model.named_buffers()), before)
    assert model.training, "and it is given back as it was"


def test_mammoth_weighs_each_row_by_the_probability_of_its_label():
    """A row that is answered wrongly would count least, though its label's gradient is the largest."""
    model = student()
    wrong = batch_of(torch.full((1, *material.SHAPE), 2.0), torch.tensor([3]))
    model.head.weight.data[0] = -1.0
    model.head.weight.data[1] = 1.0
    p = model(wrong.x).softmax(1)[0, 0]
    found = reviewed(EWC(fisher="empirical"), model, wrong)["head.bias"][0]
    assert p < 1e-3
    torch.testing.assert_close(found, (1 - p).square())


def test_van_de_ven_divides_by_one_row_too_few():
    model, one = student(), rows(1)
    twice = batch_of(torch.cat([one.x, one.x]), torch.cat([one.y, one.y]))
    torch.testing.assert_close(reviewed(EWC(), model, one), reviewed(EWC(), model, twice))


def steps(loss, model, momentum=0.9, count=4, lr=0.1):
    """The engine's calls; gives each step's gradients and the parameters' true changes."""
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=momentum)
    loss.begin(FIRST, model)
    taken = []
    for seed in range(count):
        batch = rows(seed=seed)
        optimizer.zero_grad()
        F.cross_entropy(model(batch.x), (batch.y == 0).long()).backward()
        loss.after_backward(model)
        before = model.head.bias.detach().clone()
        optimizer.step()
        loss.after_step(model)
        taken.append((model.head.bias.grad.clone(), model.head.bias.detach() - before))
    loss.end(FIRST, model)
    return taken


def test_mammoth_takes_the_learning_rate_times_the_squared_gradient_for_what_si_calls_the_path():
    """With momentum the parameter went another way."""
    model, loss = student(), SI(damping=0.1)
    start = model.head.bias.detach().clone()
    taken = steps(loss, model)
    moved = (model.head.bias.detach() - start).square() + 0.1
    true = sum(-g * change for g, change in taken) / moved
    theirs = sum(0.1 * g.square() for g, _ in taken) / moved
    torch.testing.assert_close(loss.kept["importance"]["head.bias"], true.clamp(min=0))
    assert not torch.allclose(true, theirs, rtol=0.1)


def test_avalanche_cuts_si_off_at_a_thousandth_and_lets_it_be_negative():
    """A parameter that only ever made the loss worse has no importance, not one below 0 that rewards running away."""
    model, loss = student(), SI(damping=1e-4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, maximize=True)
    steps(loss, model)
    assert max(float(each.max()) for each in loss.kept["importance"].values()) > 1e-3
    worse = SI()
    worse.begin(FIRST, model)
    for seed in range(3):
        batch = rows(seed=seed)
        optimizer.zero_grad()
        F.cross_entropy(model(batch.x), (batch.y == 0).long()).backward()
        worse.after_backward(model)
        optimizer.step()
        worse.after_step(model)
    worse.end(FIRST, model)
    assert all(not each.any() for each in worse.kept["importance"].values())


def test_avalanche_leaves_the_model_in_eval_mode_while_rwalk_trains_it():
    model = student(Norm).train()
    before = model.backbone.norm.num_batches_tracked.item()
    steps(RWalk(), model, count=3)
    assert model.training
    assert model.backbone.norm.num_batches_tracked.item() == before + 3


def test_avalanche_forgets_the_scores_of_an_unfinished_stretch_and_divides_by_nothing():
    """The last steps of an experience count; a student that did not move has no importance, and no NaN."""
    model, loss = student(), RWalk(every=100)
    steps(loss, model, count=3)
    assert loss.kept["scores"]["head.bias"].any()
    still = RWalk()
    steps(still, student(), count=2, lr=0.0)
    assert all(torch.isfinite(each).all() for each in still.kept["importance"].values())


def test_a_column_that_had_no_gradient_when_it_came_still_has_a_place_in_avalanches_terms():
    """The head grows between two experiences: what was held stays held, what is new is free."""
    model, loss = student(), SI()
    steps(loss, model)
    model.grow((3, 0, 5), 1, generator(1))
    loss.begin(FIRST, model)
    with torch.no_grad():
        model.head.bias += torch.tensor([0.0, 0.0, 9.0])
    assert loss(rows(), Signals(None, model.class_ids_tensor)) == 0


def weighed(importance, model, anchor):
    return sum((each * (p - anchor[name]).square()).sum() for (name, p), each in zip(model, importance, strict=True))


def held(loss, model, *batches):
    """What the loss is worth after every parameter was moved, and the parameters before."""
    reviewed(loss, model, *batches)
    anchor = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn(p.shape, generator=generator(3))
    return loss(rows(), Signals(None, model.class_ids_tensor)), anchor


@pytest.mark.slow
def test_twice_avalanches_lambda_is_the_weight_where_its_batches_are_single_rows():
    """The real plugin's importances, in its own penalty `λ Σ F (θ − θ*)²`."""
    vision.avalanche()
    from avalanche.training.plugins import EWCPlugin

    model, whole = student(), rows()
    place = (whole.y == 0).long()
    plugin = EWCPlugin(ewc_lambda=1.0)
    dataset = TensorDataset(whole.x, place, torch.zeros_like(place))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    theirs = plugin.compute_importances(model, nn.CrossEntropyLoss(), optimizer, dataset, "cpu", 1)
    value, anchor = held(EWC(fisher="empirical"), model, whole)
    penalty = weighed([theirs[name].data for name in anchor], model.named_parameters(), anchor)
    torch.testing.assert_close(2 * value, penalty)


def test_van_de_vens_lambda_is_the_weight_but_for_the_row_too_few():
    """`½ λ Σ F (θ − θ*)²`, F as its loop has it: over rows and classes, divided by N − 1."""
    model, whole = student(), rows()
    fisher = [torch.zeros_like(p) for p in model.parameters()]
    for x in whole.x:
        logits = model(x[None])
        for c, p in enumerate(logits.softmax(1)[0].tolist()):
            loss = F.cross_entropy(logits, torch.tensor([c]))
            found = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            fisher = [f + p * g.square() for f, g in zip(fisher, found, strict=True)]
    value, anchor = held(EWC(), model, whole)
    theirs = 0.5 * weighed([f / (len(whole) - 1) for f in fisher], model.named_parameters(), anchor)
    torch.testing.assert_close(value * len(whole) / (len(whole) - 1), theirs)
