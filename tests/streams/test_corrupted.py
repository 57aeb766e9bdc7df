"""Corruptions: their values, their order, and that a row does not know its neighbours."""

import io
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_sample_image
from torch import Tensor

from clkd.streams.blur import ANGLES, disk, mirror
from clkd.streams.corrupted import STRENGTHS, Corrupted, strength_of
from clkd.streams.digital import pixelated
from clkd.streams.drawn import Drawn
from clkd.streams.jpeg import compressed
from clkd.streams.light import hazed, plasma
from clkd.streams.noise import LEVELS, table

CPU = torch.device("cpu")
KINDS = sorted(STRENGTHS)


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """`[40, 3, 32, 32]`: pieces of two photographs."""
    images = [torch.from_numpy(load_sample_image(name).copy()) for name in ("china.jpg", "flower.jpg")]
    pieces = [image[y : y + 32, x : x + 32] for image in images for y in range(0, 384, 96) for x in range(0, 600, 128)]
    return torch.stack(pieces).permute(0, 3, 1, 2).contiguous()


def pictures(x: Tensor) -> list[Image.Image]:
    return [Image.fromarray(row.permute(1, 2, 0).numpy() if len(row) == 3 else row[0].numpy()) for row in x]


def rows(images: list[Image.Image]) -> Tensor:
    arrays = [torch.from_numpy(np.array(image)) for image in images]
    return torch.stack([a.view(a.shape[0], a.shape[1], -1).permute(2, 0, 1) for a in arrays])


@pytest.mark.parametrize("quality", [100, 80, 65, 58, 50, 40, 5])
@pytest.mark.parametrize(
    "shape", [(3, 32, 32), (1, 32, 32), (3, 28, 28), (1, 28, 28), (3, 31, 17), (1, 8, 8), (3, 5, 3)]
)
def test_jpeg_is_libjpegs_to_the_bit(photos: Tensor, quality: int, shape: tuple[int, int, int]) -> None:
    x = photos[:20, : shape[0], : shape[1], : shape[2]]
    through = []
    for image in pictures(x):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        through.append(Image.open(file))
    assert torch.equal(compressed(x, quality), rows(through))


