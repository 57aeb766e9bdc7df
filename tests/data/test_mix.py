"""Mixed rows: what they are made of, in pixels and in labels."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clkd.data.augment import Augment
from clkd.data.mix import Mix
from clkd.errors import UserError
from clkd.losses.classification import CrossEntropy
from clkd.seeding import generator
from clkd.signals import Batch, Signals, Spec

KINDS = ("mixup", "cutmix")
NEW, DRAWS = 40, (24, 16)


def rows(n: int = NEW + sum(DRAWS), shape: tuple[int, ...] = (3, 8, 10)) -> Batch:
    """Every pixel of row i is i, as floats; ten classes, and some rows without a label."""
    i = torch.arange(n)
    x = i.float().view(-1, *[1] * len(shape)).expand(n, *shape).contiguous()
    return Batch(x, torch.where(i % 7 == 6, -1, i % 10), i, i * 0, i * 0, new=NEW, draws=DRAWS)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_and_labels_tell_of_the_same_two_rows(kind: str) -> None:
    """A pixel says which row it is of; so the partner and the share can be read off the picture."""
    before = rows()
    after = Mix(kind, 1.0)(before, generator(3))
    assert after.mixed is not None
    share = after.mixed.share
    mean = after.x.flatten(1).double().mean(1)
    for i in range(len(before)):
        kinds = next(range(a, b) for a, b in ((0, 40), (40, 64), (64, 80)) if a <= i < b)
        fits = [j for j in kinds if abs(share[i] * i + (1 - share[i]) * j - mean[i]) < 1e-3]
        assert fits, "its partner is of its kind"
        if share[i] < 0.9:
            assert int(after.mixed.other[i]) in {int(before.y[j]) for j in fits}
        if kind == "cutmix":
            others = set(after.x[i].flatten().tolist()) - {float(i)}
            assert len(others) <= 1, "one row is pasted in"
    assert torch.equal(after.mixed.y, before.y)
    assert torch.equal(after.mixed.other[share == 1], before.y[share == 1])
    one_class = (share == 1) | (after.mixed.other == before.y)
    assert torch.equal(after.y, torch.where(one_class, before.y, -1))


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_is_mixed_into_exactly_one_of_its_kind(kind: str) -> None:
    mix = Mix(kind, 1.0)
    partner, _, _ = mix._draw(rows(), generator(0), torch.Size((8, 10)))
    for start, stop in ((0, 40), (40, 64), (64, 80)):
        assert sorted(partner[start:stop].tolist()) == list(range(start, stop))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0])
def test_shares_are_of_the_beta_distribution(alpha: float) -> None:
    """Kolmogorov and Smirnov's test against SciPy's own samples' law, and mean and variance as they are known."""
    from scipy.stats import beta, kstest

    many = Batch(*[torch.zeros(20_000, 1)], *[torch.arange(20_000)] * 4, new=20_000)
    share = Mix("mixup", alpha)(many, generator(2)).mixed.share.double()
    assert kstest(share.numpy(), beta(alpha, alpha).cdf).pvalue > 1e-3
    assert float(share.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(share.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_boxes_are_those_of_the_authors() -> None:
    """`rand_bbox` of their code, by whole numbers, row by row."""
    mix, before = Mix("cutmix", 1.0), rows()
    _, share, middle = mix._draw(before, generator(5), torch.Size((8, 10)))
    after = mix(before, generator(5))
    for i in range(len(before)):
        cut = float((1 - share[i]).sqrt())
        height, width = int(8 * cut), int(10 * cut)
        y, x = int(middle[i, 0] * 8), int(middle[i, 1] * 10)
        top, bottom = max(y - height // 2, 0), min(y + height // 2, 8)
        left, right = max(x - width // 2, 0), min(x + width // 2, 10)
        area = (bottom - top) * (right - left)
        assert float(after.mixed.share[i]) == pytest.approx(1 - area / 80, abs=1e-6)
        inside = after.x[i, 0, top:bottom, left:right]
        assert len(inside.unique()) <= 1


def test_replayed_rows_may_stay_as_they_are() -> None:
    before = rows()
    after = Mix("mixup", 1.0, "new")(before, generator(0))
    assert torch.equal(after.x[NEW:], before.x[NEW:])
    assert torch.equal(after.y[NEW:], before.y[NEW:])
    assert (after.mixed.share[NEW:] == 1).all()
    assert (after.mixed.share[:NEW] < 1).any()


def test_what_is_cut_or_picked_keeps_what_it_is_made_of() -> None:
    after = Mix("mixup", 1.0)(rows(), generator(0))
    assert torch.equal(after.rows(3, 9).mixed.share, after.mixed.share[3:9])
    picked = after.pick(torch.tensor([5, 0]), torch.tensor([41]))
    assert torch.equal(picked.mixed.other, after.mixed.other[[5, 0, 41]])
    alone = after.by_itself()
    assert torch.equal(alone.y, rows().y)
    assert alone.mixed is None
    assert torch.equal(alone.x, after.x)


@pytest.mark.parametrize("views", [None, 3])
def test_no_view_of_a_mixed_row_comes_again(views: int | None) -> None:
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    stored = Batch(torch.randint(0, 256, (8, 3, 6, 6), dtype=torch.uint8), *[torch.arange(8)] * 4, new=8)
    augment = Augment(mean, std, 1, True, views, mix=Mix("cutmix", 1.0))
    seen = augment.look(stored, generator(0), 0)
    assert (seen.view, augment.fixed_for("student"), augment.fixed_for("weak")) == (None, None, None)
    assert torch.equal(seen.stored(), stored.x), "what a memory would keep"
    assert torch.equal(augment.to("cpu").look(stored, generator(0), 0).x, seen.x)


def test_vectors_have_no_boxes() -> None:
    Mix("mixup", 1.0).refuse_vectors((5,))
    with pytest.raises(UserError, match="use mixup"):
        Mix("cutmix", 1.0).refuse_vectors((5,))


@pytest.mark.parametrize("over", ["all", "new", "batch", "own"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_a_mixed_row_is_that_with_the_mixed_target(over: str, smoothing: float) -> None:
    """Against a cross-entropy with targets that are distributions, written out."""
    ids, born = (4, 0, 2, 9, 5), (0, 0, 0, 1, 1)
    loss = CrossEntropy(over, smoothing)
    loss.bind(Spec(ids, born), None)
    draws = generator(0)
    logits = torch.randn(30, 5, generator=draws, requires_grad=True)
    y = torch.tensor(ids)[torch.randint(5, (30,), generator=draws)]
    i = torch.arange(30)
    batch = Mix("mixup", 1.0)(Batch(torch.zeros(30, 1), torch.where(i % 9 == 8, -1, y), i, i, i, new=30), draws)
    value = loss(batch, Signals(logits, torch.tensor(ids))).mean()

    competing = {"new": [3, 4]}.get(over, range(5))
    place = {c: k for k, c in enumerate(ids)}
    own = [place.get(c, -1) for c in batch.mixed.y.tolist()]
    other = [place.get(c, -1) for c in batch.mixed.other.tolist()]
    present = {c for c in (*own, *other) if c >= 0}
    values = []
    for row, a, b, share in zip(logits, own, other, batch.mixed.share, strict=True):
        if a not in competing or b not in competing:
            continue
        total = 0.0
        for target, weight in ((a, share), (b, 1 - share)):
            among = {"own": [k for k in range(5) if born[k] == born[target]], "batch": sorted(present)}.get(over)
            columns = list(among or competing)
            wanted = torch.full((len(columns),), smoothing / len(columns))
            wanted[columns.index(target)] += 1 - smoothing
            total = total + weight * F.cross_entropy(row[columns], wanted)
        values.append(total)
    assert 3 < len(values) < 30
    expected = torch.stack(values).mean()
    if over != "batch" or not smoothing:  # smoothing there spreads over columns that are out of the race
        torch.testing.assert_close(value, expected)
        (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])
    assert int(loss.takes(batch).sum()) == len(values)
