"""Strong views: what each change does to a row, and that the weak view stays what it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from clkd import vision
from clkd.data.augment import Augment
from clkd.data.strong import Strong
from clkd.errors import UserError
from clkd.seeding import generator
from clkd.signals import Batch

MEAN, STD = torch.tensor([0.49, 0.48, 0.45]), torch.tensor([0.25, 0.24, 0.26])


def rows(n: int = 6, shape: tuple[int, ...] = (3, 8, 11)) -> Batch:
    x = torch.randint(0, 256, (n, *shape), generator=generator(0, "x"), dtype=torch.uint8)
    i = torch.arange(n)
    return Batch(x, torch.where(i % 2 == 0, i, -1), i, i * 0, i * 0, new=n)


def strong(**options) -> Strong:
    return Strong(MEAN, STD, **options)


def grey(x: torch.Tensor) -> torch.Tensor:
    """Back on the [0, 1] scale."""
    return x * STD.view(-1, 1, 1) + MEAN.view(-1, 1, 1)


def numbers(n: int, seed: int = 0) -> torch.Tensor:
    """What each row draws."""
    return torch.rand(n, 5, generator=generator(seed, "draws"))


def changed(seed: int = 0, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows on the [0, 1] scale, before and after."""
    plain = Augment(MEAN, STD).plain(rows().x)
    return grey(plain), grey(strong(**options)(plain, generator(seed, "draws")))


def test_turning_is_torchvisions_up_to_its_rounding() -> None:
    vision.torchvision()
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as T

    before, after = changed(rotate=40.0)
    angles = (2 * numbers(6)[:, 0] - 1) * 40
    for one, other, angle in zip(before, after, angles.tolist(), strict=True):
        turned = T.rotate(one, angle, InterpolationMode.BILINEAR)
        torch.testing.assert_close(other, turned, atol=1e-3, rtol=0)


def test_light_is_changed_row_by_row_and_clipped() -> None:
    before, after = changed(brightness=0.3, contrast=0.5)
    draws = numbers(6)
    add, times = (2 * draws[:, 1] - 1) * 0.3, 1 + (2 * draws[:, 2] - 1) * 0.5
    for i, (one, other) in enumerate(zip(before, after, strict=True)):
        # The middle is the mean of the row as normalised, so each channel has its own grey for it.
        middle = ((one - MEAN.view(-1, 1, 1)) / STD.view(-1, 1, 1)).mean() * STD.view(-1, 1, 1) + MEAN.view(-1, 1, 1)
        expected = ((one - middle) * times[i] + middle + add[i]).clamp(0, 1)
        torch.testing.assert_close(other, expected, atol=1e-5, rtol=0)
    assert float(after.min()) >= -1e-6
    assert float(after.max()) <= 1 + 1e-6


@pytest.mark.parametrize("side", [1, 3, 20])
def test_one_square_is_painted_over(side: int) -> None:
    plain = Augment(MEAN, STD).plain(rows(40).x)
    after = strong(cutout=side)(plain, generator(0, "draws"))
    painted = (after != plain).any(1) | (after == 0).all(1)
    assert (painted.sum((1, 2)) == min(side, 8) * min(side, 11)).all(), "a whole square, within the picture"
    assert (after.masked_select(painted[:, None]) == 0).all(), "in the colour of the data's mean"
    places = painted.flatten(1).float().argmax(1)
    assert len(places.unique()) > (5 if side < 8 else 0), "each row has its own place"


def test_noise_has_its_deviation_and_is_all_that_vectors_know() -> None:
    x = torch.zeros(400, 50)
    noisy = Strong(torch.zeros(50), torch.ones(50), noise=0.3)(x, generator(0))
    assert float(noisy.std()) == pytest.approx(0.3, rel=0.02)
    Strong(torch.zeros(50), torch.ones(50), noise=0.3).refuse_vectors((50,))
    with pytest.raises(UserError, match="only noise"):
        Strong(torch.zeros(50), torch.ones(50), cutout=2).refuse_vectors((50,))


