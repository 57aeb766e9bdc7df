"""Which class was taken for which, after each experience: one file an experience."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clkd.experience import Experience

FOLDER = "confusion"
"""In the run's directory."""
PARTS = frozenset({"experience", "name", "classes", "counts"})

Confusion = dict[str, Any]


def told(experience: Experience, class_names: Sequence[str], matrix: Sequence[Sequence[int]]) -> Confusion:
    """The matrix (true class by named class, over all test rows so far) as plain data that stays small.

    `classes` are those that have test rows or were named, `counts` holds `[true, named, rows]` for each pair that
    occurred, both as positions in `classes`. A head may have columns for classes that the data set has no name for.
    """
    pairs = [(i, j, count) for i, row in enumerate(matrix) for j, count in enumerate(row) if count]
    known = sorted({each for i, j, _ in pairs for each in (i, j)})
    place = {c: at for at, c in enumerate(known)}
    return {
        "experience": experience.index,
        "name": experience.name,
        "classes": [class_names[c] if c < len(class_names) else f"class {c}" for c in known],
        "counts": [[place[i], place[j], count] for i, j, count in pairs],
    }


def square(confusion: Confusion) -> list[list[int]]:
    """The whole matrix over its `classes`.

    >>> square({"classes": ["cat", "dog"], "counts": [[0, 0, 5], [1, 0, 2]]})
    [[5, 0], [2, 0]]
    """
    size = len(confusion["classes"])
    matrix = [[0] * size for _ in range(size)]
    for i, j, count in confusion["counts"]:
        matrix[i][j] = count
    return matrix
