"""Whole-batch augmentation is torchvision's, pixel for pixel and draw for draw."""

from dataclasses import replace

import pytest
import torch

from clkd import vision
from clkd.data.augment import Augment
from clkd.errors import UserError
from clkd.signals import Batch

MEAN, STD = torch.tensor([0.49, 0.48, 0.45]), torch.tensor([0.25, 0.24, 0.26])
VIEWS = 81 * 2


def pixels(n: int, shape: tuple[int, ...] = (3, 8, 11)) -> torch.Tensor:
    return torch.randint(0, 256, (n, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_every_offset_and_flip_equals_torchvision_bit_for_bit() -> None:
    vision.torchvision()
    from torchvision.transforms import functional as T

    image = pixels(1)[0]
    expected = []
    for flip in (False, True):
        for top in range(9):
            for left in range(9):
                crop = T.crop(T.pad(image, [4, 4]), top, left, *image.shape[1:])
                crop = T.hflip(crop) if flip else crop
                expected.append(T.normalize(crop.float().div(255), MEAN.tolist(), STD.tolist()))
    augment = Augment(MEAN, STD, crop=4, flip=True)
    got = augment.plain(augment.apply(image.expand(VIEWS, -1, -1, -1), torch.arange(VIEWS)))
    assert torch.equal(got, torch.stack(expected))


def test_plain_is_to_tensor_and_normalize_bit_for_bit() -> None:
    vision.torchvision()
    from torchvision import transforms

    x = pixels(5)
    reference = transforms.Compose([transforms.ToPILImage(), transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    assert torch.equal(Augment(MEAN, STD, crop=4, flip=True).plain(x), torch.stack([reference(image) for image in x]))


def test_views_are_uniform_and_their_parts_independent() -> None:
    """Offsets and flips, read back from pixels: each count within five deviations of what it should be."""
    n = 81 * 2 * 500
    place = torch.arange(1, 145, dtype=torch.uint8).view(1, 1, 12, 12).expand(n, -1, -1, -1)  # every pixel differs
    augment = Augment(torch.zeros(1), torch.ones(1), crop=4, flip=True)
    views = augment.draw(n, (1, 12, 12), torch.Generator().manual_seed(0))
    middle = augment.apply(place, views)[:, 0, 4:8, 4:8].long()
    flip = (middle[:, 0, 0] > middle[:, 0, 1]).long()
    corner = torch.where(flip == 1, middle[:, 0, 3], middle[:, 0, 0]) - 1
    top, left = corner // 12, corner % 12
    assert (top.unique().numel(), left.unique().numel()) == (9, 9)
    left = left - left.min()
    top = top - top.min()
    for values, kinds in (
        (top, 9), (left, 9), (flip, 2), (top * 9 + left, 81), (top * 2 + flip, 18), (left * 2 + flip, 18),
        (views, VIEWS),
    ):  # fmt: skip
        expected = n / kinds
        counts = torch.bincount(values, minlength=kinds)
        assert len(counts) == kinds
        assert ((counts - expected).abs() < 5 * (expected * (1 - 1 / kinds)) ** 0.5).all()
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert abs(chi_square - (kinds - 1)) < 5 * (2 * (kinds - 1)) ** 0.5


@pytest.mark.parametrize(("crop", "flip"), [(2, False), (0, True), (3, True)])
def test_rows_are_drawn_one_by_one_and_the_generator_decides(crop: int, flip: bool) -> None:
    augment, x = Augment(MEAN, STD, crop, flip), pixels(1).expand(400, -1, -1, -1)
    seen = augment.train(x, torch.Generator().manual_seed(1))
    assert len(seen.flatten(1).unique(dim=0)) == (2 * crop + 1) ** 2 * (1 + flip)
    assert torch.equal(seen, augment.train(x, torch.Generator().manual_seed(1)))
    assert not torch.equal(seen, augment.train(x, torch.Generator().manual_seed(2)))


def test_padding_is_black_before_normalisation() -> None:
    x = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    augment = Augment(MEAN, STD, crop=4)
    corner = augment.plain(augment.apply(x, torch.tensor([0])))[0, :, 0, 0]
    torch.testing.assert_close(corner, -MEAN / STD)


def test_without_crop_and_flip_training_rows_are_plain_and_stored_rows_stay_as_they_are() -> None:
    x = pixels(6)
    before = x.clone()
    plain = Augment(MEAN, STD)
    assert torch.equal(plain.train(x, torch.Generator()), plain.plain(x))
    Augment(MEAN, STD, 4, True).train(x, torch.Generator())
    assert torch.equal(x, before)


def test_vectors_are_standardised_only() -> None:
    x = torch.randn(50, 3) * 7 + 2
    augment = Augment(x.mean(0), x.std(0, correction=0))
    seen = augment.train(x, torch.Generator())
    torch.testing.assert_close(seen.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(3))
    for options in ({"crop": 1}, {"flip": True}):
        with pytest.raises(UserError, match="crop and flip are for images"):
            Augment(x.mean(0), x.std(0), **options).train(x, torch.Generator())


def test_it_moves() -> None:
    moved = Augment(MEAN, STD, 2, True).to("meta")
    assert (moved.mean.device.type, moved.std.device.type, moved.crop, moved.flip) == ("meta", "meta", 2, True)


def test_rows_that_nobody_saw_have_as_many_fixed_views_as_others() -> None:
    """All have the number -1: their pixels tell them apart. A view of the same picture stays the same."""
    x = torch.zeros(300, 1, 8, 8, dtype=torch.uint8)
    x[:, :, 0, 0] = 200 + torch.arange(300)[:, None] % 50
    x[:, :, 4, 4] = (torch.arange(300) // 50)[:, None].to(torch.uint8) + 1
    ids = torch.full((300,), -1)
    rows = Batch(x=x, y=ids, sample_id=ids, domain=ids, experience=ids, new=0)
    augment = Augment(torch.zeros(1), torch.ones(1), crop=2, flip=True, views=1)
    one = torch.zeros_like(ids)
    assert len(augment.fixed(rows, one).x.ne(0).flatten(1).unique(dim=0)) == 1, "the number alone tells nothing"
    augment.invented = True
    seen = augment.fixed(rows, one).x
    assert len(seen.ne(0).flatten(1).unique(dim=0)) > 20
    assert torch.equal(seen, augment.fixed(rows, one).x)
    known = replace(rows, sample_id=torch.arange(300))
    again = Augment(torch.zeros(1), torch.ones(1), crop=2, flip=True, views=1)
    assert torch.equal(augment.fixed(known, one).x, again.fixed(known, one).x), "other rows are as they were"
