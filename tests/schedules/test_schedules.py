from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from clkd.losses.response import kd_rows
from clkd.plugins import load_plugins
from clkd.schedules.base import Progress, Schedule
from clkd.schedules.imbalance import Imbalance
from clkd.schedules.new_fraction import NewFraction
from clkd.schedules.old_fraction import OldFraction
from clkd.schedules.ramp import Cosine, Linear
from clkd.schedules.warmup import Warmup
from clkd.signals import Signals

REGISTRY = load_plugins().registry


def built(raw) -> Schedule:
    return REGISTRY.build(REGISTRY.parse("schedules", raw))


def said(logits) -> Signals:
    return Signals(torch.tensor(logits), torch.arange(len(logits[0])))


def experience(epochs: int, steps: int, index: int = 0) -> list[Progress]:
    places = [(epoch, step) for epoch in range(epochs) for step in range(steps)]
    return [Progress(index, 3, e, epochs, s, steps, step=99 + i) for i, (e, s) in enumerate(places)]


@pytest.mark.parametrize("name", sorted({*REGISTRY.names("schedules")} - {"per_experience"}))
def test_each_works_by_its_bare_name_and_gives_a_number(name):
    value = built(name)(Progress(), said([[1.0, 2.0]]))
    assert isinstance(value, float) or value.shape == ()


def test_constant_stays():
    schedule = built({"kind": "constant", "value": 0.3})
    assert {schedule(progress) for progress in experience(2, 5)} == {0.3}


@pytest.mark.parametrize(
    ("options", "length"), [({}, 20), ({"epochs": 2}, 8), ({"epochs": 0.5}, 2), ({"steps": 7}, 7), ({"steps": 50}, 50)]
)
def test_warmup_rises_in_a_straight_line_and_stays(options, length):
    schedule = Warmup(value=3.0, **options)
    values = [schedule(progress) for progress in experience(epochs=5, steps=4)]
    assert values == pytest.approx([3.0 * min(1, t / length) for t in range(20)])


def test_warmup_starts_anew_in_every_experience():
    first, second = ([Warmup(steps=3)(progress) for progress in experience(2, 5, index)] for index in (0, 1))
    assert first == second


def test_warmup_has_one_length():
    with pytest.raises(ValueError, match="not both"):
        built({"kind": "warmup", "epochs": 1, "steps": 3})


def test_old_fraction_is_the_share_of_old_classes():
    stream = [Progress(i, 5, old_classes=2 * i, seen_classes=2 * i + 2) for i in range(5)]
    assert [OldFraction(2.0)(progress) for progress in stream] == pytest.approx([0, 1, 4 / 3, 1.5, 1.6])
    assert OldFraction()(Progress(old_classes=10, seen_classes=10)) == 1


def test_of_experiences_it_is_the_share_of_those_that_are_over():
    stream = [Progress(i, 5, old_classes=10, seen_classes=10) for i in range(4)]
    assert [NewFraction(of="experiences")(each) for each in stream] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert [OldFraction(2.0, "experiences")(each) for each in stream] == pytest.approx([0, 1, 4 / 3, 1.5])


@pytest.mark.parametrize("options", [{}, {"epochs": 2}, {"steps": 7}])
def test_linear_and_cosine_are_their_formulas_and_stay(options):
    length = {"epochs": 8, "steps": 7}.get(next(iter(options), ""), 20)
    shares = [min(1, t / length) for t in range(20)]
    line, wave = (
        [made(4.0, 1.0, **options)(progress) for progress in experience(epochs=5, steps=4)] for made in (Linear, Cosine)
    )
    assert line == pytest.approx([4.0 - 3.0 * share for share in shares])
    assert wave == pytest.approx([1.0 + 3.0 * math.cos(math.pi * share / 2) ** 2 for share in shares])


def test_a_length_in_experiences_counts_over_the_stream():
    schedule = Linear(0.0, 1.0, experiences=2)
    values = [schedule(progress) for i in range(3) for progress in experience(epochs=2, steps=2, index=i)]
    assert values == pytest.approx([*(t / 8 for t in range(8)), 1, 1, 1, 1])


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_ramp_has_one_length(kind):
    with pytest.raises(ValueError, match="give one length: epochs, steps or experiences"):
        built({"kind": kind, "epochs": 1, "experiences": 3})


def test_per_experience_needs_values_and_says_what_comes_past_them():
    assert [built({"kind": "per_experience", "values": [3, 1]})(Progress(i)) for i in range(4)] == [3, 1, 1, 1]
    repeated = built({"kind": "per_experience", "values": [3, 1], "past": "repeat"})
    assert [repeated(Progress(i)) for i in range(4)] == [3, 1, 3, 1]
    with pytest.raises(ValueError, match="values"):
        built({"kind": "per_experience", "values": []})


def test_adaptive_schedules_are_means_over_rows_without_gradient():
    rows = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]], requires_grad=True)
    p = rows.detach().double().exp() / rows.detach().double().exp().sum(1, keepdim=True)
    sure = built({"kind": "confidence", "low": 1.0, "high": 3.0})(Progress(), Signals(rows, torch.arange(3)))
    unsure = built({"kind": "entropy", "low": 4.0, "high": 2.0})(Progress(), Signals(rows, torch.arange(3)))
    assert float(sure) == pytest.approx(1 + 2 * float(p.max(1).values.mean()), rel=1e-6)
    assert float(unsure) == pytest.approx(4 + 2 * float((p * p.log()).sum(1).mean()) / math.log(3), rel=1e-6)
    assert not sure.requires_grad
    assert not unsure.requires_grad
    assert built("entropy")(Progress(), said([[5.0]])) == 0  # one class leaves nothing to be unsure of


