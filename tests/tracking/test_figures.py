"""Figures show percentages of what was trained, for few and for many experiences."""

import io

import numpy as np
import pytest

from clkd.tracking import figures

MOMENT = {layer: {"a_distance": {"0": 1.0}, "mmd": {"0": 0.5}} for layer in ("stage3", "penultimate")}
CHANGE = {"gain_new_domain": 0.4, "loss_old_domains": 0.1, "before": MOMENT, "after": MOMENT, "false_alarms": 0.05}
SHIFTS = [
    {"experience": i, "name": f"rotated by {30 * i}°", "domain": i, "drift": {"alarm": i == 1, "p": 0.01}, **CHANGE}
    for i in range(5)
]
NAMED = {
    "forgetting": lambda: figures.forgetting([[0.5] * (i + 1) for i in range(figures.MOST_NUMBERS)], "tiny s0"),
    "loss terms": lambda: figures.loss_terms(
        {f"loss_kd_student_previous_{i}": {1: 2.0, 2: 0.1} for i in range(9)}, "tiny s0"
    ),
    "agreement": lambda: figures.agreement(
        {name: {"cat": 1.0, "dog": 0.9} for name in ("previous", "external")}, "tiny s0"
    ),
    "shift": lambda: figures.shift(SHIFTS, "tiny s0"),
    "shift once": lambda: figures.shift(SHIFTS[:2], "tiny s0"),
}
ROWS = [[0.9], [0.6, 0.8], [0.5, 0.7, 0.95]]


def png(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def test_the_heat_map_shows_each_cell_in_percent():
    axes = figures.accuracy_matrix(ROWS).axes[0]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "90", (0, 1): "60", (1, 1): "80", (0, 2): "50", (1, 2): "70", (2, 2): "95",
    }  # fmt: skip
    shown = axes.images[0].get_array()
    assert np.ma.getmaskarray(shown).sum() == 3
    assert axes.images[0].get_clim() == (0, 100)


def test_numbers_stand_out_from_their_cells():
    axes = figures.accuracy_matrix(ROWS).axes[0]
    for text in axes.texts:
        (j, i) = text.get_position()
        ground = axes.images[0].to_rgba(np.array([[100 * ROWS[i][j]]]))[0, 0, :3] @ [0.2126, 0.7152, 0.0722]
        ink = {"black": 0.0, "white": 1.0}[text.get_color()]
        assert abs(ground - ink) > 0.35


def test_curves_begin_where_an_experience_was_learned():
    axes = figures.forgetting(ROWS).axes[0]
    curves = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert curves["experience 1"] == ([1, 2], pytest.approx([80, 70]))
    assert curves["mean of those seen"][1] == pytest.approx([90, 70, 71.67], abs=0.01)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_any_number_of_experiences_can_be_drawn(count):
    rows = [[0.5] * (i + 1) for i in range(count)]
    for figure in (figures.accuracy_matrix(rows, "tiny s0"), figures.forgetting(rows, "tiny s0")):
        assert png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NAMED)
def test_what_tells_curves_apart_covers_none_of_them(name):
    figure = NAMED[name]()
    figure.draw_without_rendering()
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert legends
    for box in (legend.get_window_extent() for legend in legends):
        assert not any(box.overlaps(axes.bbox) for axes in figure.axes)
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


def test_a_name_between_dollars_is_no_formula():
    strange = [{**each, "name": "a$5_$b"} for each in SHIFTS]
    for figure in (figures.shift(strange, "tiny s0"), figures.domains(strange)):
        figure.draw_without_rendering()
