"""Each tool's forgetting and backward transfer, against code that is written the way the tool's is."""

from __future__ import annotations

import importlib
import importlib.util
import math

import numpy as np
import pytest

from clkd.metrics.base import Record
from clkd.plugins import load_plugins
from clkd.vision import avalanche

REGISTRY = load_plugins().registry
HAND = [
    [0.90, 0.65, math.nan, math.nan],
    [0.70, 0.60, 0.10, math.nan],
    [0.95, 0.50, 0.80, 0.20],
    [0.40, 0.62, 0.88, 0.85],
]


def record(matrix: list[list[float]], trained: int) -> Record:
    rows = [list(row) for row in matrix[:trained]] + [[math.nan] * 4 for _ in range(4 - trained)]
    return Record(4, rows, trained=trained)


def drawn(seed: int) -> list[list[float]]:
    r = np.random.default_rng(seed).random((4, 4))
    return [[float(r[i, j]) if j < i + 2 else math.nan for j in range(4)] for i in range(4)]


def mammoth_forgetting(r: np.ndarray) -> float:
    padded = np.nan_to_num(r)
    return float(np.mean((padded.max(0) - padded[-1])[:-1]))


def pycil_forgetting(r: np.ndarray) -> float:
    table = np.tril(np.nan_to_num(r)).T
    return float(np.mean((table.max(axis=1) - table[:, -1])[:-1]))


def facil_forgetting(r: np.ndarray) -> float:
    acc, t = np.tril(np.nan_to_num(r)), len(r) - 1
    return float(np.mean([acc[:t, u].max(0) - acc[t, u] for u in range(t)]))


def libcontinual_forgetting(r: np.ndarray) -> float:
    t = len(r) - 1
    return float(sum(np.diag(r)[: t - 1] - r[t][: t - 1]) / t) if t > 1 else 0.0


def libcontinual_transfer(r: np.ndarray) -> float:
    t, change = len(r) - 1, 0.0
    if t < 2:
        return 0.0
    for i in range(2, t + 1):
        for j in range(i - 1):
            change += r[i, j] - r[j, j]
    return change * 2 / (t * (t + 1))


def avalanche_forgetting(r: np.ndarray) -> float:
    """Avalanche's own metric, told what its plugin is told."""
    if importlib.util.find_spec("avalanche") is None:
        pytest.skip(reason="Avalanche is not installed")
    avalanche()
    own = importlib.import_module("avalanche.evaluation.metrics.forgetting_bwt").Forgetting()
    for i, row in enumerate(r):
        for j in range(i + 1):
            own.update(j, row[j], initial=i == j)
    values = own.result()
    return sum(values.values()) / len(values)


REFERENCES = {
    "forgetting_mammoth": mammoth_forgetting,
    "forgetting_pycil": pycil_forgetting,
    "forgetting_facil": facil_forgetting,
    "forgetting_libcontinual": libcontinual_forgetting,
    "forgetting_avalanche": avalanche_forgetting,
    "backward_transfer_avalanche": lambda r: -avalanche_forgetting(r),
    "backward_transfer_mammoth": lambda r: float(np.mean([r[-1][i] - r[i][i] for i in range(len(r) - 1)])),
    "backward_transfer_libcontinual": libcontinual_transfer,
}


@pytest.mark.parametrize("matrix", [HAND, drawn(0), drawn(1)])
@pytest.mark.parametrize("trained", [2, 3, 4])
@pytest.mark.parametrize("name", REFERENCES)
def test_each_is_what_its_tool_computes(name, trained, matrix):
    made = REGISTRY.build(REGISTRY.parse("metrics", name))(record(matrix, trained))
    wanted = REFERENCES[name](np.array(matrix)[:trained, :trained])
    assert made == pytest.approx(wanted, abs=1e-12)


def test_on_one_matrix_they_all_differ():
    """It has an experience that was best before it was trained, and one that is best at the end."""
    names = ["forgetting", *(name for name in REFERENCES if name.startswith("forgetting"))]
    values = {name: REGISTRY.build(REGISTRY.parse("metrics", name))(record(HAND, 4)) for name in names}
    assert len({round(value, 9) for value in values.values()}) == len(values), values