@pytest.mark.parametrize("views", [None, 3])
def test_the_weak_view_is_the_one_that_there_was_without_a_strong_one(views: int | None) -> None:
    plain = Augment(MEAN, STD, 2, True, views)
    made = Augment(MEAN, STD, 2, True, views, strong(cutout=3, rotate=10.0))
    alone, both = (each.look(rows(), generator(3), epoch=1) for each in (plain, made))
    assert both.weak is not None
    assert torch.equal(both.weak.x, alone.x)
    assert both.weak.weak is None
    assert both.view is None
    assert (both.weak.view is None) == (views is None)
    assert not torch.equal(both.x, alone.x)
    assert torch.equal(both.stored(), rows().x)
    assert (made.fixed_for("weak"), made.fixed_for("student"), plain.fixed_for("student")) == (views, None, views)


def test_rows_with_a_label_may_stay_weak() -> None:
    seen = Augment(MEAN, STD, strong=strong(noise=1.0, rows="unlabelled")).look(rows(), generator(3), 0)
    same = (seen.x == seen.weak.x).flatten(1).all(1)
    assert torch.equal(same, rows().y >= 0)


def test_views_follow_their_rows_when_a_batch_is_cut_or_picked_and_move_with_the_device() -> None:
    seen = Augment(MEAN, STD, strong=strong(noise=1.0)).look(rows(), generator(3), 0)
    assert torch.equal(seen.rows(1, 4).weak.x, seen.weak.x[1:4])
    assert torch.equal(seen.pick(torch.tensor([5, 0])).weak.x, seen.weak.x[[5, 0]])
    assert Augment(MEAN, STD, strong=strong(noise=1.0)).to("meta").strong.mean.device.type == "meta"


