"""JPEG there and back, in integers: what libjpeg's default (slow, accurate) transforms give, to the bit.

Entropy coding loses nothing, so it is left out: an image is turned into luminance and chrominance at half the
resolution (colour only), transformed in blocks of 8×8, divided by the tables, rounded, and all of it is undone.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

BITS, PASS = 13, 2
"""Of fractions in constants, and those kept between the two passes."""
LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
"""The table of ITU-T T.81, annex K.1, row by row."""
CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99,
    99, 99, 99,
) + (99,) * 32  # fmt: skip
"""The table of annex K.2."""


def compressed(x: Tensor, quality: int) -> Tensor:
    """`[N, C, H, W]` uint8 after JPEG of `quality` (1 to 100): three channels as colour, others each as grey."""
    rows, channels, height, width = x.shape
    if channels != 3:
        grey = x.reshape(rows * channels, height, width).int()
        return _plane(grey, table(LUMINANCE, quality, x.device)).to(torch.uint8).view(x.shape)
    luma, blue, red = _split(x.int())
    luma = _plane(luma, table(LUMINANCE, quality, x.device))
    half = table(CHROMINANCE, quality, x.device)
    blue, red = (_doubled(_plane(_halved(each), half)[:, :, : -(-width // 2)]) for each in (blue, red))
    return _joined(luma, *(each[:, :height, :width] for each in (blue, red))).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=16)
def table(base: tuple[int, ...], quality: int, device: torch.device) -> Tensor:
    """`[8, 8]` divisors at a quality, by the rule of the Independent JPEG Group."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return torch.tensor([min(max((each * scale + 50) // 100, 1), 255) for each in base], device=device).int().view(8, 8)


