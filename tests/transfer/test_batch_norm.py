"""Batch-norm statistics taken anew, against numpy; fusion of weights, number by number."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from clkd.engine.provenance import fitting
from clkd.errors import UserError
from clkd.models.backbones.mlp import MLP
from clkd.models.backbones.resnet import ResNet
from clkd.models.compiled import Compiled
from clkd.models.corrected import BiasCorrected
from clkd.models.heads import Cosine, Fixed, Linear
from clkd.models.prototypes import NearestMean
from clkd.models.slda import StreamingLDA
from clkd.models.student import Student
from clkd.signals import Batch
from clkd.testing import material
from clkd.transfer.batch_norm import AdaBN, balanced, layers, reestimate, statistics
from clkd.transfer.fusion import Average, Interpolate, accuracy, concluded

SHAPE = (1, 4, 4)


def convolutional() -> Student:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Student(ResNet(SHAPE, (1, 1), 2), Linear(4), SHAPE)
    made.grow(material.CLASSES[:2], 0, torch.Generator().manual_seed(0))
    return made


def pictures(count: int, seed: int, shift: float = 0.0, y: torch.Tensor | None = None) -> Batch:
    x = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed)) + shift
    i = torch.arange(count)
    return Batch(x, i if y is None else y, i, torch.zeros_like(i), torch.zeros_like(i), new=count)


def test_statistics_are_the_mean_over_batches_by_their_rows_and_nothing_else_moves():
    student = convolutional()
    coming = [pictures(6, 1), pictures(6, 2, 1.0), pictures(2, 4, 9.0), pictures(1, 3, 99.0)]
    before = {name: tensor.clone() for name, tensor in student.state_dict().items() if "running" not in name}
    student.train()
    reestimate(student, coming)
    stem = student.backbone.stem
    means, variances = [], []
    for each in coming[:3]:
        maps = torch.nn.functional.conv2d(each.x, stem[0].weight, padding=1).detach().numpy()
        flat = maps.transpose(1, 0, 2, 3).reshape(2, -1)
        means.append(flat.mean(1))
        variances.append(flat.var(1, ddof=1))
    np.testing.assert_allclose(stem[1].running_mean, np.average(means, 0, [6, 6, 2]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stem[1].running_var, np.average(variances, 0, [6, 6, 2]), rtol=1e-5)
    after = student.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if "tracked" not in name)
    assert student.training
    assert stem[1].momentum == 0.1


def test_what_is_compiled_neither_runs_then_nor_gives_up():
    student = convolutional()
    student.runner = compiled = Compiled("default", frozenset({6}), backend="eager")
    reference = convolutional()
    for each in (student, reference):
        reestimate(each, [pictures(6, 1), pictures(6, 2)])
    assert student.runner is compiled
    assert not compiled.failed
    assert material.equal(dict(student.state_dict()), dict(reference.state_dict()))


def test_without_rows_statistics_stay():
    student = convolutional()
    student.train()(pictures(6, 1).x)
    before = statistics(layers(student)[0])
    reestimate(student, [pictures(1, 2)])
    assert material.equal(statistics(layers(student)[0]), before)


def test_adabn_takes_new_rows_and_moves_by_its_share():
    student, whole = convolutional(), convolutional()
    for each in (student, whole):
        each.train()(pictures(8, 5, 2.0).x)
    old = statistics(layers(student)[1])
    first = next(material.experiences())
    AdaBN()(material.batch(), None)
    AdaBN().review(lambda which: iter([pictures(6, 1)] if which == "new" else []), first, whole)
    AdaBN(share=0.25).review(lambda which: iter([pictures(6, 1)]), first, student)
    reference = convolutional()
    reestimate(reference, [pictures(6, 1)])
    for now, then, target in zip(statistics(layers(student)[1]), old, statistics(layers(reference)[1]), strict=True):
        torch.testing.assert_close(now, 0.75 * then + 0.25 * target)
    assert material.equal(statistics(layers(whole)[1]), statistics(layers(reference)[1]))


def test_a_student_without_batch_norm_is_refused():
    with pytest.raises(UserError, match="the student's model has none"):
        AdaBN().prepare(Student(MLP(SHAPE, hidden=(3,)), Linear(3), SHAPE))


def trained(strategy, student: Student):
    """Enters the second experience, with two new classes, and moves all weights."""
    _, second, _ = material.experiences()
    student.grow(second.classes, 1, torch.Generator().manual_seed(1))
    strategy.begin(second, student)
    before = copy.deepcopy(student.state_dict())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 1.0
    return second, before, copy.deepcopy(student.state_dict())


@pytest.mark.parametrize("share", [0.25, {"backbone": 0.5, "backbone.stem": 1.0}])
def test_interpolation_is_a_straight_line_and_new_columns_stay(share):
    strategy, student = Interpolate(previous=share, reestimate=False), convolutional()
    second, before, after = trained(strategy, student)
    strategy.review(lambda which: iter(()), second, student)
    for name, now in student.state_dict().items():
        own = share if isinstance(share, float) else 1.0 if "stem" in name else 0.5 if "backbone" in name else 0.0
        expected = (1 - own) * after[name] + own * before[name] if now.is_floating_point() else after[name]
        if name.startswith("head."):
            expected[2:] = after[name][2:]
        torch.testing.assert_close(now, expected)


def test_nothing_is_fused_in_the_first_experience():
    student, first = convolutional(), next(material.experiences())
    for strategy in (Interpolate(), Average()):
        before = copy.deepcopy(student.state_dict())
        strategy.begin(first, student)
        strategy.review(lambda which: iter(()), first, student)
        assert material.equal(dict(student.state_dict()), dict(before))


def test_the_share_is_chosen_on_validation_rows():
    """Labels are what the previous self says, so it is the more right the more it counts."""
    strategy, student = Interpolate(previous="validation", grid=(0.0, 0.5, 1.0), reestimate=False), convolutional()
    _, second, _ = material.experiences()
    strategy.begin(second, student)
    held = pictures(40, 3)
    answers = student.class_ids_tensor[student.eval()(held.x).argmax(1)]
    before = copy.deepcopy(student.state_dict())
    with torch.no_grad():
        student.head.weight *= -1
        student.head.bias *= -1
    rows = pictures(40, 3, y=answers)
    strategy.review(lambda which: iter([rows] if which == "validation" else []), second, student)
    assert strategy.chosen == 1.0
    assert material.equal(dict(student.state_dict()), dict(before))


def nearest(student: Student, known: list[Batch], asked: Batch) -> float:
    """The share of rows whose class's mean, on the unit sphere, is the nearest: in numpy, row by row."""

    def features(batch: Batch) -> np.ndarray:
        with torch.no_grad():
            found = student.eval().backbone(batch.x).double().numpy()
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    vectors = np.concatenate([features(batch) for batch in known])
    labels = np.concatenate([batch.y.numpy() for batch in known])
    means = {c: vectors[labels == c].mean(0) for c in set(labels.tolist())}
    means = {c: mean / np.linalg.norm(mean) for c, mean in means.items()}
    guesses = [min(means, key=lambda c: np.linalg.norm(row - means[c])) for row in features(asked)]
    return float(np.mean(np.array(guesses) == asked.y.numpy()))


