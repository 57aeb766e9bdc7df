"""Teachers are frozen, see what the student sees, and know which rows they may be trusted on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from clkd.errors import UserError
from clkd.experience import Experience, Rows
from clkd.losses.response import KD
from clkd.models.backbones.resnet import ResNet
from clkd.models.heads import Fixed, Linear
from clkd.models.proxies import SplitCosine
from clkd.models.student import Student
from clkd.seeding import generator
from clkd.signals import Batch, Needs, Signals
from clkd.teachers.base import Teacher
from clkd.teachers.ema import Ema
from clkd.teachers.ensemble import Ensemble
from clkd.teachers.network import NetworkTeacher, View
from clkd.teachers.previous import Previous
from clkd.teachers.snapshots import Snapshots
from clkd.teachers.stored import Stored

SHAPE = (3, 8, 8)


@pytest.fixture
def student() -> Student:
    torch.manual_seed(0)
    made = Student(ResNet(SHAPE, blocks=(1, 1, 1), width=4), Linear(16), SHAPE)
    made.grow((0, 1), 0, generator(0))
    return made.train()


@pytest.fixture
def experience() -> Experience:
    n = torch.arange(2)
    rows = Rows(torch.zeros(2, *SHAPE, dtype=torch.uint8), n, n, n)
    return Experience(0, (0, 1), (0, 1), rows, rows, rows, "[0, 1]", 2)


def batch(y: list[int]) -> Batch:
    labels = torch.tensor(y)
    x = torch.randn(len(y), *SHAPE, generator=torch.Generator().manual_seed(5))
    return Batch(x=x, y=labels, sample_id=labels, domain=labels, experience=labels, new=len(y))


def learn(student: Student, rows: Batch) -> None:
    """One step of gradient descent, which also moves the batch-norm statistics."""
    optimizer = torch.optim.SGD(student.parameters(), 0.5)
    student.train()
    student(rows.x).square().sum().backward()
    optimizer.step()


def test_previous_says_nothing_first_then_what_the_student_said(student: Student, experience: Experience) -> None:
    previous, rows = Previous(), batch([0, 1, 1])
    assert not previous.ready
    previous.end(experience, student)
    expected = student.eval()(rows.x).detach()
    before = previous.fingerprint()
    learn(student, rows)
    student.grow((2,), 1, generator(1))
    said = previous.signals(rows, Needs())
    assert torch.equal(said.logits, expected)
    assert previous.fingerprint() == before
    assert previous.spec().class_ids == (0, 1)


def test_no_gradient_reaches_a_teacher_and_its_statistics_stay(student: Student, experience: Experience) -> None:
    previous, rows = Previous(), batch([0, 1])
    previous.end(experience, student)
    before = previous.fingerprint()
    said = previous.signals(rows, Needs())
    assert not said.logits.requires_grad
    (student(rows.x) - said.logits).square().sum().backward()
    assert previous.fingerprint() == before
    assert all(p.grad is None for p in previous.module().parameters())


def test_valid_tells_the_rows_whose_class_a_teacher_knows(student: Student, experience: Experience) -> None:
    previous = Previous()
    previous.end(experience, student)
    assert previous.signals(batch([0, 5, -1, 1]), Needs()).valid.tolist() == [True, False, False, True]


def test_a_column_whose_class_has_not_come_is_not_known(experience: Experience) -> None:
    """A fixed head answers for every class from the start; that does not make it right about them."""
    names = tuple("abcd")
    student = Student(ResNet(SHAPE, blocks=(1, 1, 1), width=4), Fixed(16, class_names=names), SHAPE)
    student.grow((0, 1), 0, generator(0))
    previous = Previous()
    previous.end(experience, student)
    assert previous.signals(batch([0, 1, 2, 3]), Needs()).valid.tolist() == [True, True, False, False]


@pytest.mark.parametrize("teacher", [Previous, lambda: Ema(0.9)])
def test_a_teacher_made_of_the_student_survives_a_checkpoint(teacher, student: Student, experience: Experience) -> None:
    first, rows = teacher(), batch([0, 1, 0])
    first.begin(experience, student)
    learn(student, rows)
    first.after_step(student)
    first.end(experience, student)
    expected = first.signals(rows, Needs()).logits
    student.grow((4,), 1, generator(1))  # a resumed student has grown by the time its teachers begin
    second = teacher()
    second.load_state_dict(first.state_dict())
    second.begin(experience, student)
    assert torch.equal(second.signals(rows, Needs()).logits[:, :2], expected)


def test_ema_is_the_stated_average_and_copies_what_cannot_be_averaged(student: Student, experience: Experience) -> None:
    ema, rows = Ema(decay=0.75), batch([0, 1, 1, 0])
    ema.begin(experience, student)
    start = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    learn(student, rows)
    ema.after_step(student)
    for name, tensor in ema.module().state_dict().items():
        now = student.state_dict()[name]
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, 0.75 * start[name] + 0.25 * now, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(tensor, now), name


@pytest.mark.parametrize("head", [Linear(16), SplitCosine(16, proxies=2), SplitCosine(16, proxies=2, fixed_old=True)])
def test_ema_keeps_its_average_whenever_the_student_grows(head, student: Student, experience: Experience) -> None:
    student.head = head
    student.grow((0, 1), 0, generator(0))
    ema, rows = Ema(decay=0.5), batch([0, 1])
    ema.begin(experience, student)
    for i, classes in enumerate([(2, 3), (4,)]):
        learn(student, rows)
        ema.after_step(student)
        before = ema.signals(rows, Needs()).logits
        student.grow(classes, i + 1, generator(1))
        ema.begin(experience, student)
        after = ema.signals(rows, Needs()).logits
        assert after.shape == (2, before.shape[1] + len(classes))
        torch.testing.assert_close(after[:, : before.shape[1]], before)


class Says(NetworkTeacher):
    """A teacher that gives fixed logits for given classes."""

    def __init__(self, logits: Tensor, class_ids: tuple[int, ...]) -> None:
        super().__init__(Constant(logits, class_ids))


class Constant(nn.Module):
    def __init__(self, logits: Tensor, class_ids: tuple[int, ...]) -> None:
        super().__init__()
        self.logits, self.class_ids = logits, class_ids

    def signals(self, x: Tensor, needs: Needs):
        from clkd.signals import Signals

        return Signals(self.logits, torch.tensor(self.class_ids))

    def spec(self, feature: str | None = None):
        from clkd.signals import Spec

        return Spec(self.class_ids, (0,) * len(self.class_ids))


def ensemble(*members: Teacher, **options) -> Ensemble:
    named = {str(i): member for i, member in enumerate(members)}
    return Ensemble(tuple(named), named, **options)


def test_an_ensemble_averages_over_the_classes_all_members_know(experience: Experience, student: Student) -> None:
    a = Says(torch.tensor([[1.0, 2.0, 3.0]]), (7, 8, 9))
    b = Says(torch.tensor([[0.5, -1.0]]), (9, 7))
    both = ensemble(a, b)
    both.begin(experience, student)
    said = both.signals(batch([9]), Needs())
    pa = torch.tensor([1.0, 3.0]).softmax(0)
    pb = torch.tensor([-1.0, 0.5]).softmax(0)
    assert said.class_ids.tolist() == [7, 9]
    torch.testing.assert_close(said.logits.softmax(1)[0], (pa + pb) / 2)
    logits = ensemble(a, b, mean="logits")
    logits.begin(experience, student)
    torch.testing.assert_close(logits.signals(batch([9]), Needs()).logits[0], torch.tensor([0.0, 1.75]))


def test_weights_and_entropy_decide_how_much_a_member_counts(experience: Experience, student: Student) -> None:
    a, b = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.0, 0.5, 0.0]])
    members = Says(a, (0, 1, 2)), Says(b, (0, 1, 2))
    pa, pb = a.softmax(1), b.softmax(1)
    uneven = ensemble(*members, weights=(3.0, 1.0)).signals(batch([0]), Needs())
    torch.testing.assert_close(uneven.logits.softmax(1), 0.75 * pa + 0.25 * pb)
    surer = ensemble(*members, by="entropy").signals(batch([0]), Needs())
    wa, wb = ((p * p.log()).sum().exp() for p in (pa, pb))
    assert wa > wb
    torch.testing.assert_close(surer.logits.softmax(1), (wa * pa + wb * pb) / (wa + wb))
    both = ensemble(*members, mean="logits", weights=(3.0, 1.0)).signals(batch([0]), Needs())
    torch.testing.assert_close(both.logits, 0.75 * a + 0.25 * b)


def test_what_an_ensemble_counts_by_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor made of Python's numbers is a copy to the device, for which a step would wait."""
    both = ensemble(Says(torch.tensor([[2.0, 0.0]]), (0, 1)), Says(torch.tensor([[0.0, 1.0]]), (0, 1)))
    first = both.signals(batch([0]), Needs())
    used: list[str] = []

    class Watched:
        def __getattr__(self, name: str) -> object:
            used.append(name)
            return getattr(torch, name)

    monkeypatch.setattr("clkd.teachers.ensemble.torch", Watched())
    again = both.signals(batch([0]), Needs())
    assert torch.equal(again.logits, first.logits)
    assert "stack" in used
    assert "tensor" not in used


