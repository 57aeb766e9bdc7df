"""What regularisers hold parameters by, against loops over single rows and single steps in plain PyTorch."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clkd.losses import measured, sensitivity
from clkd.losses.ewc import EWC
from clkd.losses.mas import MAS
from clkd.losses.outer import linear_layers, outer_sensitivity
from clkd.losses.regulariser import by_class, trained
from clkd.losses.rwalk import RWalk
from clkd.losses.si import SI
from clkd.models.backbones.resnet import ResNet
from clkd.models.heads import Fixed, Linear, Multi
from clkd.models.prototypes import NearestMean
from clkd.models.student import Student
from clkd.seeding import generator
from clkd.signals import Signals
from clkd.testing import material
from clkd.testing.material import equal
from clkd.view import View

EXPERIENCES = list(material.experiences())
CLOSE = {"rtol": 1e-12, "atol": 1e-15}


class Flat(nn.Module):
    """No backbone at all, so that the student is a linear classifier."""

    out_features, stages = 4, {}

    def forward(self, x):
        return x.flatten(1)


def linear(head=None) -> Student:
    torch.manual_seed(0)
    student = Student(Flat(), head or Linear(4), material.SHAPE)
    student.grow(EXPERIENCES[0].classes, 0, generator(0))
    return student.double()


def mlp() -> Student:
    return material.student().double()


def turned() -> Student:
    """It sees rows in a view of its own."""
    student = mlp()
    flat = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    student.view = View(flat, channels=None, rotate=90)
    return student


def gathered() -> Student:
    """It answers by class means, once it is neither trained nor teaching."""
    student = linear(NearestMean(4))
    x, y = everything(student)
    student.head.gather([(x.flatten(1), y)])
    assert student.head.answers
    return student


def convolutional() -> Student:
    """With batch norm, whose statistics are not the trivial ones."""
    torch.manual_seed(1)
    student = Student(ResNet((1, 8, 8), blocks=(1, 1, 1), width=3), Linear(12), (1, 8, 8))
    student.grow(EXPERIENCES[0].classes, 0, generator(0))
    student.double()(torch.randn(64, 1, 8, 8, dtype=torch.float64))
    return student


def rows(experience, size=7, shape=material.SHAPE):
    """As the engine gives them: normalised, in the order of the data."""
    for at in torch.arange(len(experience.train)).split(size):
        batch = experience.train.gather(at)
        x = batch.x.double() / 255
        yield batch.seen_as(x if shape == material.SHAPE else x.repeat(1, 1, 4, 4))


def reviewed(loss, student, experience=EXPERIENCES[0], size=7):
    loss.begin(experience, student)
    loss.review(rows(experience, size, student.shape), experience, student)
    loss.end(experience, student)
    return loss.kept["importance"]


def everything(student):
    batches = list(rows(EXPERIENCES[0], shape=student.shape))
    return torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])


def by_single_rows(student, contribution):
    """The mean over rows of `contribution(logits [K], label's place)`: a list of (share, scalar, power)."""
    student = copy.deepcopy(student).eval()
    student.head.teach()
    parameters = dict(student.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    x, y = everything(student)
    for row, label in zip(x, y, strict=True):
        logits = student(row[None])[0]
        for share, value, power in contribution(logits, student.class_ids.index(int(label))):
            gradients = torch.autograd.grad(value, list(parameters.values()), retain_graph=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                total[name] += share * gradient.abs() ** power
    return {name: tensor / len(x) for name, tensor in total.items()}


def exact(logits, label):
    return [(p.item(), logits.log_softmax(0)[c], 2) for c, p in enumerate(logits.softmax(0))]


def empirical(logits, label):
    return [(1.0, logits.log_softmax(0)[label], 2)]


def label(logits, label):
    return [(logits.softmax(0)[label].item(), logits.log_softmax(0)[label], 2)]


def squared_norm(logits, label):
    return [(1.0, logits.square().sum(), 1)]


@pytest.mark.parametrize("make", [linear, mlp, convolutional, turned, gathered])
@pytest.mark.parametrize(
    ("loss", "contribution"),
    [
        (EWC(), exact),
        (EWC(fisher="empirical"), empirical),
        (EWC(fisher="label"), label),
        (MAS(), squared_norm),
    ],
    ids=["exact", "empirical", "label", "mas"],
)
def test_importance_is_a_mean_over_single_rows(make, loss, contribution):
    student = make().train()
    before = {name: buffer.clone() for name, buffer in student.named_buffers()}
    found = reviewed(copy.deepcopy(loss), student)
    expected = by_single_rows(student, contribution)
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], **CLOSE)
        assert found[name].any() or name.endswith("bias"), name
    assert student.training
    assert not student.head.teaches
    assert equal(dict(student.named_buffers()), before), "batch norm must not move"


def test_linear_layers_take_the_quick_way_and_others_or_what_is_written_over_do_not():
    def quick(student):
        batch = next(rows(EXPERIENCES[0], shape=student.shape))
        pulls, shares = torch.ones(len(batch), 1, 2).to(batch.x), torch.ones(len(batch), 1).to(batch.x)
        layers = linear_layers(student.eval())
        return layers and outer_sensitivity(student, layers, batch, torch.arange(2), pulls, shares, 2.0)

    assert quick(mlp()).keys() == dict(mlp().named_parameters()).keys()
    assert quick(convolutional()) is None
    student = mlp()
    for module in student.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    assert quick(student) is None


def test_the_exact_fisher_of_a_linear_classifier_has_a_closed_form():
    """`E[p_c (1 − p_c) x_d²]`, and for biases `E[p_c (1 − p_c)]`."""
    student = linear()
    found = reviewed(EWC(), student)
    x, _ = everything(student)
    p = student(x).softmax(1)
    spread = (p * (1 - p)).detach()
    torch.testing.assert_close(found["head.weight"], spread.T @ x.flatten(1).square() / len(x), **CLOSE)
    torch.testing.assert_close(found["head.bias"], spread.mean(0), **CLOSE)


def test_the_sampled_fisher_is_the_exact_one_on_average_and_the_empirical_is_not():
    student = linear()
    student.head.bias.data += torch.tensor([1.0, -1.0])
    true = reviewed(EWC(), student)
    draws = [reviewed(EWC(fisher="sampled", seed=seed), student, size=30) for seed in range(300)]
    for name in true:
        found = torch.stack([each[name] for each in draws])
        error = (found.mean(0) - true[name]) / (found.std(0) / len(draws) ** 0.5)
        assert error.abs().max() < 5, name
        off = reviewed(EWC(fisher="empirical"), student)[name] - true[name]
        assert (off / (found.std(0) / len(draws) ** 0.5)).abs().max() > 20, name
    assert equal(draws[3], reviewed(EWC(fisher="sampled", seed=3), student, size=30)), "the seed decides"
    assert not equal(draws[3], draws[4])


@pytest.mark.parametrize("loss", [EWC(), EWC(fisher="empirical"), MAS()])
def test_neither_batches_nor_chunks_change_it_and_chunks_are_bounded(loss, monkeypatch):
    whole = reviewed(copy.deepcopy(loss), mlp())
    seen = []
    plain = sensitivity.sensitivity

    def watched(student, x, *others):
        seen.append(len(x))
        return plain(student, x, *others)

    monkeypatch.setattr(measured, "sensitivity", watched)
    student = mlp()
    monkeypatch.setattr(sensitivity, "BYTES", 3 * (sum(p.nbytes for p in student.parameters()) + 2 * 2 * 8))
    pieces = reviewed(copy.deepcopy(loss), student, size=11)
    assert max(seen) == 3
    assert sum(seen) == material.ROWS
    for name in whole:
        torch.testing.assert_close(pieces[name], whole[name], **CLOSE)


def test_some_rows_are_drawn_evenly_and_by_the_seed():
    student = linear()
    x, _ = everything(student)
    found = reviewed(EWC(rows=10, seed=1), student)
    order = torch.randperm(len(x), generator=generator(1, "rows", 0))[:10]
    p = student(x[order]).softmax(1)
    torch.testing.assert_close(found["head.bias"], (p * (1 - p)).mean(0).detach(), **CLOSE)
    assert equal(reviewed(EWC(rows=10_000), student), reviewed(EWC(), student))


def test_unlabelled_rows_do_not_count_where_labels_do(monkeypatch):
    student, experience = linear(), EXPERIENCES[0]
    loss = EWC(fisher="empirical")
    loss.begin(experience, student)
    batches = list(rows(experience, size=10))
    batches[1].y.fill_(-1)
    loss.review(iter(batches), experience, student)
    x, y = (torch.cat([getattr(batches[i], what) for i in (0, 2)]) for what in ("x", "y"))
    score = F.one_hot((y[:, None] == student.class_ids_tensor).int().argmax(1), 2) - student(x).softmax(1)
    torch.testing.assert_close(loss.kept["importance"]["head.bias"], score.square().mean(0).detach(), **CLOSE)
    nobody = EWC(fisher="empirical")
    nobody.begin(experience, student)
    for batch in batches:
        batch.y.fill_(-1)
    nobody.review(iter(batches), experience, student)
    assert nobody.kept == {}


@pytest.mark.parametrize("make", [EWC, MAS, SI, RWalk])
def test_it_is_exactly_0_in_the_first_experience_and_where_parameters_are_held(make):
    student, loss = material.student(), make()
    said = Signals(None, student.class_ids_tensor)
    loss.begin(EXPERIENCES[0], student)
    value = loss(material.batch(), said)
    assert value == 0
    assert not value.requires_grad
    walk(loss, student, steps=12)
    loss.review((b.seen_as(b.x.float()) for b in rows(EXPERIENCES[0])), EXPERIENCES[0], student)
    loss.end(EXPERIENCES[0], student)
    student.grow(EXPERIENCES[1].classes, 1, generator(1))
    loss.begin(EXPERIENCES[1], student)
    student.zero_grad()
    value = loss(material.batch(), Signals(None, student.class_ids_tensor))
    value.backward()
    assert value == 0
    assert all(not p.grad.any() for p in student.parameters())
    with torch.no_grad():
        student.head.weight[2:] += 1
        student.head.bias[2:] += 1
    assert loss(material.batch(), said) == 0, "new columns are free"
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.1
    value = loss(material.batch(), said)
    value.backward()
    assert value > 0
    assert any(p.grad.any() for p in student.parameters())
    assert not student.head.weight.grad[2:].any()


def walk(loss, student, steps, momentum=0.9):
    """Steps on random rows, with the calls of the engine."""
    optimizer = torch.optim.SGD(student.parameters(), 0.1, momentum=momentum)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        x = torch.rand(8, *student.shape, generator=draw).to(student.head.weight.dtype)
        logits = student(x)
        optimizer.zero_grad()
        F.cross_entropy(logits, torch.randint(0, logits.shape[1], (8,), generator=draw)).backward()
        loss.after_backward(student)
        optimizer.step()
        loss.after_step(student)


def test_separate_penalties_are_kept_as_one_and_are_worth_the_sum_of_all():
    """Value and gradient, over three experiences and a growing head."""
    student, loss, held = mlp(), EWC(), []
    for experience in EXPERIENCES:
        student.grow(experience.classes, experience.index, generator(experience.index))
        student.double()
        alone = reviewed(EWC(), student, experience)
        loss.begin(experience, student)
        loss.review(rows(experience), experience, student)
        held.append((alone, {name: p.detach().clone() for name, p in student.named_parameters()}))
        with torch.no_grad():
            for parameter in student.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator(experience.index))
    parameters = dict(student.named_parameters())
    total = 0
    for importance, anchor in held:
        for name, p in parameters.items():
            old = p[: len(anchor[name])] if name.startswith("head") else p
            total = total + 0.5 * (importance[name] * (old - anchor[name]).square()).sum()
    value = loss(material.batch(), Signals(None, student.class_ids_tensor))
    torch.testing.assert_close(value, total, rtol=1e-10, atol=0)
    ours, theirs = (torch.autograd.grad(v, list(parameters.values())) for v in (value, total))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert set(loss.kept) == {"importance", "anchor"}, "two numbers for each parameter, however many experiences"


@pytest.mark.parametrize("make", [EWC, MAS])
def test_online_importance_decays_and_the_anchor_moves(make):
    student = mlp()
    loss = make(mode="online", gamma=0.5) if make is EWC else make(gamma=0.5)
    measured_so_far = []
    for experience in EXPERIENCES[:2]:
        measured_so_far.append(reviewed(make(over="all"), student, experience))
        loss.over = "all"
        reviewed(loss, student, experience)
        student.head.weight.data += 0.3
    for name, found in loss.kept["importance"].items():
        assert torch.equal(found, 0.5 * measured_so_far[0][name] + measured_so_far[1][name])
    assert torch.equal(loss.kept["anchor"]["head.weight"] + 0.3, student.head.weight)


@pytest.mark.parametrize("gradient", ["task", "total"])
def test_the_path_integral_is_that_of_a_hand_rolled_loop(gradient):
    """With momentum and clipping, so that the true change of a parameter is not −lr · g; in two experiences."""
    student, loss, weight = mlp(), SI(damping=0.05, gradient=gradient), 0.7
    twin = copy.deepcopy(student)
    ours, theirs = (torch.optim.SGD(each.parameters(), 0.1, momentum=0.9) for each in (student, twin))
    omega = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    held = {name: p.detach().clone() for name, p in twin.named_parameters()}
    draw = torch.Generator().manual_seed(0)
    for experience in EXPERIENCES[:2]:
        loss.begin(experience, student)
        start = {name: p.detach().clone() for name, p in twin.named_parameters()}
        path = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
        for _ in range(7):
            x = torch.rand(8, *student.shape, generator=draw, dtype=torch.float64)
            y = torch.randint(0, 2, (8,), generator=draw)
            ours.zero_grad()
            F.cross_entropy(student(x), y).backward()
            loss.after_backward(student)
            penalty = weight * loss(material.batch(), Signals(None, student.class_ids_tensor))
            if penalty.requires_grad:
                penalty.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 0.5)
            ours.step()
            loss.after_step(student)

            parameters = dict(twin.named_parameters())
            task = torch.autograd.grad(F.cross_entropy(twin(x), y), list(parameters.values()))
            pull = sum((omega[n] * (p - held[n]).square()).sum() for n, p in parameters.items())
            whole = torch.autograd.grad(weight * pull, list(parameters.values()))
            before = [p.detach().clone() for p in parameters.values()]
            for p, g, h in zip(parameters.values(), task, whole, strict=True):
                p.grad = g + h
            torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            theirs.step()
            for (name, p), g, old in zip(parameters.items(), task, before, strict=True):
                path[name] -= (g if gradient == "task" else p.grad) * (p.detach() - old)
        for name, p in twin.named_parameters():
            moved = p.detach() - start[name]
            omega[name] = torch.relu(omega[name] + path[name] / (moved.square() + 0.05))
            held[name] = p.detach().clone()
        loss.end(experience, student)
        for name, found in loss.kept["importance"].items():
            torch.testing.assert_close(found, omega[name], **CLOSE)
        assert all(map(torch.equal, student.parameters(), twin.parameters()))


@pytest.mark.parametrize("negative", [False, True])
def test_importance_below_0_is_cut_off_unless_it_may_be_negative(negative):
    """Where steps went uphill, `w = −Σ g · δ` is below 0."""
    student, loss = mlp(), SI(damping=0.1, negative=negative)
    loss.begin(EXPERIENCES[0], student)
    for parameter in student.parameters():
        parameter.grad = torch.ones_like(parameter)
    loss.after_backward(student)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            parameter += 0.2 if "head" in name else -0.2
    loss.after_step(student)
    loss.end(EXPERIENCES[0], student)
    for name, found in loss.kept["importance"].items():
        expected = 0.2 / (0.2**2 + 0.1) * (-1 if "head" in name else 1)
        torch.testing.assert_close(found, torch.full_like(found, expected if negative else max(expected, 0)), **CLOSE)


@pytest.mark.parametrize("make", [SI, RWalk])
def test_what_moves_the_student_after_its_last_step_is_no_part_of_its_way_but_it_is_held_there(make):
    """12 steps: the second stretch of `rwalk` is closed at the end."""

    def walked(share):
        student, loss = mlp(), make()
        start = [p.detach().clone() for p in student.parameters()]
        loss.begin(EXPERIENCES[0], student)
        walk(loss, student, steps=12)
        with torch.no_grad():
            for parameter, old in zip(student.parameters(), start, strict=True):
                parameter.lerp_(old, share)
        loss.end(EXPERIENCES[0], student)
        assert equal(loss.kept["anchor"], {name: p.detach() for name, p in student.named_parameters()})
        return loss.kept["importance"]

    assert equal(walked(0.5), walked(0.0))


def test_what_a_phase_does_not_train_moves_no_fisher_information():
    """The gradient of the last step before it still lies there."""
    student, loss = mlp(), RWalk()
    loss.begin(EXPERIENCES[0], student)
    walk(loss, student, steps=3)
    still = [name for name, _ in student.named_parameters() if not name.startswith("head")]
    before = {name: loss.kept["fisher"][name].clone() for name in still}
    student.backbone.requires_grad_(False)
    x, y = everything(student)
    optimizer = torch.optim.SGD(student.head.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(student(x), torch.zeros_like(y)).backward()
        loss.after_backward(student)
        optimizer.step()
        loss.after_step(student)
    assert still
    assert equal({name: loss.kept["fisher"][name] for name in still}, before)


def test_a_riemannian_walk_is_that_of_a_hand_rolled_loop():
    student, loss = mlp(), RWalk(alpha=0.8, every=4, damping=1e-3)
    twin = copy.deepcopy(student)
    ours, theirs = (torch.optim.SGD(each.parameters(), 0.1, momentum=0.9) for each in (student, twin))
    names = [name for name, _ in twin.named_parameters()]
    fisher, scores = None, None
    draw = torch.Generator().manual_seed(0)
    for experience in EXPERIENCES:  # from the third on, the mean is not the sum
        loss.begin(experience, student)
        steps = []
        for _ in range(10):
            x = torch.rand(8, *student.shape, generator=draw, dtype=torch.float64)
            y = torch.randint(0, 2, (8,), generator=draw)
            for model, optimizer in ((student, ours), (twin, theirs)):
                before = [p.detach().clone() for p in model.parameters()]
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                if model is student:
                    loss.after_backward(student)
                optimizer.step()
                if model is student:
                    loss.after_step(student)
                else:
                    g = [p.grad.clone() for p in model.parameters()]
                    fisher = [h * h for h in g] if fisher is None else [
                        0.8 * h * h + 0.2 * f for h, f in zip(g, fisher, strict=True)
                    ]  # fmt: skip
                    steps.append((g, before, [p.detach().clone() for p in model.parameters()], fisher))
        score = [torch.zeros_like(p) for p in twin.parameters()]
        for stretch in (steps[:4], steps[4:8], steps[8:]):
            for i in range(len(names)):
                fall = -sum(g[i] * (after[i] - before[i]) for g, before, after, _ in stretch)
                distance = (stretch[-1][2][i] - stretch[0][1][i]).square()
                score[i] += fall / (0.5 * stretch[-1][3][i] * distance + 1e-3)
        score = [s.clamp(min=0) for s in score]
        scores = score if scores is None else [(a + b) / 2 for a, b in zip(scores, score, strict=True)]
        loss.end(experience, student)
        most = max(f.max() for f in fisher), max(s.max() for s in scores)
        for name, f, s in zip(names, fisher, scores, strict=True):
            torch.testing.assert_close(loss.kept["importance"][name], f / most[0] + s / most[1], rtol=1e-9, atol=1e-12)


def test_rows_of_the_head_follow_their_class():
    old = {"head.weight": torch.arange(6.0).view(3, 2), "head.scale": torch.tensor(5.0), "b": torch.ones(3)}
    now = {"head.weight": torch.zeros(4, 2), "head.scale": torch.zeros(()), "b": torch.zeros(3), "c": torch.zeros(1)}
    fitted = by_class(old, (7, 2, 4), now, (2, 9, 4, 7))
    assert fitted["head.weight"].tolist() == [[2, 3], [0, 0], [4, 5], [0, 1]]
    assert (fitted["head.scale"], fitted["b"].tolist(), fitted["c"].tolist()) == (5, [1, 1, 1], [0])


@pytest.mark.parametrize(("head", "chosen"), [(Linear(4), [0, 1, 2, 3]), (Multi(4), [2, 3]), (None, list(range(6)))])
def test_the_classes_that_compete_are_those_of_cross_entropy(head, chosen):
    """All that a head answers with, of a fixed one those to come, too; a task-aware head's own."""
    head = head or Fixed(4, tuple("abcdef"))
    student = linear(head)  # classes 3 and 0
    student.grow(EXPERIENCES[1].classes, 1, generator(0))  # classes 5 and 1
    found = measured.competing(student, EXPERIENCES[1], "auto").tolist()
    assert found == chosen
    importance = reviewed(EWC(), student.double(), EXPERIENCES[1])["head.bias"]
    assert importance.nonzero().squeeze(1).tolist() == chosen
    assert measured.competing(student, EXPERIENCES[1], "all").tolist() == list(range(len(student.class_ids)))
    assert {student.class_ids[place] for place in measured.competing(student, EXPERIENCES[1], "seen")} == {3, 0, 5, 1}


