"""Batch norm of each domain's own, against torch's batch norm on each domain by itself."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from clkd.errors import UserError
from clkd.losses.ewc import EWC
from clkd.losses.mas import MAS
from clkd.models.backbones.resnet import ResNet
from clkd.models.heads import Linear
from clkd.models.student import Student
from clkd.signals import Batch, Needs, Signals
from clkd.testing import material
from clkd.transfer.batch_norm import layers, reestimate
from clkd.transfer.domain_norm import DSBN, Choice, DomainNorm, norms_of
from clkd.transfer.fusion import Average, Interpolate, accuracy
from clkd.transfer.starting_point import Delta

SHAPE = (1, 4, 4)


def draw(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return 2 * torch.randn(count, 3, 4, 5, generator=torch.Generator().manual_seed(seed)) + shift


def domains(by: str = "nearest") -> DomainNorm:
    norm = DomainNorm(nn.BatchNorm2d(3), Choice(by), first=True)
    norm.add(7)
    norm.add(2)
    norm.add(7)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
        norm.bias.copy_(torch.tensor([0.5, 0.0, -0.5]))
    return norm


def torchs(norm: DomainNorm) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(3)
    made.load_state_dict({**made.state_dict(), "weight": norm.weight.detach(), "bias": norm.bias.detach()})
    return made


def test_each_domain_is_normalised_and_followed_as_torch_does_it_by_itself():
    norm = domains()
    one, other = torchs(norm), torchs(norm)
    mixed = torch.tensor([True, False, True, True, False, True])
    for seed in range(3):
        x = draw(6, seed)
        x[~mixed] = 5 * x[~mixed] + 30
        x.requires_grad_()
        norm.choice.hear(torch.where(mixed, 7, 2))
        said = norm(x)
        expected = torch.empty_like(said)
        expected[mixed], expected[~mixed] = one(x[mixed]), other(x[~mixed])
        torch.testing.assert_close(said, expected, rtol=1e-4, atol=1e-4)
        ours, theirs = (torch.autograd.grad((each * draw(6, 9)).sum(), x)[0] for each in (said, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    for place, each in enumerate((one, other)):
        torch.testing.assert_close(norm.running_mean[place], each.running_mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(norm.running_var[place], each.running_var, rtol=1e-4, atol=1e-4)


def test_a_row_alone_is_normalised_with_what_is_kept_of_its_domain():
    norm = DomainNorm(nn.BatchNorm1d(3), Choice("nearest"), first=True)
    norm.add(7)
    norm.add(2)
    norm.running_mean.copy_(torch.tensor([[0.0] * 3, [30.0] * 3]))
    before = norm.running_mean.clone()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    norm.choice.hear(torch.tensor([7, 7, 7, 2]))
    said = norm(x)
    torch.testing.assert_close(said[3], (x[3] - 30) / (1 + norm.eps) ** 0.5)
    torch.testing.assert_close(said[:3], nn.BatchNorm1d(3)(x[:3]))
    assert torch.equal(norm.running_mean[1], before[1])


@pytest.mark.parametrize("by", ["nearest", "domain"])
def test_at_test_time_statistics_are_chosen_by_likeness_or_by_id(by):
    norm = domains(by)
    norm.running_mean.copy_(torch.tensor([[0.0] * 3, [30.0] * 3]))
    norm.running_var.fill_(4.0)
    norm.eval()
    x = torch.cat([draw(3, 1), draw(3, 2, 30.0)])
    norm.choice.hear(torch.tensor([2, 2, 2, 7, 7, 7]))  # told the wrong way round
    norm(x)
    assert norm.choice.place.tolist() == ([0, 0, 0, 1, 1, 1] if by == "nearest" else [1, 1, 1, 0, 0, 0])
    norm.choice.hear(torch.tensor([5, 5, 5, 5, 5, 5]))  # nobody has these
    norm(x)
    assert norm.choice.place.tolist() == [0, 0, 0, 1, 1, 1]
    norm.choice.hear(None)
    alone = torch.cat([norm(x[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(alone, norm(x))


def test_the_likelier_statistics_are_not_always_those_that_are_wider():
    norm = domains()
    norm.running_mean.zero_()
    norm.running_var.copy_(torch.tensor([[1.0] * 3, [25.0] * 3]))
    norm.eval()
    norm(torch.cat([0.4 * draw(3, 1), 2.5 * draw(3, 2)]))  # of deviations 0.8 and 5
    assert norm.choice.place.tolist() == [0, 0, 0, 1, 1, 1]


def convolutional() -> Student:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Student(ResNet(SHAPE, (1, 1), 2), Linear(4), SHAPE)
    made.grow(material.CLASSES[:2], 0, torch.Generator().manual_seed(0))
    return made


def test_with_one_domain_a_student_says_what_it_said_before():
    plain, student = convolutional(), convolutional()
    dsbn = DSBN()
    dsbn.prepare(student)
    dsbn.begin(next(material.experiences()), student)
    x = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(1))
    for mode in (True, True, False):
        theirs = plain.train(mode).signals(x, Needs()).logits
        ours = student.train(mode).signals(x, Needs(), torch.zeros(8, dtype=torch.long)).logits
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert [name for name, _ in student.named_parameters()] == [name for name, _ in plain.named_parameters()]


def test_domains_come_travel_with_state_and_copies_choose_by_themselves():
    student, dsbn = convolutional(), DSBN(by="domain")
    dsbn.prepare(student)
    first, second, _ = material.experiences()
    for experience in (first, second, first):
        dsbn.begin(experience, student)
    assert {norm.known.tolist() == [0, 1] for norm in norms_of(student)} == {True}
    x = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(1))
    student.train().signals(x, Needs(), torch.tensor([0, 0, 0, 1, 1, 1]))
    copied = student.frozen_copy()
    assert copied.hear.__self__ is norms_of(copied)[0].choice is not norms_of(student)[0].choice
    assert len({id(norm.choice) for norm in norms_of(copied)}) == 1
    fresh = convolutional()
    DSBN(by="domain").prepare(fresh)
    fresh.load_state_dict(student.state_dict())
    told = torch.tensor([1, 1, 0, 0, 1, 0])
    for each in (copied, fresh):
        said = each.eval().signals(x, Needs(), told).logits
        torch.testing.assert_close(said, student.eval().signals(x, Needs(), told).logits)
    swapped = student.signals(x, Needs(), 1 - told).logits
    assert not torch.equal(swapped, said)
    assert material.equal(copy.deepcopy(dict(student.state_dict())), dict(fresh.state_dict()))


def test_a_pass_that_is_told_nothing_forgets_what_the_one_before_was_told():
    student, dsbn = convolutional(), DSBN(by="domain")
    dsbn.prepare(student)
    for experience in list(material.experiences())[:2]:
        dsbn.begin(experience, student)
    x = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(1))
    student.train().signals(x, Needs(), torch.tensor([0, 0, 0, 1, 1, 1]))
    alone = student.eval().signals(x, Needs()).logits
    far = student.signals(x, Needs(), 1 - (alone * 0).sum(1).long()).logits
    assert not torch.equal(far, alone), "some rows are nearer to the other domain"
    assert torch.equal(student(x), alone)


def test_a_student_without_batch_norm_is_refused():
    with pytest.raises(UserError, match="the student's model has none"):
        DSBN().prepare(material.student())


def test_whoever_asks_the_student_about_rows_says_their_domain():
    """By id, or validation rows would choose for other statistics than those that the test uses."""
    student, dsbn = convolutional(), DSBN(by="domain")
    dsbn.prepare(student)
    first, second, _ = material.experiences()
    for experience in (first, second):
        dsbn.begin(experience, student)
    heard = []
    student.hear = lambda domain, ranks: heard.append(domain)
    i = torch.arange(6)
    rows = Batch(torch.zeros(6, *SHAPE), i, i, i + 3, i, new=6)
    student(rows.x)
    assert heard.pop() is None  # or it would take them for those of the pass before
    accuracy(student, lambda which: iter([rows]))
    delta = Delta(first=True)
    student.request(("penultimate",))
    delta.begin(first, student)
    delta._before[0].hear = student.hear
    delta(rows, Signals(None, i, {"penultimate": torch.zeros(6, student.head.weight.shape[1])}))
    assert [told.tolist() for told in heard] == [[3, 4, 5, 6, 7, 8]] * 2


def test_statistics_taken_anew_are_those_of_the_rows_domain_alone():
    """As of one batch norm that has only ever seen this domain."""
    plain, student = convolutional(), convolutional()
    dsbn = DSBN(by="domain")
    dsbn.prepare(student)
    for experience in list(material.experiences())[:2]:
        dsbn.begin(experience, student)
    i = torch.ones(8, dtype=torch.long)
    x = torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(1)) + 3
    rows = [Batch(some, i[: len(some)], i[: len(some)], i[: len(some)], i[: len(some)], new=8) for some in x.split(8)]
    before = [norm.running_mean[0].clone() for norm in norms_of(student)]
    for each in (student, plain):
        reestimate(each, rows)
    for norm, theirs, old in zip(norms_of(student), layers(plain), before, strict=True):
        torch.testing.assert_close(norm.running_mean[1], theirs.running_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var[1], theirs.running_var, rtol=1e-4, atol=1e-5)
        assert torch.equal(norm.running_mean[0], old)
        assert norm.momentum == 0.1


@pytest.mark.parametrize("loss", [EWC(), MAS()], ids=["ewc", "mas"])
def test_importance_is_that_of_a_student_that_has_the_statistics_of_the_rows_domain_alone(loss):
    plain, student = convolutional(), convolutional()
    dsbn = DSBN(by="domain")
    dsbn.prepare(student)
    for experience in list(material.experiences())[:2]:
        dsbn.begin(experience, student)
    with torch.no_grad():
        for norm, theirs in zip(norms_of(student), layers(plain), strict=True):
            norm.running_mean[1] += 2
            theirs.running_mean.copy_(norm.running_mean[1])
    x = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(1))
    y, i = torch.tensor(material.CLASSES)[torch.arange(6) % 2], torch.ones(6, dtype=torch.long)
    experience = next(material.experiences())
    found = []
    for each in (student, plain):
        own = copy.deepcopy(loss)
        own.begin(experience, each)
        own.review(iter([Batch(x, y, i, i, i, new=6)]), experience, each)
        own.end(experience, each)
        found.append(own.kept["importance"])
    for name, importance in found[0].items():
        torch.testing.assert_close(importance, found[1][name], rtol=1e-3, atol=1e-6)
    student.eval().signals(x, Needs())
    assert norms_of(student)[0].choice.place.tolist() == [0] * 6, "or likeness would have said the same"


@pytest.mark.parametrize("added_first", [True, False])
def test_fusion_takes_the_statistics_of_domains_that_there_were_before(added_first):
    """Whether the strategy looked at them before the new domain got its own or after it: the order of the scenario."""
    student, dsbn, fusion = convolutional(), DSBN(by="domain"), Interpolate(previous=0.25, reestimate=False)
    dsbn.prepare(student)
    first, second, _ = material.experiences()
    dsbn.begin(first, student)
    for norm in norms_of(student):
        norm.running_mean[0] = 1.0
    for strategy in (dsbn, fusion) if added_first else (fusion, dsbn):
        strategy.begin(second, student)
    for norm in norms_of(student):
        norm.running_mean[0], norm.running_mean[1] = 5.0, 9.0
    fusion.review(lambda which: iter(()), second, student)
    own = 0.75 * 9 + 0.25 * 1 if added_first else 9.0
    for norm in norms_of(student):
        assert torch.equal(norm.running_mean[0], torch.full_like(norm.running_mean[0], 0.75 * 5 + 0.25 * 1))
        assert torch.equal(norm.running_mean[1], torch.full_like(norm.running_mean[1], own))


def test_average_is_over_the_selves_that_knew_a_domain():
    student, dsbn, fusion = convolutional(), DSBN(by="domain"), Average(last=3, reestimate=False)
    dsbn.prepare(student)
    for experience in material.experiences():
        dsbn.begin(experience, student)
        for norm in norms_of(student):
            norm.running_mean[:] = 3.0**experience.index
        fusion.review(lambda which: iter(()), experience, student)
    for norm in norms_of(student):
        assert norm.running_mean[:, 0].tolist() == pytest.approx([13 / 3, 6, 9])