def test_routed_by_class_a_row_hears_those_that_know_it(experience: Experience, student: Student) -> None:
    old = Says(torch.tensor([[1.0, 2.0, 3.0]]).expand(4, 3), (0, 1, 2))
    new = Says(torch.tensor([[5.0, 1.0, 0.0]]).expand(4, 3), (4, 2, 1))
    routed = ensemble(old, new, by="class")
    routed.begin(experience, student)
    assert routed.spec().class_ids == (0, 1, 2, 4)
    said = routed.signals(batch([0, 4, 2, 7]), Needs())
    assert said.valid.tolist() == [True, True, True, False]
    assert said.known.int().tolist() == [[1, 1, 1, 0], [0, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]]
    p = [said.logits[i][said.known[i]].softmax(0) for i in range(3)]
    torch.testing.assert_close(p[0], torch.tensor([1.0, 2.0, 3.0]).softmax(0))
    torch.testing.assert_close(p[1], torch.tensor([0.0, 1.0, 5.0]).softmax(0))
    mixed = (torch.tensor([2.0, 3.0]).softmax(0) + torch.tensor([0.0, 1.0]).softmax(0)) / 2
    torch.testing.assert_close(p[2], mixed)
    assert said.logits.isfinite().all()


def test_snapshots_keep_the_last_selves_and_survive_a_checkpoint(student: Student, experience: Experience) -> None:
    past, rows, selves = Snapshots(last=2, by="weight"), batch([0, 1]), []
    assert not past.ready
    for i in range(3):
        past.begin(experience, student)
        learn(student, rows)
        student.eval()
        past.end(experience, student)
        selves.append(student(rows.x).detach()[:, :2].softmax(1))
        student.grow((2 + i,), i + 1, generator(i))
    past.begin(experience, student)
    said = past.signals(rows, Needs())
    own = [m.signals(rows, Needs()).logits[:, :3].softmax(1) for m in past.members]
    torch.testing.assert_close(own[0][:, :2] / own[0][:, :2].sum(1, keepdim=True), selves[1])
    assert [len(m.spec().class_ids) for m in past.members] == [3, 4]
    torch.testing.assert_close(said.logits.softmax(1), sum(own) / 2)
    again = Snapshots(last=2, by="weight")
    again.load_state_dict(past.state_dict())
    again.begin(experience, student)
    assert torch.equal(again.signals(rows, Needs()).logits, said.logits)
    assert again.fingerprint() == past.fingerprint()
    fewer = Snapshots(last=1, by="weight")
    fewer.load_state_dict(past.state_dict())
    fewer.begin(experience, student)
    assert [each.fingerprint() for each in fewer.members] == [past.members[1].fingerprint()]