@pytest.mark.parametrize("share", [0.95, 0.9, 0.85, 0.75, 0.65])
@pytest.mark.parametrize("side", [32, 28, 8])
def test_pixelate_is_pils_to_the_bit(photos: Tensor, share: float, side: int) -> None:
    x = photos[:, :, :side, :side]
    small = int(side * share)
    box = Image.Resampling.BOX
    expected = rows([image.resize((small, small), box).resize((side, side), box) for image in pictures(x)])
    assert torch.equal(pixelated(x, share), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_severities_are_ordered_by_their_distance_from_the_clean_image(
    photos: Tensor, kind: str, channels: int
) -> None:
    x = photos[:, :channels]
    far = [(Corrupted(kind, s)(x).double() - x).square().mean().sqrt().item() for s in (0.5, 1, 2, 3, 4, 5)]
    assert far[0] > 0
    if kind == "elastic":  # the published constants turn a pull at three points into waves, whose distance is less
        assert far[0] < far[1]
    else:  # motion blur 3 and 4 differ in what is out of reach alone, as published
        assert all(a < b or (kind == "motion_blur" and a == b) for a, b in pairwise(far)), far


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_looks_the_same_whatever_stands_beside_it(photos: Tensor, kind: str) -> None:
    many = photos.repeat(6, 1, 1, 1)  # more rows than are turned at a time
    warp = Corrupted(kind, 3)
    whole = warp(many)
    assert (whole.dtype, whole.shape) == (torch.uint8, many.shape)
    assert torch.equal(whole[:40], whole[40:80])
    assert torch.equal(torch.cat([warp(many[i : i + 1]) for i in range(40)]), whole[:40])
    odd = torch.randperm(len(many))[:13]
    assert torch.equal(warp(many[odd]), whole[odd])
    assert torch.equal(warp(many[:0]), many[:0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grey", [0, 128, 255])
def test_constant_images_stay_finite_and_in_the_middle(kind: str, grey: int) -> None:
    x = torch.full((2, 3, 9, 7), grey, dtype=torch.uint8)
    for severity in (0.3, 1, 5):
        turned = Corrupted(kind, severity)(x).double()
        assert (turned - x).abs().mean() < 140, "what is not a number becomes 0 or 255 as uint8"
        if kind in ("contrast", "defocus_blur", "motion_blur", "pixelate", "elastic", "jpeg"):
            assert (turned - x).abs().max() <= 1, "there is nothing to blur"
    if kind == "haze" and not grey:
        assert not turned.any(), "black has no light to scatter"


@pytest.mark.parametrize("kind", KINDS)
def test_severity_0_is_the_clean_image_and_half_severities_lie_between(photos: Tensor, kind: str) -> None:
    assert torch.equal(Corrupted(kind, 0)(photos), photos)
    low, middle, high = (strength_of(kind, s) for s in (2, 2.5, 3))
    assert all(m == pytest.approx((a + b) / 2) for a, m, b in zip(low, middle, high, strict=True))
    assert strength_of(kind, 5) == STRENGTHS[kind][5]


def test_noise_has_the_deviation_and_the_mean_it_is_said_to_have() -> None:
    """Over 122,880 values far from black and white."""
    grey = torch.randint(110, 146, (40, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    noise = (Corrupted("gaussian_noise", 2)(grey).double() - grey) / 255
    assert noise.mean().abs() < 5 * 0.06 / noise.numel() ** 0.5
    assert noise.std().item() == pytest.approx(0.06, rel=0.02)
    assert (noise[0] - noise[1]).abs().mean() > 0.05, "rows draw for themselves"
    assert (noise[:, 0] - noise[:, 1]).abs().mean() > 0.05, "channels, too"
    shot = (Corrupted("shot_noise", 3)(grey).double() - grey) / 255
    assert shot.mean().abs() < 5 * (0.5 / 100 / shot.numel()) ** 0.5
    assert shot.std().item() == pytest.approx((128 / 255 / 100) ** 0.5, rel=0.03)
    struck = Corrupted("impulse_noise", 4)(grey)
    shares = [(struck == value).double().mean().item() for value in (0, 255)]
    assert shares == pytest.approx([0.025, 0.025], rel=0.1)
    assert torch.equal(struck[(struck > 0) & (struck < 255)], grey[(struck > 0) & (struck < 255)])


def test_the_poisson_table_has_poissons_quantiles() -> None:
    """Against the distribution summed term by term, for a grey of 51: 500 · 0.2 = 100 photons."""
    counts = (table("shot_noise", 1 / 500, CPU)[51].double() / 255 * 500).round()
    below = [math.exp(-100 + k * math.log(100) - math.lgamma(k + 1)) for k in range(200)]
    for k in (80, 100, 120):
        share = (counts <= k).double().mean().item()
        assert share == pytest.approx(sum(below[: k + 1]), abs=0.03)  # a count is 0.51 steps of 255
    assert table("gaussian_noise", 0.1, CPU).shape == (256, LEVELS)


def test_draws_are_even_and_independent() -> None:
    x = torch.randint(0, 256, (400, 1, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    draws = Drawn(x, "a").below(10, 100)
    counts = torch.bincount(draws.flatten(), minlength=10)
    assert ((counts - 4000).abs() < 5 * 60).all()
    pairs = torch.bincount((draws[:, 1:] * 10 + draws[:, :-1]).flatten(), minlength=100)
    assert ((pairs - 396).abs() < 5 * 20).all()
    assert not torch.equal(draws, Drawn(x, "b").below(10, 100))
    x[0, 0, 0, 0] ^= 1
    assert (Drawn(x, "a").below(10, 100)[0] == draws[0]).double().mean() < 0.3, "one bit changes all draws"


def test_light_follows_its_formulas(photos: Tensor) -> None:
    """Against the authors' formulas in numpy, `colorsys` for the colours."""
    import colorsys

    x = photos[0].permute(1, 2, 0).numpy() / 255.0
    means = x.mean((0, 1), keepdims=True)
    expected = np.round(np.clip((x - means) * 0.4 + means, 0, 1) * 255)
    assert np.array_equal(Corrupted("contrast", 3)(photos[:1])[0].permute(1, 2, 0).numpy(), expected)

    def lit(r: float, g: float, b: float) -> tuple[float, ...]:
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb(h, s, min(v + 0.15, 1))

    bright = np.round(np.array([[lit(*pixel) for pixel in line] for line in x]) * 255)
    got = Corrupted("brightness", 3)(photos[:1])[0].permute(1, 2, 0).numpy().astype(float)
    assert np.abs(got - bright).max() <= 1
    assert (got != bright).mean() < 0.01  # ties


def test_haze_is_clouds_over_the_row_scaled_to_its_brightest(photos: Tensor) -> None:
    """`(x + t · clouds) · m / (m + t)`, m the row's largest number, of all channels (Hendrycks & Dietterich)."""
    tinted = (photos[:2].double() * torch.tensor([1.0, 0.6, 0.3])[:, None, None]).round().to(torch.uint8)
    x, side = tinted.permute(0, 2, 3, 1).numpy() / 255.0, tinted.shape[-1]
    clouds = plasma(Drawn(tinted, "haze"), 1 << (side - 1).bit_length(), 2.0)[:, :side, :side].numpy()[..., None]
    m = x.max((1, 2, 3), keepdims=True)
    expected = np.clip((x + 0.7 * clouds) * m / (m + 0.7), 0, 1) * 255
    assert np.abs(hazed(tinted, 0.7, 2.0).permute(0, 2, 3, 1).numpy() - expected).max() <= 0.5 + 1e-6


def test_defocus_is_the_kernels_correlation(photos: Tensor) -> None:
    kernel = disk(1.0, 0.2)
    assert kernel.sum().item() == pytest.approx(1)
    x = photos[:2].double()
    padded = torch.nn.functional.pad(x, (len(kernel) // 2,) * 4, mode="reflect")
    expected = torch.nn.functional.conv2d(padded, kernel.expand(3, 1, *kernel.shape), groups=3).round()
    got = Corrupted("defocus_blur", 4)(photos[:2])
    assert (got - expected).abs().max() <= 1
    assert (got != expected).double().mean() < 1e-3
    assert mirror(torch.tensor([-1, 0, 1]), 1).tolist() == [0, 0, 0]


def test_motion_goes_one_way_and_keeps_the_light() -> None:
    x = torch.zeros(64, 1, 32, 32, dtype=torch.uint8)
    x[:, :, 16, 16] = 255
    x[torch.arange(64), 0, 0, 0] = torch.arange(64).to(torch.uint8)  # so that rows draw different directions
    turned = Corrupted("motion_blur", 3)(x)[:, 0, 4:, 4:].double()
    assert (turned.sum((1, 2)) - 255).abs().max() < 12
    assert len(torch.unique(turned, dim=0)) > 8


def test_the_five_severities_are_those_of_make_cifar_c() -> None:
    """Written down anew. Shot noise is given by its inverse, and elastic in shares of the side."""
    assert {kind: each[1:] for kind, each in STRENGTHS.items()} == {
        "gaussian_noise": ((0.04,), (0.06,), (0.08,), (0.09,), (0.1,)),
        "shot_noise": tuple((1 / c,) for c in (500, 250, 100, 75, 50)),
        "impulse_noise": ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
        "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        "contrast": ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
        "brightness": ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
        "haze": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        "pixelate": ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
        "jpeg": ((80,), (65,), (58,), (50,), (40,)),
        "elastic": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    }


def test_clouds_are_diamond_squares_point_by_point() -> None:
    drawn, side, decay = Drawn(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), "haze"), 8, 2.5
    noise = drawn.uniform(side * side).view(side, side).tolist()
    clouds, step, wobble = np.zeros((side, side)), side, 100.0
    while step >= 2:
        half = step // 2
        squares = [(y, x) for y in range(half, side, step) for x in range(half, side, step)]
        edges = [(y, x) for y in range(0, side, half) for x in range(0, side, half) if (y + x) // half % 2]
        diagonal, straight = ((-1, -1), (-1, 1), (1, -1), (1, 1)), ((-1, 0), (1, 0), (0, -1), (0, 1))
        for points, arms in ((squares, diagonal), (edges, straight)):
            for y, x in points:
                around = [clouds[(y + half * a) % side, (x + half * b) % side] for a, b in arms]
                clouds[y, x] = np.mean(around) + wobble**2 * noise[y][x]
        step, wobble = half, wobble / decay
    clouds -= clouds.min()
    np.testing.assert_allclose(plasma(drawn, side, decay)[0], clouds / clouds.max(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("severity", [1, 2, 5])
def test_elastic_moves_pixels_by_an_affine_map_and_waves_in_shares_of_the_side(severity: int) -> None:
    x = (torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    most, sigma, corners = (24 * share for share in STRENGTHS["elastic"][severity])
    drawn = Drawn(x, "elastic").uniform(2 * (3 + 24 * 24)).double().numpy()
    down, across = np.mgrid[:24, :24]
    points = np.array([[20, 20, 1], [20, 4, 1], [4, 4, 1]])  # a third of the side from the middle, (x, y)
    for row, numbers in zip(x[:, 0].numpy(), drawn, strict=True):
        moved = np.linalg.solve(points, numbers[:6].reshape(3, 2) * corners)
        right, below = (across * a + down * b + c for a, b, c in moved.T)
        if most:
            waves = [
                ndimage.gaussian_filter(w, sigma, mode="mirror", truncate=3) for w in numbers[6:].reshape(2, 24, 24)
            ]
            right, below = right + most * waves[0], below + most * waves[1]
        expected = ndimage.map_coordinates(row.astype(float), [down + below, across + right], order=1, mode="reflect")
        got = Corrupted("elastic", severity)(torch.from_numpy(row)[None, None])[0, 0].numpy()
        assert np.abs(got - expected.round()).max() <= 1
        assert (got != expected.round()).mean() < 0.01


def test_motion_is_imagemagicks() -> None:
    """`MotionBlurImage`: the i-th tap is read `ceil(i cos - ½)` to the right of a pixel and `ceil(i sin - ½)` below."""
    x = (torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    angles = Drawn(x, "motion_blur").below(ANGLES, 1).squeeze(1) - 45
    weights = np.exp(-(np.arange(13) ** 2) / (2 * 1.5**2))
    expected = np.zeros(x.shape)
    for row, angle in enumerate(angles.double().deg2rad().tolist()):
        for i, weight in enumerate(weights / weights.sum()):
            across, down = (np.ceil(i * side(angle) - 0.5) + np.arange(16) for side in (np.cos, np.sin))
            at = np.ix_(down.clip(0, 15).astype(int), across.clip(0, 15).astype(int))
            expected[row, 0] += weight * x[row, 0].numpy()[at]
    got = Corrupted("motion_blur", 2)(x).numpy()
    assert np.abs(got - expected.round()).max() <= 1
    assert (got != expected.round()).mean() < 0.01