def test_where_rows_are_told_their_task_its_classes_alone_are_measured():
    z = torch.tensor([[2.0, 0.0, 9.0, 9.0, 8.0], [1.0, 0.0, 7.0, 0.0, 0.0], [5.0, 5.0, -1.0, 0.0, 2.0]])
    own = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1]]).bool()
    p = [row[mine].double().softmax(0) for row, mine in zip(z, own, strict=True)]
    sure = sum(float(each.max()) for each in p) / 3
    unsure = sum(-float((each * each.log()).sum()) / math.log(len(each)) for each in p) / 3
    said = Signals(z, torch.arange(5), competes=own)
    assert float(built("confidence")(Progress(), said)) == pytest.approx(sure, rel=1e-6)
    assert float(built("entropy")(Progress(), said)) == pytest.approx(unsure, rel=1e-6)
    other = replace(said, logits=z + 100 * torch.randn(3, 5).where(~own, 0.0))
    for kind in ("confidence", "entropy"):
        assert torch.equal(built(kind)(Progress(), said), built(kind)(Progress(), other))


def test_a_curriculum_climbs_where_the_student_descends():
    """CTKD: the temperature gets the gradient of the loss, times minus the strength of the moment."""
    schedule = built({"kind": "curriculum", "low": 1.0, "span": 4.0, "epochs": 2})
    z, v = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[0.0, 3.0, 1.0]])
    theta = torch.ones((), requires_grad=True)
    kd_rows(z, v, 1.0 + 4.0 * torch.sigmoid(theta)).sum().backward()
    for epoch, strength in [(0, 0.0), (1, 0.5), (2, 1.0), (7, 1.0)]:
        schedule.zero_grad()
        temperature = schedule(Progress(epoch=epoch, epochs=9, epoch_steps=5))
        assert float(temperature.detach()) == pytest.approx(1 + 4 / (1 + math.exp(-1)))
        kd_rows(z, v, temperature).sum().backward()
        assert float(schedule.theta.grad) == pytest.approx(-strength * float(theta.grad), abs=1e-7)


def test_uncertainty_settles_where_kendall_says():
    weight = built({"kind": "uncertainty", "value": 2.0})
    optimizer = torch.optim.SGD(weight.parameters(), 0.2)
    for _ in range(400):
        optimizer.zero_grad()
        weight.weigh(torch.tensor(3.0), Progress()).backward()
        optimizer.step()
    assert float(weight(Progress()).detach()) == pytest.approx(2.0 / (2 * 2.0 * 3.0), rel=1e-3)


@pytest.mark.parametrize("connected", [False, True])
def test_what_is_zero_for_long_moves_no_learned_weight(connected):
    """As a regulariser is in the first experience, and margin_ranking as long as no row is of an old class."""
    weight, z = built({"kind": "uncertainty", "value": 2.0}), torch.tensor(1.0, requires_grad=True)
    zero = torch.relu(-z) if connected else torch.zeros(())
    optimizer = torch.optim.SGD(weight.parameters(), 0.2, momentum=0.9)
    for _ in range(3000):
        optimizer.zero_grad()
        (value := weight.weigh(zero, Progress())).backward(retain_graph=True)
        optimizer.step()
    assert value.item() == 0
    assert weight(Progress()).item() == 2.0
    weight.weigh(z, Progress()).backward()
    assert z.grad.item() == 2.0
    assert weight.log_variance.grad.item() == -1.5


def test_a_schedule_weighs_by_multiplying():
    loss = torch.tensor(3.0, requires_grad=True)
    weighed = Linear(2.0, 1.0, steps=2).weigh(loss, Progress(epoch_step=1, epoch_steps=4))
    weighed.backward()
    assert (float(weighed.detach()), float(loss.grad)) == (4.5, 1.5)


@pytest.mark.parametrize(("old", "seen"), [(0, 5), (5, 10), (90, 100), (10, 10)])
def test_old_and_new_fraction_share_out_one(old, seen):
    progress = Progress(old_classes=old, seen_classes=seen)
    assert OldFraction(2.0)(progress) + NewFraction(2.0)(progress) == 2.0


def test_imbalance_is_lucirs_and_podnets_weight():
    """10 new classes after 50, then after 90: the authors' codes say 5·√5 and 15; √6 and √10."""
    later = [Progress(old_classes=old, seen_classes=old + 10) for old in (50, 90)]
    assert [Imbalance(5.0)(progress) for progress in later] == pytest.approx([5 * math.sqrt(5), 15])
    assert [Imbalance(1.0, "seen")(progress) for progress in later] == pytest.approx([math.sqrt(6), math.sqrt(10)])
    assert Imbalance(5.0)(Progress(old_classes=0, seen_classes=10)) == 0
    assert Imbalance(5.0)(Progress(old_classes=9, seen_classes=9)) == 15, "no new class counts as one"


def test_over_experiences_a_phase_comes_after_its_experience():
    """Its epochs and steps are its own, and what moves once over the stream does not jump back."""
    ramp = Linear(start=0.0, end=3.0, experiences=3)
    assert ramp(Progress(1, 3, epoch=1, epochs=2)) == pytest.approx(1.5)
    assert ramp(Progress(1, 3, epoch=0, epochs=2, phase=True)) == ramp(Progress(2, 3)) == 2.0
    own = Linear(start=0.0, end=3.0)
    assert own(Progress(1, 3, epoch=1, epochs=2, phase=True)) == 1.5, (
        "what begins anew in experiences does so in phases"
    )