@pytest.mark.parametrize(("by", "mean"), [("class", "probabilities"), ("class", "logits"), ("weight", "logits")])
def test_past_selves_of_a_fixed_head_speak_of_what_they_had_learned(by, mean, experience: Experience) -> None:
    """As those do of a head that grows and has the same weights: its columns of classes to come are no knowledge."""
    rows, told = batch([0, 1, 2, 3, 4, -1]), {}
    for kind in (Linear(16), Fixed(16, class_names=tuple("abcde"))):
        torch.manual_seed(0)
        student = Student(ResNet(SHAPE, blocks=(1, 1, 1), width=4), kind, SHAPE)
        columns = torch.randn(3, 5, 16, generator=generator(1))
        past, loss = Snapshots(by=by, mean=mean), KD()
        for i, classes in enumerate([(0, 1), (2, 3), (4,)]):
            student.grow(classes, i, generator(i))
            student.head.weight.data.copy_(columns[i, : len(student.class_ids)])
            student.head.bias.data.fill_(0)
            past.begin(experience, student)
            if i < 2:
                past.end(experience, student)
        loss.bind(student.spec(), past.spec())
        said = past.signals(rows, Needs())
        with student.teaching():
            value = loss(rows, student.signals(rows.x, Needs()), said)
        known = torch.ones(6, 2, dtype=torch.bool) if said.known is None else said.known[:, :4]
        told[type(kind)] = said.valid, known, value
        learned = [c for c, born in zip(past.spec().class_ids, past.spec().born, strict=True) if born >= 0]
        assert learned == ([0, 1, 2, 3] if by == "class" else [0, 1])
    assert said.valid.tolist() == [c in learned for c in rows.y.tolist()]
    for linear, fixed in zip(told[Linear], told[Fixed], strict=True):
        torch.testing.assert_close(fixed, linear)