@pytest.mark.parametrize("make", [EWC, MAS, SI, RWalk])
def test_its_state_is_whole_in_the_middle_of_an_experience(make):
    """Saved there and loaded where the experience was entered anew, it ends with the same bits."""
    student, loss = material.student(), make()
    loss.begin(EXPERIENCES[0], student)
    walk(loss, student, 5)
    loss.review((b.seen_as(b.x.float()) for b in rows(EXPERIENCES[0])), EXPERIENCES[0], student)
    loss.end(EXPERIENCES[0], student)
    student.grow(EXPERIENCES[1].classes, 1, generator(1))
    entered, twin = copy.deepcopy(loss.state_dict()), copy.deepcopy(student)
    loss.begin(EXPERIENCES[1], student)
    walk(loss, student, 3)
    fresh = make()
    fresh.load_state_dict(entered)
    fresh.begin(EXPERIENCES[1], twin)
    fresh.load_state_dict(copy.deepcopy(loss.state_dict()))
    twin.load_state_dict(student.state_dict())
    for each, model in ((loss, student), (fresh, twin)):
        walk(each, model, 4)
        each.review((b.seen_as(b.x.float()) for b in rows(EXPERIENCES[1])), EXPERIENCES[1], model)
        each.end(EXPERIENCES[1], model)
    assert equal(loss.state_dict(), fresh.state_dict())
    assert loss.kept["importance"]["head.bias"].shape == (4,)


def test_frozen_parameters_are_not_held():
    student = linear()
    student.head.bias.requires_grad_(False)
    assert set(trained(student)) == set(reviewed(EWC(), student)) == {"head.weight"}