@pytest.mark.parametrize("rows", ["all", "memory"])
def test_a_head_of_class_means_is_judged_by_those_that_a_share_would_lead_to(rows):
    """By the means of before, weights of before would always look best."""
    strategy, student = Interpolate(previous="validation", grid=(1.0, 0.5, 0.0), reestimate=False), convolutional()
    student.head = NearestMean(4, rows=rows)
    (first, second, _), known = material.experiences(), torch.tensor(material.CLASSES)
    student.grow(first.classes, 0, torch.Generator().manual_seed(0))
    old = pictures(20, 1, y=known[torch.arange(20) % 2])
    student.head.gather([(student.eval().backbone(old.x), old.y)])
    student.grow(second.classes, 1, torch.Generator().manual_seed(1))
    strategy.begin(second, student)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(4)
        for parameter in student.backbone.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    new, held = (
        replace(pictures(count, seed, y=known[torch.arange(count) % 4]), experience=torch.ones(count).long())
        for count, seed in ((24, 2), (32, 3))
    )
    new = replace(new, x=new.x + new.y[:, None, None, None])
    held = replace(held, x=held.x + held.y[:, None, None, None])
    unlabelled = replace(pictures(4, 5), y=torch.full((4,), -1), experience=torch.ones(4).long())
    of = {"new": [new, unlabelled], "validation": [held], "kept": [old, new.rows(0, 3)]}
    after, before = copy.deepcopy(student), copy.deepcopy(student)
    before.load_state_dict(strategy._before)
    scores, head = [], student.head
    for share in strategy.grid:
        fused = copy.deepcopy(after)
        for now, then in zip(fused.parameters(), before.parameters(), strict=True):
            now.data.lerp_(then.data, share)
        scores.append(nearest(fused, [old, new], held))
        with concluded(fused, lambda which: iter(of[which]), second):
            assert accuracy(fused, lambda which: iter(of[which])) == pytest.approx(scores[-1])
    strategy.review(lambda which: iter(of[which]), second, student)
    assert strategy.chosen == strategy.grid[int(np.argmax(scores))] != 1.0
    assert len(set(scores)) == 3
    assert student.head is head, "whoever optimises it still has it"
    torch.testing.assert_close(student.head.means, after.head.means)