def test_an_ensemble_waits_for_its_members_and_refuses_strangers(experience: Experience, student: Student) -> None:
    a, previous = Says(torch.zeros(1, 2), (0, 1)), Previous()
    assert not ensemble(previous, previous).ready
    alone = ensemble(a, previous)
    alone.begin(experience, student)
    assert alone.ready
    torch.testing.assert_close(alone.signals(batch([0]), Needs()).logits.softmax(1), torch.full((1, 2), 0.5))
    with pytest.raises(UserError, match="share no class"):
        ensemble(a, Says(torch.zeros(1, 1), (5,))).spec()
    with pytest.raises(UserError, match="'1' does not know all its classes of every row"):
        ensemble(a, Stored(("cat", "dog")))
    with pytest.raises(UserError, match="an ensemble has no features"):
        alone.spec("stage1")


def test_a_view_gives_the_teacher_its_own_statistics_and_size() -> None:
    pixels = torch.rand(2, 3, 8, 8)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.1])
    own_mean, own_std = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.5, 0.25, 0.125])
    student_view = (pixels - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    teacher_view = (pixels - own_mean.view(1, 3, 1, 1)) / own_std.view(1, 3, 1, 1)
    torch.testing.assert_close(View((mean, std), (own_mean, own_std), None)(student_view), teacher_view)
    assert View((mean, std), (own_mean, own_std), 5)(student_view).shape == (2, 3, 5, 5)


@pytest.mark.parametrize("classes", ["known", "all"])
def test_stored_logits_of_all_columns_are_compared_as_in_the_paper(classes, experience: Experience) -> None:
    """DER's `F.mse_loss(outputs, buffer_logits)`, later classes' columns included; or the classes known to a row."""
    student = Student(ResNet(SHAPE, blocks=(1, 1, 1), width=4), Fixed(16, class_names=tuple("abcd")), SHAPE)
    student.grow((0, 1), 0, generator(0))
    student.grow((2, 3), 1, generator(0))
    stored, loss = Stored(tuple("abcd"), classes), KD(variant="mse", over="all")
    stored.begin(experience, student)
    loss.bind(student.spec(), stored.spec())
    i, draws = torch.zeros(3, dtype=torch.long), torch.Generator().manual_seed(0)
    z, v = torch.randn(3, 4, generator=draws), torch.randn(3, 4, generator=draws)
    replayed = Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=0, extra={"logits": v})
    value = loss(replayed, Signals(z, student.class_ids_tensor), stored.signals(replayed, Needs())).mean()
    columns = slice(0, 4 if classes == "all" else 2)
    torch.testing.assert_close(value, torch.nn.functional.mse_loss(z[:, columns], v[:, columns]))


@pytest.mark.parametrize("columns", ["fixed", "linear"])
def test_in_the_first_experience_a_row_knows_no_class_to_come_either(columns, experience: Experience) -> None:
    head = Fixed(16, class_names=tuple("abcd")) if columns == "fixed" else Linear(16)
    student = Student(ResNet(SHAPE, blocks=(1, 1, 1), width=4), head, SHAPE)
    student.grow((0, 1), 0, generator(0))
    stored = Stored(tuple("abcd"))
    stored.begin(experience, student)
    i = torch.zeros(2, dtype=torch.long)
    replayed = Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=0, extra={"logits": torch.randn(2, 4)})
    known = stored.signals(replayed, Needs()).known
    assert known is None if columns == "linear" else known.tolist() == [[True, True, False, False]] * 2


def test_of_a_replayed_row_without_a_label_nobody_knows_the_class(experience: Experience, student: Student) -> None:
    stored = Stored(tuple("abcd"))
    stored.begin(experience, student)
    i, y = torch.zeros(3, dtype=torch.long), torch.tensor([0, 1, -1])
    rows = Batch(x=i, y=y, sample_id=i, domain=i, experience=i, new=1, extra={"logits": torch.randn(2, 4)})
    assert stored.signals(rows, Needs()).valid.tolist() == [False, True, False]


@pytest.mark.parametrize("lived", [True, False], ids=["from the start", "taken up in the middle"])
def test_what_came_later_is_not_said_again(lived, experience: Experience) -> None:
    """Whoever was there, and whoever begins with the experience that a run goes on with."""
    student = Student(ResNet(SHAPE, blocks=(1, 1, 1), width=4), Linear(16), SHAPE)
    stored = Stored(tuple("abcd"))
    student.grow((0, 1), 0, generator(0))
    if lived:
        stored.begin(experience, student)
    student.grow((2, 3), 1, generator(0))
    stored.begin(experience, student)
    i = torch.zeros(2, dtype=torch.long)
    told = Batch(
        x=i, y=i, sample_id=i, domain=i, experience=torch.tensor([0, 1]), new=0, extra={"logits": torch.randn(2, 4)}
    )
    known = stored.signals(told, Needs()).known
    assert known.tolist() == [[True, True, False, False], [True] * 4]
