from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from clkd.metrics.base import Record
from clkd.metrics.domains import GainNewDomain, LossOldDomains
from clkd.metrics.intransigence import Intransigence
from clkd.plugins import load_plugins
from clkd.testing import material

REGISTRY = load_plugins().registry
T = 4


CLASSIC = (
    "average_accuracy",
    "average_incremental_accuracy",
    "learning_accuracy",
    "forgetting",
    "backward_transfer",
    "forward_transfer",
)
OPTIONS = {"intransigence": {"kind": "intransigence", "joint": [1.0] * T}}


def metric(name: str, record: Record) -> float:
    return REGISTRY.build(REGISTRY.parse("metrics", OPTIONS.get(name, name)))(record)


def record(trained: int, seed: int = 0) -> Record:
    """As the engine fills it: the lower triangle, the entry above the diagonal, the rest NaN."""
    made = Record.empty(T)
    r = np.random.default_rng(seed).random((T, T))
    for i in range(trained):
        for j in range(min(i + 2, T)):
            made.class_incremental[i][j] = float(r[i, j])
    made.baseline = np.random.default_rng(seed + 1).random(T).tolist()
    made.trained = trained
    return made


def brute_force(name: str, record: Record) -> float:
    r, b, n = np.array(record.matrix), np.array(record.baseline), record.trained
    if name == "average_accuracy":
        return r[n - 1, :n].mean()
    if name == "average_incremental_accuracy":
        return np.mean([r[i, : i + 1].mean() for i in range(n)])
    if name == "learning_accuracy":
        return np.diag(r)[:n].mean()
    if n == 1:
        return 0.0
    if name == "forgetting":
        return np.mean([np.nanmax(r[: n - 1, j]) - r[n - 1, j] for j in range(n - 1)])
    if name == "backward_transfer":
        return (r[n - 1, : n - 1] - np.diag(r)[: n - 1]).mean()
    assert name == "forward_transfer"
    return np.mean([r[i - 1, i] - b[i] for i in range(1, n)])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("trained", range(1, T + 1))
@pytest.mark.parametrize("name", CLASSIC)
def test_each_is_its_definition_after_any_number_of_experiences(name, trained, seed):
    made = record(trained, seed)
    assert metric(name, made) == pytest.approx(brute_force(name, made), abs=1e-12)


@pytest.mark.parametrize("name", ["forgetting", "backward_transfer", "forward_transfer"])
def test_nothing_is_forgotten_or_transferred_with_one_experience(name):
    assert metric(name, record(1)) == 0.0


@pytest.mark.parametrize("name", REGISTRY.names("metrics"))
def test_before_the_first_experience_no_metric_breaks(name):
    value = metric(name, Record.empty(T))
    assert value == 0 or math.isnan(value)


def test_forgetting_takes_the_best_earlier_row_and_may_be_negative():
    made = Record(3, [[0.8, 0.0, 0.0], [0.9, 0.6, 0.0], [0.5, 0.7, 0.7]], trained=3)
    assert metric("forgetting", made) == pytest.approx(((0.9 - 0.5) + (0.6 - 0.7)) / 2)


def test_without_columns_for_the_coming_classes_forward_transfer_is_zero():
    made = record(3)
    for i in range(3):
        made.class_incremental[i][i + 1] = math.nan
    assert metric("forward_transfer", made) == 0.0
    made.class_incremental[1][2], made.baseline[2] = 0.5, 0.1
    assert metric("forward_transfer", made) == pytest.approx(0.4 / 2)


def test_an_untrained_student_without_a_column_is_never_right():
    """Classes that come again had their column before the experience, and none when the stream began."""
    made = record(4)
    made.baseline[1:] = [0.25, math.nan, math.nan]
    made.class_incremental[2][3] = math.nan
    expected = [made.class_incremental[0][1] - 0.25, made.class_incremental[1][2], 0.0]
    assert metric("forward_transfer", made) == pytest.approx(sum(expected) / 3)


def test_the_matrix_that_counts_is_the_streams():
    made = record(3)
    made.task_aware = [[1.0] * T for _ in range(T)]
    assert metric("average_accuracy", made) < 1
    made.task_labels = True
    assert metric("average_accuracy", made) == 1


def f1_by_rows(confusion: np.ndarray) -> float:
    """From lists of true and predicted labels, through precision and recall."""
    true = np.repeat(*np.array([[i, confusion[i].sum()] for i in range(len(confusion))]).T)
    predicted = np.concatenate([np.repeat(range(len(row)), row) for row in confusion])
    scores = []
    for c in sorted({*true.tolist(), *predicted.tolist()}):
        hits = ((true == c) & (predicted == c)).sum()
        precision = hits / max((predicted == c).sum(), 1)
        recall = hits / max((true == c).sum(), 1)
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return float(np.mean(scores))


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_the_mean_of_harmonic_means(seed):
    confusion = np.random.default_rng(seed).integers(0, 5, (6, 6))
    confusion[4] = 0
    confusion[:, 5] = 0
    confusion[5] = 0
    confusion[2, 2] = 0
    made = Record(1, confusion=confusion.tolist())
    assert metric("macro_f1", made) == pytest.approx(f1_by_rows(confusion))


def test_gain_and_loss_of_domains():
    """By hand: domains a, b, a, c; b, c and the second a are new or back, the others are old."""
    matrix = [[0.8, 0.3, 0.8, 0.1], [0.6, 0.7, 0.6, 0.2], [0.9, 0.5, 0.9, 0.3], [0.4, 0.45, 0.4, 0.95]]
    gain, loss = GainNewDomain(), LossOldDomains()
    loss.domains = (0, 1, 0, 2)
    told = [(gain(r), loss(r)) for n in range(5) if (r := Record(4, matrix, baseline=[0.1] * 4, trained=n)) or True]
    assert math.isnan(told[0][0])
    assert (told[0][1], told[1][1]) == (0, 0)
    assert told[1][0] == pytest.approx(0.7)
    assert told[2] == pytest.approx((0.4, 0.2))
    assert told[3] == pytest.approx((0.3, 0.2)), "that b lost; the first a is the domain that came back"
    assert told[4] == pytest.approx((0.65, (0.5 + 0.05) / 2)), "a counts once"
    loss.domains = (0, 0, 0, 0)
    assert loss(Record(4, matrix, trained=2)) == 0, "a stream without domains"


def test_a_joint_run_of_one_experience_counts_each_class_by_its_test_rows(tmp_path):
    first, *_ = material.experiences()  # classes 3 and 0
    test = replace(first.train, y=torch.tensor([3, 3, 3, 0]))
    others = [replace(first, test=replace(test, y=torch.tensor([y]))) for y in (5, 1)]
    (tmp_path / "result.json").write_text(json.dumps({"status": "finished", "accuracy_matrix": [[0.7]]}))
    told = {"class_acc/a": 0.2, "class_acc/b": 0.5, "class_acc/d": 1.0, "class_acc/f": 0.25}
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"metrics": told}) + "\n")
    experiences = [replace(first, test=test), *(replace(e, classes=(9,)) for e in others)]
    assert Intransigence(str(tmp_path), experiences=experiences, class_names="abcdef").joint == [0.8, 0.25, 0.5]