def test_the_generator_decides() -> None:
    plain, made = (
        Augment(MEAN, STD).plain(rows().x),
        strong(rotate=9.0, brightness=0.1, contrast=0.1, cutout=2, noise=0.1),
    )
    first, again, other = (made(plain, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(made(plain[:1].expand(5, -1, -1, -1), generator(0)).flatten(1).unique(dim=0)) == 5
    assert replace(rows(), x=plain).x is plain


def test_moving_is_a_shift_with_black_coming_in() -> None:
    """By whole pixels, nothing is interpolated: what a row draws is put there by hand."""
    plain = Augment(MEAN, STD).plain(rows(1).x)
    zero = torch.zeros(1)
    moved = grey(strong(translate=0.5)._moved(plain, zero, zero, torch.tensor([2 / 11]), torch.tensor([-3 / 8])))
    expected = torch.zeros(1, 3, 8, 11)
    expected[:, :, :5, 2:] = grey(plain)[:, :, 3:, :9]
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


def test_slanting_and_turning_are_torchvisions_affine() -> None:
    vision.torchvision()
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as T

    before = grey(Augment(MEAN, STD).plain(rows().x))
    plain = (before - MEAN.view(-1, 1, 1)) / STD.view(-1, 1, 1)
    slant = torch.tensor([0.0, 10.0, -25.0, 40.0, 5.0, -5.0])
    zero = torch.zeros(6)
    after = grey(strong(shear=50)._moved(plain, zero, slant, zero, zero))
    for one, other, angle in zip(before, after, slant.tolist(), strict=True):
        wanted = T.affine(one, 0.0, [0, 0], 1.0, [angle, 0.0], InterpolationMode.BILINEAR)
        torch.testing.assert_close(other, wanted, atol=1e-3, rtol=0)


@pytest.mark.parametrize("bits", [1, 4, 7])
def test_fewer_bits_are_torchvisions(bits: int) -> None:
    vision.torchvision()
    from torchvision.transforms import functional as T

    _, after = changed(posterize=bits)
    wanted = T.posterize(rows().x, 8 - bits)
    assert torch.equal((after * 255).round().to(torch.uint8), wanted)


def test_what_is_bright_is_inverted() -> None:
    vision.torchvision()
    from torchvision.transforms import functional as T

    before, after = changed(solarize=0.6)
    draws = generator(0, "draws")
    torch.rand(6, 5, generator=draws)
    thresholds = 1 - 0.6 * torch.rand(6, 1, generator=draws)[:, 0]
    assert float(thresholds.min()) > 0.4
    for one, other, threshold in zip(before, after, thresholds.tolist(), strict=True):
        torch.testing.assert_close(other, T.solarize(one, threshold), atol=1e-5, rtol=0)


ALL = {"rotate": 30.0, "shear": 20.0, "contrast": 0.5, "brightness": 0.3, "posterize": 5, "solarize": 0.9, "cutout": 4}


@pytest.mark.parametrize("choose", [1, 2])
def test_of_all_changes_so_many_are_made_each_as_often(choose: int) -> None:
    made, n = strong(**ALL, choose=choose), 4000
    chosen = made._chosen(torch.zeros(n, 1), generator(0))
    counts = torch.stack([chosen[name] for name in ALL])
    assert (counts.sum(0) == choose).all()
    share, expected = counts.mean(1), choose / len(ALL)
    deviation = (expected * (1 - expected) / n) ** 0.5
    assert float((share - expected).abs().max()) < 4 * deviation
    assert not chosen["noise"].any(), "what is not given is never made"


def test_a_row_has_what_was_chosen_for_it_and_nothing_else() -> None:
    """Rows that one change was chosen for are, bit for bit, as if that were all that there is."""
    plain = Augment(MEAN, STD).plain(rows(60).x)
    made = strong(brightness=0.3, cutout=4, posterize=5, choose=1)
    after = made(plain, generator(0))
    draws = generator(0)
    numbers = torch.rand(60, 5, generator=draws)
    chosen = made._chosen(plain, draws)
    assert numbers.shape == (60, 5)
    for name, options in (
        ("brightness", {"brightness": 0.3}),
        ("cutout", {"cutout": 4}),
        ("posterize", {"posterize": 5}),
    ):
        alone, at = strong(**options)(plain, generator(0)), chosen[name] > 0
        assert 5 < int(at.sum()) < 40
        torch.testing.assert_close(after[at], alone[at])


def test_without_choosing_all_are_made() -> None:
    plain = Augment(MEAN, STD).plain(rows().x)
    whole = strong(**ALL, noise=0.1)
    assert whole.given == ("rotate", "shear", "contrast", "brightness", "posterize", "solarize", "cutout", "noise")
    assert all((each == 1).all() for each in whole._chosen(plain, generator(0)).values())


@pytest.mark.parametrize("given", [{"shear": 25.0}, {"translate": 0.3}, {"rotate": 20.0}])
def test_each_way_of_moving_is_made_where_it_is_given_alone(given: dict[str, float]) -> None:
    plain, draws, zero = Augment(MEAN, STD).plain(rows().x), generator(0), torch.zeros(6)
    angle = torch.rand(6, 5, generator=draws)[:, 0]
    slant, right, low = torch.rand(6, 3, generator=draws).unbind(1)
    (name, most), made = next(iter(given.items())), strong(**given)
    around = [(2 * drawn - 1) * most for drawn in (angle, slant, right, low)]
    told = {"rotate": [around[0], zero, zero, zero], "shear": [zero, around[1], zero, zero]}
    expected = made._moved(plain, *told.get(name, [zero, zero, *around[2:]]))
    assert torch.equal(made(plain, generator(0)), expected)
    assert not torch.allclose(expected, plain, atol=0.1)


NINE = {**ALL, "translate": 0.2, "noise": 0.1}
OTHERWISE = {**{name: value / 2 for name, value in NINE.items()}, "posterize": 3, "cutout": 2}


@pytest.mark.parametrize("name", NINE)
def test_a_change_alters_the_rows_alone_that_it_was_chosen_for(name: str) -> None:
    """How strong it is, is nothing to the others."""
    plain = Augment(MEAN, STD).plain(rows(200).x)
    made, other = strong(**NINE, choose=1), strong(**{**NINE, name: OTHERWISE[name]}, choose=1)
    draws = generator(0)
    torch.rand(200, 5, generator=draws)
    chosen = made._chosen(plain, draws)[name] > 0
    same = (made(plain, generator(0)) == other(plain, generator(0))).flatten(1).all(1)
    assert same[~chosen].all()
    assert 10 < int(chosen.sum()) < 50
    assert float(same[chosen].double().mean()) < 0.3
