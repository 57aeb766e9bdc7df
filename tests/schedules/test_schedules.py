from __future__ import annotations

import pytest
import torch

from clkd.plugins import load_plugins
from clkd.schedules.base import Progress, Schedule, value_of
from clkd.schedules.old_fraction import OldFraction
from clkd.schedules.warmup import Warmup

REGISTRY = load_plugins().registry


def built(raw) -> Schedule:
    return REGISTRY.build(REGISTRY.parse("schedules", raw))


def experience(epochs: int, steps: int, index: int = 0) -> list[Progress]:
    places = [(epoch, step) for epoch in range(epochs) for step in range(steps)]
    return [Progress(index, 3, e, epochs, s, steps, step=99 + i) for i, (e, s) in enumerate(places)]


@pytest.mark.parametrize("name", REGISTRY.names("schedules"))
def test_each_works_by_its_bare_name_and_gives_a_plain_number(name):
    assert isinstance(built(name)(Progress()), float)


def test_constant_stays():
    schedule = built({"kind": "constant", "value": 0.3})
    assert {schedule(progress) for progress in experience(2, 5)} == {0.3}


@pytest.mark.parametrize(
    ("options", "length"), [({}, 20), ({"epochs": 2}, 8), ({"epochs": 0.5}, 2), ({"steps": 7}, 7), ({"steps": 50}, 50)]
)
def test_warmup_rises_in_a_straight_line_and_stays(options, length):
    schedule = Warmup(value=3.0, **options)
    values = [schedule(progress) for progress in experience(epochs=5, steps=4)]
    assert values == pytest.approx([3.0 * min(1, t / length) for t in range(20)])


def test_warmup_starts_anew_in_every_experience():
    first, second = ([Warmup(steps=3)(progress) for progress in experience(2, 5, index)] for index in (0, 1))
    assert first == second


def test_warmup_has_one_length():
    with pytest.raises(ValueError, match="not both"):
        built({"kind": "warmup", "epochs": 1, "steps": 3})


def test_old_fraction_is_the_share_of_old_classes():
    stream = [Progress(i, 5, old_classes=2 * i, seen_classes=2 * i + 2) for i in range(5)]
    assert [OldFraction(2.0)(progress) for progress in stream] == pytest.approx([0, 1, 4 / 3, 1.5, 1.6])
    assert OldFraction()(Progress(old_classes=10, seen_classes=10)) == 1


def test_value_of_a_number_is_the_number_and_of_a_schedule_what_it_says():
    class Logits(Schedule):
        def __call__(self, progress, signals=None):
            return signals

    assert value_of(2.0, Progress()) == 2.0
    said = torch.tensor(3.0)
    assert value_of(Logits(), Progress(), said) is said
