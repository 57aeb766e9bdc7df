"""Colours, dots, ticks: what a page's pictures are made of."""

from __future__ import annotations

import base64
import io
import math
from itertools import pairwise

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image
from webpage import Page

from clkd.page.bitmap import data_uri
from clkd.page.chart import Curve, _ticks, bars, curves, stacks
from clkd.page.colours import ink, luminance, shade
from clkd.page.tables import heat

SHARES = np.linspace(0, 1, 256)


def test_shades_are_matplotlibs():
    theirs = 255 * np.array([colormaps["cividis"](float(share))[:3] for share in SHARES])
    assert np.abs(np.array([shade(share) for share in SHARES]) - theirs).max() < 11


def contrast(a, b):
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def test_numbers_are_read_on_every_shade():
    """4.5 : 1, as the Web Content Accessibility Guidelines ask of text."""
    colours = {"#000": (0, 0, 0), "#fff": (255, 255, 255)}
    assert min(contrast(shade(share), colours[ink(shade(share))]) for share in SHARES) >= 4.5
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)


def test_a_picture_has_one_dot_a_cell():
    rows = [[0.0], [0.5, None], [1.0, 0.25, math.pi]]
    uri = data_uri(rows)
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA")
    assert image.size == (3, 3)
    for i, row in enumerate([[0.0, None, None], [0.5, None, None], [1.0, 0.25, 1.0]]):
        for j, value in enumerate(row):
            dot = image.getpixel((j, i))
            assert dot[3] == (0 if value is None else 255)
            if value is not None:
                assert np.abs(np.array(dot[:3]) - shade(value)).max() <= 1


@pytest.mark.parametrize(("low", "high"), [(0, 100), (0, 1), (-3.7, 12.9), (0.001, 0.0042), (5, 5), (1e6, 3.3e6)])
def test_ticks_are_round_and_within(low, high):
    found = _ticks(low, high)
    assert all(low - 1e-9 <= each <= high + 1e-9 for each in found)
    assert len(found) <= 8
    assert len({f"{b - a:.6g}" for a, b in pairwise(found)}) <= 1


def dots(page):
    return [(float(each["cx"]), float(each["cy"])) for each in page.all("circle")]


def test_a_curve_goes_where_its_numbers_are():
    page = Page(curves([Curve("a", {0: 0.0, 1: 50.0, 2: math.nan, 4: 100.0})], "t", "x", "y", (0, 100)))
    (x0, y0), (x1, y1), (x4, y4) = dots(page)
    assert (x1 - x0) * 4 == pytest.approx(x4 - x0, abs=0.5)
    assert y0 - y1 == pytest.approx(y1 - y4, abs=0.2)
    assert y0 > y4, "up is more"


@pytest.mark.parametrize("points", [{}, {3: 1.0}, {0: math.nan, 1: math.nan}, {0: 0.0, 1: 0.0}, {0: math.inf, 1: 2.0}])
def test_few_numbers_are_no_trouble(points):
    page = Page(curves([Curve("a", points), Curve("b", {}, dashed=True)], "t", "x", "y"))
    assert "nan" not in str(page.elements)
    assert "inf" not in str(page.elements)


def test_bars_are_as_long_as_their_numbers():
    page = Page(stacks({"a": [1.0, 3.0], "b": [1.0, 1.0]}, ["0", "1"], "t", "s"))
    assert [float(each["width"]) for each in page.all("rect")] == [25, 25, 75, 25]
    assert Page(bars({"x": 0.0}, "t", "rows")).all("rect")[0]["width"] == "0.00"


def test_a_cell_without_a_number_is_blank():
    page = Page(heat("c", [[0.5], [math.nan, 1.0]], (["a", "b"], ["a", "b"]), ("after", "on")))
    assert page.table("c") == [["a", "50.0", ""], ["b", "", "100.0"]]
    styled = [each.get("style", "") for each in page.all("td")]
    assert [bool(each) for each in styled] == [False, True, False, False, True]