def test_of_shares_that_are_as_good_the_first_is_chosen():
    strategy, student = Interpolate(previous="validation", grid=(0.5, 0.25, 0.0), reestimate=False), convolutional()
    _, second, _ = material.experiences()
    strategy.begin(second, student)
    strategy.review(lambda which: iter([pictures(6, 3)] if which == "validation" else []), second, student)
    assert strategy.chosen == 0.5


def test_each_experience_s_validation_rows_count_the_same():
    student, few, many = convolutional(), pictures(4, 1), pictures(12, 2)
    answers = [student.class_ids_tensor[student.eval()(each.x).argmax(1)] for each in (few, many)]
    few = replace(few, y=answers[0])  # all are right
    many = replace(many, y=torch.full_like(answers[1], -7), experience=torch.ones_like(answers[1]))  # and none
    halves = [many.rows(0, 6), many.rows(6, 12)]
    assert accuracy(student, lambda which: iter([few, *halves])) == 0.5


def test_where_tests_tell_the_task_only_its_classes_compete_on_validation_rows_too():
    """All columns together, the classes of the other task would win whatever the share."""
    experiences = tuple(material.experiences())[:2]
    strategy = Interpolate("validation", (0.0, 1.0), False, experiences, task_labels=True)
    student, (_, second) = convolutional(), experiences
    student.grow(second.classes, 1, torch.Generator().manual_seed(1))
    strategy.begin(second, student)
    held = pictures(40, 3)
    answers = torch.tensor(second.classes)[student.eval()(held.x)[:, 2:].argmax(1)]
    with torch.no_grad():
        student.head.bias[:2] += 100
        student.backbone.stem[0].weight *= -1
        strategy._before["head.bias"][:2] += 100
    held = replace(held, y=answers, experience=torch.ones(40).long())
    shares = {tasks: accuracy(student, lambda which: iter([held]), tasks) for tasks in (None, strategy.tasks)}
    assert shares[None] == 0
    assert 0 < shares[strategy.tasks] < 1
    strategy.review(lambda which: iter([held] if which == "validation" else []), second, student)
    assert strategy.chosen == 1.0
    assert Interpolate(experiences=experiences).tasks is None


@pytest.mark.parametrize("strategy", [Interpolate(), Average()], ids=lambda each: type(each).__name__)
def test_what_a_head_gathered_is_no_weight(strategy):
    """Means and counts go on from where they are: the mean with those of a self that knew less would be of no rows."""
    student, (first, second, _) = convolutional(), material.experiences()
    student.head = StreamingLDA(4)
    student.grow(first.classes, 0, torch.Generator().manual_seed(0))
    known = torch.tensor(first.classes)[torch.arange(20) % 2]
    for experience in (first, second):
        student.grow(experience.classes, experience.index, torch.Generator().manual_seed(1))
        strategy.begin(experience, student)
        before = {name: buffer.clone() for name, buffer in student.head.named_buffers()}
        strategy.review(lambda which: iter(()), experience, student)
        assert material.equal(dict(student.head.named_buffers()), before)
        student.head.gather([(student.eval().backbone(pictures(20, 1).x), known)])
    assert student.head.counts.sum() == 40


def test_average_is_the_mean_of_selves_as_training_left_them_and_of_those_who_know_a_class():
    strategy, student = Average(last=2, reestimate=False), convolutional()
    first, _, third = material.experiences()
    strategy.review(lambda which: iter(()), first, student)
    one = copy.deepcopy(student.state_dict())
    second, _, two = trained(strategy, student)
    strategy.review(lambda which: iter(()), second, student)
    now = copy.deepcopy(student.state_dict())
    torch.testing.assert_close(
        now["backbone.stem.0.weight"], (one["backbone.stem.0.weight"] + two["backbone.stem.0.weight"]) / 2
    )
    torch.testing.assert_close(now["head.weight"][:2], (one["head.weight"] + two["head.weight"][:2]) / 2)
    torch.testing.assert_close(now["head.weight"][2:], two["head.weight"][2:])
    resumed = Average(last=2, reestimate=False)
    resumed.load_state_dict(strategy.state_dict())
    copied = copy.deepcopy(student)
    strategy.review(lambda which: iter(()), third, student)
    resumed.review(lambda which: iter(()), third, copied)
    assert material.equal(dict(student.state_dict()), dict(copied.state_dict()))
    middle = (now["head.weight"] + two["head.weight"]) / 2  # the first self is out
    torch.testing.assert_close(student.head.weight, middle)


def test_average_takes_no_column_of_a_fixed_head_from_a_self_that_had_not_learned_it():
    strategy, student = Average(reestimate=False), convolutional()
    student.head = Fixed(4, tuple("abcd"))
    for experience, classes in zip(material.experiences(), [(0, 1), (2,), (2,)], strict=True):
        student.grow(classes, experience.index, torch.Generator())
        with torch.no_grad():
            student.head.weight.fill_(4.0**experience.index)
        strategy.review(lambda which: iter(()), experience, student)
    last = strategy.selves[-1][2]["head.weight"]
    assert torch.equal(last, torch.full_like(last, 16.0))
    assert student.head.weight[:, 0].tolist() == [7.0, 7.0, 10.0, 16.0]


