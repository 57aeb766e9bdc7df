"""What a sweep varies: grids and draws."""

import math

import pytest

from clkd.errors import UserError
from clkd.sweep.axes import Axis, Range, drawn, grid


def axes(*texts):
    return [Axis.read(text) for text in texts]


def test_a_grid_is_every_combination_and_the_last_axis_turns_fastest():
    assert grid(axes("a=1,2", "b.0.c=x,y,1e-3")) == [
        (f"a={a}", f"b.0.c={b}") for a in (1, 2) for b in ("x", "y", "0.001")
    ]
    assert grid([]) == [()]
    assert grid(axes("a=1,1")) == [("a=1",)]


def test_a_key_given_twice_is_refused():
    with pytest.raises(UserError, match="size: given twice"):
        Axis.read("memory={kind: ring, size: 200, size: 300}")


def test_a_comma_within_brackets_belongs_to_the_value():
    assert grid(axes("a={kind: x, n: 1},[2, 3],null")) == [("a={kind: x, n: 1}",), ("a=[2, 3]",), ("a=null",)]


def test_draws_are_the_same_every_time_and_more_of_them_keep_the_first():
    sweep = axes("lr=log:0.0001..1", "size=8..64", "kind=a,b", "weight=0.5..2.0")
    some = drawn(sweep, 50)
    assert drawn(sweep, 200)[:50] == some
    assert drawn(axes("size=8..64", "lr=log:0.0001..1"), 3) == [(s[1], s[0]) for s in some[:3]]


def values(text, count=2000):
    return [float(settings[0].partition("=")[2]) for settings in drawn(axes(text), count)]


def test_a_range_is_drawn_from_evenly():
    even = values("x=2.0..6.0")
    assert 2 <= min(even) < 2.05
    assert 5.95 < max(even) <= 6
    assert sum(v < 4 for v in even) == pytest.approx(len(even) / 2, rel=0.1)


def test_a_logarithmic_range_has_as_many_of_each_decade():
    logs = [math.log10(v) for v in values("x=log:0.0001..1")]
    for decade in range(-4, 0):
        assert sum(decade <= v < decade + 1 for v in logs) == pytest.approx(len(logs) / 4, rel=0.2)


def test_whole_ends_give_whole_numbers_and_both_ends_come():
    assert {settings[0] for settings in drawn(axes("n=3..6"), 200)} == {f"n={n}" for n in (3, 4, 5, 6)}
    assert all(v == int(v) and 1 <= v <= 1000 for v in values("n=log:1..1000"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a", "--set a: write a.b=VALUE,VALUE"),
        ("a=", "--set a=: write a.b=VALUE,VALUE"),
        ("a..b=1", "write a.b=value"),
        ("a=[1", "--set a=[1: "),
        ("a=3..1", "--set a=3..1: a range goes from low to high"),
        ("a=log:0..1", "a range goes from low to high, and by logarithm from above 0"),
    ],
)
def test_a_mistake_is_told(text, said):
    with pytest.raises(UserError) as told:
        Axis.read(text)
    assert said in str(told.value)


def test_a_range_has_no_grid():
    assert Axis.read("a=1..2").values == Range(1, 2, log=False, whole=True)
    with pytest.raises(UserError, match="say how often by --random N"):
        grid(axes("a=1..2"))


@pytest.mark.parametrize("text", ["0.99..0.9999", "0.999..0.9999", "log:0.99..0.9999"])
def test_a_draw_is_never_out_of_its_range_nor_one_of_a_few(text):
    low, high = map(float, text.removeprefix("log:").split(".."))
    found = values(f"x={text}")
    assert all(low <= each <= high for each in found)
    assert len(set(found)) > 300
    third = low + (high - low) / 3
    assert sum(each < third for each in found) == pytest.approx(len(found) / 3, rel=0.15)
