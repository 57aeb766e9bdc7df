"""The heads of iCaRL, BiC, WA, LUCIR, PODNet and streaming LDA, against their formulas written down in NumPy."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clkd.frozen import state_hash
from clkd.models.backbones.mlp import MLP
from clkd.models.corrected import BiasCorrected
from clkd.models.heads import Cosine, Head, Linear
from clkd.models.prototypes import UNKNOWN, NearestMean
from clkd.models.proxies import SplitCosine
from clkd.models.slda import StreamingLDA
from clkd.models.student import Student
from clkd.testing.material import experiences

D = 5
FIRST, SECOND, _ = experiences()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grown(head: Head, *classes: tuple[int, ...]) -> Head:
    for experience, each in enumerate(classes):
        head.grow(each, experience, generator(experience))
    return head


def rows(n: int, classes: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features around a centre for each class, which differs by class, and labels."""
    draws = np.random.default_rng(seed)
    y = draws.choice(classes, size=n)
    centres = np.random.default_rng(99).normal(size=(10, D)) * 2
    return torch.tensor(centres[y] + draws.normal(size=(n, D)) + 1).float(), torch.tensor(y)


def pieces(x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(x.split(size), y.split(size), strict=True)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# Nearest class mean


def test_ncm_says_minus_the_distance_to_each_normalised_mean() -> None:
    head = grown(NearestMean(D), (4, 1), (7,)).eval()
    x, y = rows(60, (4, 1, 7))
    head.gather(pieces(x, y, 16))
    means = np.stack([unit(unit(x.double().numpy())[y.numpy() == c].mean(0)) for c in (4, 1, 7)])
    probe, _ = rows(9, (4, 1, 7), seed=1)
    expected = -np.linalg.norm(unit(probe.double().numpy())[:, None] - means[None], axis=2)
    np.testing.assert_allclose(head(probe).numpy(force=True), expected, atol=1e-6)
    np.testing.assert_allclose(head.means.norm(dim=1).numpy(), 1, atol=1e-6)


def test_ncm_may_leave_lengths_as_they_are() -> None:
    """As in the code of Buzzega et al. 2020."""
    head = grown(NearestMean(D, normalize=False), (4, 1), (7,)).eval()
    x, y = rows(60, (4, 1, 7))
    head.gather(pieces(x, y, 16))
    means = np.stack([x.double().numpy()[y.numpy() == c].mean(0) for c in (4, 1, 7)])
    probe, _ = rows(9, (4, 1, 7), seed=1)
    expected = -np.linalg.norm(probe.double().numpy()[:, None] - means[None], axis=2)
    np.testing.assert_allclose(head(probe).numpy(force=True), expected, atol=1e-5)


def test_ncm_trains_and_teaches_through_its_linear_layer() -> None:
    """A peer's frozen model answers by means in eval mode, and is then distilled as if these were logits."""
    head, plain = grown(NearestMean(D), (0, 1)), grown(Linear(D), (0, 1))
    x, y = rows(20, (0, 1))
    assert torch.equal(head.eval()(x), plain(x)), "nothing is gathered yet"
    head.gather([(x, y)])
    assert not torch.equal(head(x), plain(x))
    assert torch.equal(head.train()(x), plain(x))
    student = Student(MLP((D,), hidden=(D,)), head, (D,))
    teacher = student.frozen_copy()
    assert not teacher.training
    assert torch.equal(teacher.head(x), plain(x))
    assert not torch.equal(student.eval().head(x), plain(x))


def test_ncm_takes_the_rows_that_its_option_says() -> None:
    asked: list[str] = []

    def said(which: str) -> Iterator[tuple[Tensor, Tensor]]:
        asked.append(which)
        yield rows(4, (0, 1))

    grown(NearestMean(D), (0, 1)).end(FIRST, said)
    grown(NearestMean(D, rows="memory"), (0, 1)).end(FIRST, said)
    assert asked == ["past", "new", "kept"]


def test_a_class_without_rows_keeps_its_mean_or_is_below_all_others() -> None:
    head = grown(NearestMean(D), (0, 1), (2,)).eval()
    head.gather([rows(20, (0, 1))])
    before = head.means.clone()
    head.gather([rows(20, (1, 2), seed=5)])
    assert torch.equal(head.means[0], before[0])
    assert not torch.equal(head.means[1], before[1])
    head.grow((3,), 2, generator())
    said = head(torch.randn(6, D))
    assert (said[:, 3] == UNKNOWN).all()
    assert torch.isfinite(said.softmax(1)).all()


def test_rows_of_classes_without_a_column_do_not_count() -> None:
    head, same = (grown(NearestMean(D), (0, 1)) for _ in range(2))
    x, y = rows(30, (0, 1, 2))
    head.gather([(x, y)])
    same.gather([(x[y < 2], y[y < 2])])
    assert torch.equal(head.means, same.means)


# Streaming linear discriminant analysis


def lda(x: np.ndarray, y: np.ndarray, classes: tuple[int, ...], shrinkage: float, probe: np.ndarray) -> np.ndarray:
    """The pooled within-class covariance of all rows at once, and Hayes & Kanan's classifier of it."""
    means = np.stack([x[y == c].mean(0) for c in classes])
    centred = x - means[np.array([classes.index(c) for c in y])]
    precision = np.linalg.inv((1 - shrinkage) * centred.T @ centred / len(x) + shrinkage * np.eye(D))
    return probe @ precision @ means.T - 0.5 * np.einsum("cd,de,ce->c", means, precision, means)


@pytest.mark.parametrize("size", [1, 7, 300])
def test_slda_is_the_batch_analysis_whatever_the_batches(size: int) -> None:
    head = grown(StreamingLDA(D, shrinkage=0.01), (4, 1), (7,)).eval()
    x, y = rows(200, (4, 1))
    more, labels = rows(100, (7, 1), seed=3)
    head.gather(pieces(x, y, size))
    head.gather(pieces(more, labels, size))
    x, y, probe = torch.cat([x, more]).double().numpy(), torch.cat([y, labels]).numpy(), rows(9, (1, 4, 7))[0]
    expected = lda(x, y, (4, 1, 7), 0.01, probe.double().numpy())
    np.testing.assert_allclose(head(probe).numpy(force=True), expected, rtol=1e-4, atol=1e-4)
    assert head.counts.tolist() == [(y == c).sum() for c in (4, 1, 7)]


def test_slda_agrees_with_hayes_and_kanans_own_updates() -> None:
    """Row by row as in their code, whose covariance also counts each class's first row against a mean of 0."""
    x, y = rows(2000, (0, 1, 2))
    means, counts, sigma, total = np.zeros((3, D)), np.zeros(3), np.zeros((D, D)), 0
    for z, c in zip(x.double().numpy(), y.numpy(), strict=True):
        delta = np.outer(z - means[c], z - means[c]) * total / (total + 1)
        sigma = (total * sigma + delta) / (total + 1)
        means[c] += (z - means[c]) / (counts[c] + 1)
        counts[c], total = counts[c] + 1, total + 1
    precision = np.linalg.inv((1 - 1e-4) * sigma + 1e-4 * np.eye(D))
    head = grown(StreamingLDA(D), (0, 1, 2)).eval()
    head.gather([(x, y)])
    np.testing.assert_allclose(head.means.numpy(), means, rtol=1e-9)
    ours = head.scatter.numpy() / 2000
    assert np.linalg.norm(ours - sigma) / np.linalg.norm(sigma) < 0.02
    probe, _ = rows(1000, (0, 1, 2), seed=8)
    theirs = probe.double().numpy() @ precision @ means.T - 0.5 * np.einsum("cd,de,ce->c", means, precision, means)
    assert (head(probe).argmax(1).numpy() == theirs.argmax(1)).mean() > 0.99


def test_the_backbone_stands_still_after_the_first_experience() -> None:
    student = Student(MLP((D,), hidden=(8,), dropout=0.5), StreamingLDA(8), (D,))
    student.grow((0, 1), 0, generator())
    assert student.train().backbone.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    student.grow((2,), 1, generator())
    assert not student.train().backbone.training
    assert student.head.training
    assert not any(parameter.requires_grad for parameter in student.backbone.parameters())
    assert all(parameter.requires_grad for parameter in student.head.parameters())
    assert StreamingLDA(8, pretrained=True).settled(0)


# Bias correction


def test_bic_corrects_the_newest_classes_only() -> None:
    head, plain = grown(BiasCorrected(D), (0, 1), (2,), (3, 4)), grown(Linear(D), (0, 1), (2,), (3, 4))
    x = torch.randn(7, D)
    assert torch.equal(head(x), plain(x)), "an α of 1 and a β of 0 change nothing"
    with torch.no_grad():
        head.alpha[:] = torch.tensor([9.0, 9.0, 0.5])
        head.beta[:] = torch.tensor([9.0, 9.0, -1.0])
    z = plain(x).detach().numpy()
    z[:, 3:] = 0.5 * z[:, 3:] - 1
    np.testing.assert_allclose(head(x).numpy(force=True), z, rtol=1e-6)


def test_bic_keeps_a_pair_for_each_experience_that_brought_classes() -> None:
    head = grown(BiasCorrected(D), (0, 1))
    alpha = head.alpha
    with torch.no_grad():
        head.alpha[0] = 0.25
    assert head.grow((1,), 1, generator()) == []
    pairs = head.grow((2,), 2, generator())
    assert (head.alpha.tolist(), head.beta.tolist()) == ([0.25, 1.0], [0.0, 0.0])
    assert any(old is alpha and new is head.alpha for old, new in pairs)
    assert not any(parameter.requires_grad for parameter in head.corrections())


def test_bic_teaches_with_its_correction() -> None:
    """Wu et al.: distillation is from the corrected logits of the previous self."""
    student = Student(MLP((D,), hidden=(D,)), grown(BiasCorrected(D), (0, 1), (2,)), (D,))
    with torch.no_grad():
        student.head.alpha[-1] = 0.5
    x = torch.randn(3, D)
    assert torch.equal(student.frozen_copy()(x), student(x))


def test_bic_has_nothing_to_correct_in_the_first_experience() -> None:
    assert grown(BiasCorrected(D), (0, 1)).newest.tolist() == [False, False]
    assert grown(BiasCorrected(D), (0, 1), (3,)).newest.tolist() == [False, False, True]


# Weight aligning


def test_wa_scales_new_weights_to_the_norm_of_the_old() -> None:
    head = grown(Linear(D, align=True), FIRST.classes, SECOND.classes)
    with torch.no_grad():
        head.weight[2:] *= 3
    w, bias = head.weight.detach().numpy().copy(), head.bias.detach().clone()
    head.end(SECOND, lambda which: iter(()))
    norms = np.linalg.norm(w, axis=1)
    expected = np.concatenate([w[:2], w[2:] * norms[:2].mean() / norms[2:].mean()])
    np.testing.assert_allclose(head.weight.numpy(force=True), expected, rtol=1e-6)
    assert torch.equal(head.bias, bias)


def test_wa_waits_for_the_second_experience_and_is_asked_for() -> None:
    for head, experience in [(grown(Linear(D, align=True), FIRST.classes), FIRST),
                             (grown(Linear(D), FIRST.classes, SECOND.classes), SECOND),
                             (grown(Linear(D, align=True), FIRST.classes), SECOND)]:  # fmt: skip
        before = head.weight.detach().clone()
        head.end(experience, lambda which: iter(()))
        assert torch.equal(head.weight, before)


def test_wa_may_set_weights_below_0_to_0_and_leaves_biases() -> None:
    for positive in (False, True):
        head = grown(Linear(D, positive=positive), (0, 1, 2))
        weight, bias = head.weight.detach().clone(), head.bias.detach().clone() - 1
        head.bias.data -= 1
        assert (weight < 0).any()
        head.after_step()
        assert torch.equal(head.weight, weight.clamp(min=0) if positive else weight)
        assert torch.equal(head.bias, bias)


# Cosines


@pytest.mark.parametrize("fixed_old", [False, True])
def test_imprinted_classes_start_at_their_mean_direction_as_long_as_old_ones(fixed_old: bool) -> None:
    """Hou et al.'s code, written down again; old classes stay where they are, and the first experience is as ever."""
    classes, more = FIRST.classes, SECOND.classes
    head, plain = (grown(SplitCosine(D, fixed_old=fixed_old, imprint=i), classes) for i in (True, False))
    head.begin(FIRST, lambda which: iter(()))
    assert torch.equal(head.weight, plain.weight)
    head.weight.data *= torch.tensor([2.0, 5.0])[:, None, None]
    old = head.weight.detach().clone()
    head.grow(more, 1, generator(1))
    x, y = rows(40, (*more, classes[0]))
    asked: list[str] = []
    head.begin(SECOND, lambda which: asked.append(which) or pieces(x, y, 16))
    assert asked == ["new"]
    assert torch.equal(head.weight[:2], old)
    length = np.linalg.norm(old.numpy(), axis=2).mean()
    for place, c in enumerate(more, start=2):
        expected = length * unit(unit(x.double().numpy()[y.numpy() == c]).mean(0))
        np.testing.assert_allclose(head.weight[place, 0].numpy(force=True), expected, rtol=1e-5)


def test_how_long_an_old_class_is_nothing_has_moved_since_it_stands() -> None:
    """Weight decay shrinks rows that nobody uses any more."""
    head = grown(SplitCosine(D, fixed_old=True, imprint=True), FIRST.classes)
    length = head.weight.norm(dim=2).mean()
    head.grow(SECOND.classes, 1, generator(1))
    head.weight.data[: len(FIRST.classes)] *= 0.1
    x, y = rows(40, SECOND.classes)
    head.begin(SECOND, lambda which: pieces(x, y, 16))
    assert torch.allclose(head.weight[len(FIRST.classes) :].norm(dim=2), length)


def test_a_class_of_which_no_row_has_a_label_starts_at_random() -> None:
    head = grown(SplitCosine(D, imprint=True), FIRST.classes, SECOND.classes)
    before = head.weight.detach().clone()
    x, y = rows(10, SECOND.classes[:1])
    head.begin(SECOND, lambda which: pieces(x, y, 16))
    assert torch.equal(head.weight[[0, 1, 3]], before[[0, 1, 3]])
    assert not torch.equal(head.weight[2], before[2])


@pytest.mark.parametrize("proxies", [1, 4])
def test_split_cosine_is_the_softmax_weighted_sum_over_proxies(proxies: int) -> None:
    head = grown(SplitCosine(D, proxies=proxies, scale=3.0), (0, 1), (2,))
    x = torch.randn(6, D)
    cosines = np.einsum("bd,ckd->bck", unit(x.numpy()), unit(head.weight.detach().numpy()))
    share = np.exp(cosines) / np.exp(cosines).sum(2, keepdims=True)
    np.testing.assert_allclose(head(x).numpy(force=True), 3 * (share * cosines).sum(2), rtol=1e-5, atol=1e-6)


def test_with_one_proxy_it_is_the_cosine_head() -> None:
    head, plain = grown(SplitCosine(D), (0, 1), (2,)), grown(Cosine(D), (0, 1), (2,))
    x = torch.randn(6, D)
    assert torch.equal(head(x), plain(x))


def test_fixed_old_classes_stay_whatever_the_optimizer_does() -> None:
    head = grown(SplitCosine(D, proxies=2, fixed_old=True), (0, 1))
    x = torch.randn(6, D)

    def train() -> None:
        optimizer = torch.optim.SGD(head.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(x), torch.zeros(6, dtype=torch.long)).backward()
            optimizer.step()

    train()
    directions = head(x).detach() / head.scale.detach()
    head.grow((2,), 1, generator(1))
    train()
    torch.testing.assert_close(head(x).detach()[:, :2] / head.scale.detach(), directions)
    second = head(x).detach() / head.scale.detach()
    head.grow((3,), 2, generator(2))
    train()
    torch.testing.assert_close(head(x).detach()[:, :3] / head.scale.detach(), second)


# What all of them keep

HEADS = {
    "ncm": lambda: NearestMean(D),
    "slda": lambda: StreamingLDA(D),
    "bias_corrected": lambda: BiasCorrected(D),
    "split_cosine": lambda: SplitCosine(D, proxies=2, fixed_old=True),
    "aligned": lambda: Linear(D, align=True),
}


@pytest.mark.parametrize("name", HEADS)
def test_what_was_gathered_and_learned_survives_a_checkpoint_and_goes_on(name: str) -> None:
    head = grown(HEADS[name](), FIRST.classes, SECOND.classes)
    for parameter in head.corrections():
        parameter.data += 0.5
    head.end(SECOND, lambda which: iter([rows(40, head.class_ids)] if which == "new" else []))
    fresh = HEADS[name]()
    fresh.lay_out(head.layout())
    fresh.load_state_dict(head.state_dict())
    x = torch.randn(5, D)
    for each in (head, fresh):
        each.eval()
    assert torch.equal(fresh(x), head(x))
    for each in (head, fresh):
        each.grow((8,), 2, generator(4))
        each.end(SECOND, lambda which: iter([rows(40, (*SECOND.classes, 8), seed=2)] if which == "new" else []))
    assert torch.equal(fresh(x), head(x))
    assert state_hash(fresh) == state_hash(head)
    copied = copy.deepcopy(head)
    assert torch.equal(copied(x), head(x))
