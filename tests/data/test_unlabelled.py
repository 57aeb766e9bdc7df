"""Data that brings rows without a label: in training, on purpose, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clkd.data.convert import first_of_each
from clkd.data.prepare import prepare
from clkd.data.source import holdout
from clkd.errors import UserError
from clkd.plugins import load_plugins

REGISTRY = load_plugins().registry
X = np.arange(48, dtype=np.uint8).reshape(12, 2, 2)


def load(folder: Path, arrays: dict, **options):
    np.savez(folder / "a.npz", **arrays)
    part = REGISTRY.parse("datasets", {"name": "arrays", "path": "a.npz", **options})
    return prepare(part, build=REGISTRY.build, cache=folder / "cache", base=folder)


def test_arrays_may_hold_them_if_they_say_so(tmp_path):
    y = np.array([0, 1, -1, 0, 1, -1])
    store = load(tmp_path, {"x_train": X[:6], "y_train": y, "x_test": X[6:8], "y_test": [0, 1]}, unlabelled=True)
    assert store.train.y.tolist() == y.tolist()
    assert store.class_names == ("0", "1")


@pytest.mark.parametrize(
    ("train", "test", "unlabelled", "message"),
    [
        ([0, 1, -1], [0], False, "y_train holds -1: number the classes from 0, or set unlabelled: true"),
        ([0, 1, -2], [0], True, "y_train holds -2: number the classes from 0$"),
        ([0, 1, 1], [-1], True, "y_test holds -1: number the classes from 0$"),
        ([-1, -1, -1], [0], True, "no training row has a label"),
    ],
)
def test_what_would_be_a_mistake_is_one(tmp_path, train, test, unlabelled, message):
    arrays = {"x_train": X[:3], "y_train": train, "x_test": X[:1], "y_test": test}
    with pytest.raises(UserError, match=message):
        load(tmp_path, arrays, unlabelled=unlabelled)


def test_test_rows_are_held_out_of_those_with_a_label(tmp_path):
    y = np.array([0, 1, -1] * 4)
    store = load(tmp_path, {"x": X, "y": y}, unlabelled=True, test_fraction=0.25)
    assert sorted(store.test.y.tolist()) == [0, 1]
    assert int((store.train.y < 0).sum()) == 4
    kept, held = holdout(torch.tensor([-1, 0, 0, -1, -1]), 0.5)
    assert len(held) == 1
    assert {0, 3, 4} <= set(kept.tolist())


def test_fewer_rows_per_class_keep_all_without_one():
    y = torch.tensor([-1, 2, 2, -1, 0, 2, 0, -1])
    assert first_of_each(y, 1).tolist() == [0, 1, 3, 4, 7]