def _plane(plane: Tensor, divisors: Tensor) -> Tensor:
    """`[n, h, w]` int32 within 0 … 255, coded and decoded; edges go on up to whole blocks."""
    height, width = plane.shape[1:]
    sides = (torch.arange(-(-side // 8) * 8, device=plane.device).clamp(max=side - 1) for side in (height, width))
    down, across = sides
    whole = plane[:, down][:, :, across] - 128
    blocks = whole.view(-1, len(down) // 8, 8, len(across) // 8, 8).transpose(2, 3)
    forward = _forward(_forward(blocks, 4, first=True), 3, first=False)
    size = divisors * 8
    coded = torch.div(forward.abs() + size // 2, size, rounding_mode="floor") * forward.sign()
    back = _backward(_backward(coded * divisors, 3, first=True), 4, first=False)
    return (back.transpose(2, 3).reshape(whole.shape) + 128).clamp_(0, 255)[:, :height, :width]


def _fixed(x: float, bits: int = BITS) -> int:
    return int(x * (1 << bits) + 0.5)


def _descaled(x: Tensor, bits: int) -> Tensor:
    return (x + (1 << (bits - 1))) >> bits


def _odd(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The odd half of both transforms (Loeffler, Ligtenberg and Moschytz 1989): one rotation after another."""
    e = (a + c + b + d) * _fixed(1.175875602)
    ad, bc = (a + d) * -_fixed(0.899976223), (b + c) * -_fixed(2.562915447)
    ac, bd = (a + c) * -_fixed(1.961570560) + e, (b + d) * -_fixed(0.390180644) + e
    return (
        a * _fixed(0.298631336) + ad + ac,
        b * _fixed(2.053119869) + bc + bd,
        c * _fixed(3.072711026) + bc + ac,
        d * _fixed(1.501321110) + ad + bd,
    )


def _forward(x: Tensor, dim: int, first: bool) -> Tensor:
    """One pass of libjpeg's `jpeg_fdct_islow` along a dimension of 8."""
    x0, x1, x2, x3, x4, x5, x6, x7 = x.unbind(dim)
    outer, inner = x0 + x7 + x3 + x4, x1 + x6 + x2 + x5
    upper, lower = x0 + x7 - x3 - x4, x1 + x6 - x2 - x5
    bits = BITS - PASS if first else BITS + PASS
    turned = (upper + lower) * _fixed(0.541196100)
    even = turned + upper * _fixed(0.765366865), turned - lower * _fixed(1.847759065)
    odd = _odd(x3 - x4, x2 - x5, x1 - x6, x0 - x7)
    y0, y4 = outer + inner, outer - inner
    y0, y4 = (y0 << PASS, y4 << PASS) if first else (_descaled(y0, PASS), _descaled(y4, PASS))
    y2, y6, y7, y5, y3, y1 = (_descaled(each, bits) for each in (*even, *odd))
    return torch.stack([y0, y1, y2, y3, y4, y5, y6, y7], dim)


def _backward(y: Tensor, dim: int, first: bool) -> Tensor:
    """One pass of libjpeg's `jpeg_idct_islow` along a dimension of 8."""
    y0, y1, y2, y3, y4, y5, y6, y7 = y.unbind(dim)
    turned = (y2 + y6) * _fixed(0.541196100)
    lower, upper = turned - y6 * _fixed(1.847759065), turned + y2 * _fixed(0.765366865)
    both, apart = (y0 + y4) << BITS, (y0 - y4) << BITS
    even = both + upper, apart + lower, apart - lower, both - upper
    odd = _odd(y7, y5, y3, y1)[::-1]
    bits = BITS - PASS if first else BITS + PASS + 3
    ahead = [_descaled(a + b, bits) for a, b in zip(even, odd, strict=True)]
    behind = [_descaled(a - b, bits) for a, b in zip(even, odd, strict=True)]
    return torch.stack([*ahead, *behind[::-1]], dim)


def _split(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Red, green and blue `[n, 3, h, w]` to luminance and two chrominances, each `[n, h, w]`."""
    r, g, b = x.unbind(1)

    def fix(share: float) -> int:
        return _fixed(share, 16)

    half, middle = 1 << 15, (128 << 16) + (1 << 15) - 1
    return (
        (r * fix(0.299) + g * fix(0.587) + b * fix(0.114) + half) >> 16,
        (b * fix(0.5) - r * fix(0.16874) - g * fix(0.33126) + middle) >> 16,
        (r * fix(0.5) - g * fix(0.41869) - b * fix(0.08131) + middle) >> 16,
    )


def _joined(luma: Tensor, blue: Tensor, red: Tensor) -> Tensor:
    blue, red, half = blue - 128, red - 128, 1 << 15
    r = luma + ((red * _fixed(1.402, 16) + half) >> 16)
    g = luma + ((half - blue * _fixed(0.34414, 16) - red * _fixed(0.71414, 16)) >> 16)
    b = luma + ((blue * _fixed(1.772, 16) + half) >> 16)
    return torch.stack([r, g, b], 1)


def _halved(plane: Tensor) -> Tensor:
    """Means of 2×2 pixels, halves rounded down and up in turn (`h2v2_downsample`); edges go on up to whole blocks."""
    steps = zip(plane.shape[1:], (2, 16), strict=True)  # rows of blocks are filled up later, from these means
    down, across = (torch.arange(-(-side // n) * n, device=plane.device).clamp(max=side - 1) for side, n in steps)
    whole = plane[:, down][:, :, across]
    four = whole[:, ::2, ::2] + whole[:, ::2, 1::2] + whole[:, 1::2, ::2] + whole[:, 1::2, 1::2]
    return (four + 1 + torch.arange(four.shape[2], device=plane.device) % 2) >> 2


def _doubled(plane: Tensor) -> Tensor:
    """Twice as high and wide, the nearer pixel counting three times (`h2v2_fancy_upsample`), but in two columns."""
    if plane.shape[2] <= 2:
        return plane.repeat_interleave(2, 1).repeat_interleave(2, 2)
    height = plane.shape[1]
    at = torch.arange(2 * height, device=plane.device)
    near, far = at // 2, (at // 2 + at % 2 * 2 - 1).clamp(0, height - 1)
    tall = plane[:, near] * 3 + plane[:, far]
    before, after = torch.cat([tall[..., :1], tall[..., :-1]], -1), torch.cat([tall[..., 1:], tall[..., -1:]], -1)
    return torch.stack([(tall * 3 + before + 8) >> 4, (tall * 3 + after + 7) >> 4], -1).flatten(2)