def test_a_checkpoint_of_before_average_said_who_had_learned_what_is_refused():
    strategy, student = Average(reestimate=False), convolutional()
    strategy.review(lambda which: iter(()), next(material.experiences()), student)
    state = strategy.state_dict()
    for each in state["_extra_state"]["selves"]:
        del each["born"]
    with pytest.raises(UserError, match=r"does not fit .*\(KeyError: 'born'\): go on with the versions"), fitting():
        Average().load_state_dict(state)


def test_average_takes_the_mean_of_a_cosine_head_s_scale():
    strategy, student = Average(reestimate=False), convolutional()
    student.head = Cosine(4)
    for experience in list(material.experiences())[:2]:
        student.grow(experience.classes, experience.index, torch.Generator())
        student.head.scale.data.fill_(1.0 + experience.index)
        strategy.review(lambda which: iter(()), experience, student)
    assert student.head.scale.item() == 1.5


@pytest.mark.parametrize("strategy", [Interpolate(), Average()])
def test_statistics_are_taken_anew_after_fusion(strategy):
    student, (first, _, _) = convolutional(), material.experiences()
    strategy.review(lambda which: iter(()), first, student)
    second, _, _ = trained(strategy, student)
    strategy.review(lambda which: iter([pictures(6, 1)] if which == "new" else []), second, student)
    reference = copy.deepcopy(student)
    reestimate(reference, [pictures(6, 1)])
    for one, other in zip(layers(student), layers(reference), strict=True):
        assert material.equal(statistics(one), statistics(other))


def of(experience: int, batch: Batch) -> Batch:
    return replace(batch, experience=torch.full_like(batch.y, experience))


@pytest.mark.parametrize("make", [Interpolate, Average])
def test_balanced_statistics_are_those_of_as_many_new_as_old_rows(make):
    """Five new rows and three kept ones: three with three, and two with the first two again. Those of its own that
    memory has already are not counted."""
    student, (first, _, _) = convolutional(), material.experiences()
    strategy = make(reestimate="balanced")
    strategy.review(lambda which: iter(()), first, student)
    second, _, _ = trained(strategy, student)
    new, old, own = of(1, pictures(5, 1)), of(0, pictures(3, 2, 2.0)), of(1, pictures(2, 3, 50.0))
    kept = replace(own.joined(old), new=0)
    rows = {"new": [new], "kept": [kept], "validation": []}
    strategy.review(lambda which: iter(rows[which]), second, student)
    reference = copy.deepcopy(student)
    three, two = torch.cat([new.x[:3], old.x]), torch.cat([new.x[3:], old.x[:2]])
    reestimate(reference, [replace(pictures(len(x), 1), x=x) for x in (three, two)])
    for one, other in zip(layers(student), layers(reference), strict=True):
        assert material.equal(statistics(one), statistics(other))


def test_balanced_with_nothing_are_new_rows_alone():
    kept = of(1, pictures(2, 3))
    rows = {"new": [of(1, pictures(5, 1)), of(1, pictures(1, 2))], "kept": [replace(kept, new=0)], "validation": []}
    _, second, _ = material.experiences()
    assert [each.x.tolist() for each in balanced(lambda which: iter(rows[which]), second)] == [
        each.x.tolist() for each in rows["new"]
    ]


def test_of_a_backbone_that_stands_still_no_statistic_moves():
    """What slda gathered is about those that there are."""
    student = convolutional()
    before = [statistics(layer) for layer in layers(student)]
    student._stand_still()
    reestimate(student, [pictures(8, 1, shift=3.0)])
    assert material.equal([statistics(layer) for layer in layers(student)], before)


def test_the_correction_of_the_newest_classes_is_theirs_alone():
    """As their columns; those of classes before are fused."""
    student, fusion = convolutional(), Interpolate(previous=0.5, reestimate=False)
    student.head = BiasCorrected(4)
    first, second, _ = material.experiences()
    student.grow(first.classes, 0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        student.head.alpha[0] = 3.0
    student.grow(second.classes, 1, torch.Generator().manual_seed(1))
    fusion.begin(second, student)
    with torch.no_grad():
        student.head.alpha[:], student.head.beta[:] = torch.tensor([5.0, 0.5]), torch.tensor([2.0, -1.0])
    fusion.review(lambda which: iter(()), second, student)
    assert student.head.alpha.tolist() == [4.0, 0.5]
    assert student.head.beta.tolist() == [1.0, -1.0]
