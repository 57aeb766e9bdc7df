"""Classes called by their place keep these names whatever else is done to the stream, and teachers know them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from clkd.data.store import statistics
from clkd.engine.compose import Composer, Composition
from clkd.options import Parsing
from clkd.plugins import load_plugins
from clkd.scenario.model import Scenario

REGISTRY = load_plugins().registry
PLACES = ("place 0", "place 1")


def composed(tmp_path: Path, teach: bool = False, **stream: Any) -> Composition:
    said = {
        "name": "places",
        "stream": {
            "dataset": {"name": "digits", "rows_per_class": 20},
            "split": {"by": "class", "experiences": 5, "labels": "place"},
            **stream,
        },
        "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "fixed"},
        "teachers": {"big": {"kind": "fit", "model": {"kind": "mlp", "hidden": [32]}, "epochs": 30}},
        "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "big"]}],
        "train": {"optimizer": {"kind": "sgd", "lr": 0.1}},
    }
    scenario = Scenario.model_validate(said, context=Parsing(REGISTRY))
    return Composer(scenario, REGISTRY, torch.device("cpu"), tmp_path, tmp_path).compose(teach)


@pytest.mark.parametrize(
    "stream",
    [
        {},
        {"normalize": {"mean": [0.0], "std": [1.0]}},
        {"normalize": "first"},
        {"labelled": 0.5},
        {"imbalance": {"ratio": 2}},
    ],
    ids=["alone", "pixel scale", "first", "labelled", "imbalance"],
)
def test_whatever_is_done_to_the_stream_there_are_as_many_classes_as_places(
    stream: dict[str, Any], tmp_path: Path
) -> None:
    made = composed(tmp_path, **stream)
    assert made.stream.class_names == PLACES
    assert made.stream.left_out() == []
    student = made.parts.student
    student.grow((0, 1), 0, torch.Generator())
    assert student.class_ids == (0, 1)
    assert made.parts.teachers["big"].spec().class_ids == (0, 1)


def test_who_is_called_by_which_place_is_part_of_what_a_stream_is_known_by(tmp_path: Path) -> None:
    ours, theirs = (
        composed(tmp_path, split={"by": "class", "classes": classes, "labels": "place"})
        for classes in ([[0, 1], [2, 3]], [[1, 0], [2, 3]])
    )
    assert ours.stream.fingerprint() != theirs.stream.fingerprint()
    digests = [[each["digest"] for each in made.material.facts[0]["experiences"]] for made in (ours, theirs)]
    assert digests[0][0] != digests[1][0]
    assert digests[0][1] == digests[1][1]


def test_the_first_experiences_statistics_are_of_its_rows_as_it_shows_them(tmp_path: Path) -> None:
    bright = [{"kind": "brightness", "severity": 5}, "clean"]
    for domains in (bright, bright[::-1]):
        made = composed(tmp_path, split={"by": "domain", "domains": domains}, normalize="first")
        rows = made.stream[0].train.ready("cpu")
        mean, std = statistics(rows.x[rows.index])
        assert torch.equal(made.stream.mean, mean)
        assert torch.equal(made.stream.std, std)


def test_a_teacher_learns_the_places(tmp_path: Path) -> None:
    made = composed(tmp_path, teach=True)
    right, rows = 0, 0
    for experience in made.stream:
        made.parts.begin(experience, 0)
        batch = experience.test.gather(torch.arange(len(experience.test)))
        seen = batch.seen_as(made.parts.augment.plain(batch.x))
        said = made.parts.teachers["big"].signals(seen, made.parts.needs("big")).logits
        assert said is not None
        right, rows = right + int((said.argmax(1) == batch.y).sum()), rows + len(batch)
    assert right > 0.8 * rows
