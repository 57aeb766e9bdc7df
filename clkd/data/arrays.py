"""Arrays in an npz file: the shortest way to bring your own data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clkd.data.source import Found, Places, Raw, Source, Split, holdout
from clkd.errors import Interrupted, UserError, did_you_mean, one_line

Columns = dict[str, NDArray[Any]]

MOST_CLASSES = 100_000
COLUMNS = ("x", "y", "experience", "domain")
NAMES = {f"{column}{split}" for column in COLUMNS for split in ("", "_train", "_test")}


@dataclass(kw_only=True)
class Arrays(Source):
    """`x_train`, `y_train`, `x_test`, `y_test`, or `x` and `y`; see `clkd.data.ArraysOptions.path`."""

    path: str
    test_fraction: float = 0.2
    unlabelled: bool = False

    def find(self, places: Places) -> Found:
        path = places.resolve(self.path)
        return Found((path,), partial(self._read, path))

    def _read(self, path: Path, scratch: Path) -> Raw:
        arrays = _load(path)
        names = arrays.pop("class_names", None)
        _refuse_others(path, arrays)
        if "x" in arrays:
            whole = _split(path, arrays, "", self.unlabelled)
            kept, held = holdout(whole.y, self.test_fraction)
            train, test = whole.rows(kept), whole.rows(held)
        else:
            train, test = _split(path, arrays, "_train", self.unlabelled), _split(path, arrays, "_test")
        if train.x.shape[1:] != test.x.shape[1:] or train.x.dtype != test.x.dtype:
            raise UserError(f"{path}: x_train and x_test differ in shape or type: {_kind(train.x)} and {_kind(test.x)}")
        return Raw(train, test, _class_names(path, names, train.y, test.y))


def _load(path: Path) -> Columns:
    try:
        # Opened here, since NumPy leaves a file open that turns out to be no archive.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = dict(file)
    except Interrupted:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise almost anything for bytes that are not theirs
        reason = one_line(str(error), 200) or type(error).__name__
        raise UserError(f"{path} cannot be read as an npz file of plain arrays: {reason}") from error
    for name in sorted(set(arrays) - NAMES - {"class_names"}):
        raise UserError(f"{path}: unknown array '{name}', {did_you_mean(name, [*NAMES, 'class_names'])}")
    return arrays


def _refuse_others(path: Path, arrays: Columns) -> None:
    """Rows are split already, or they are not: what is named in the other way nobody would read."""
    suffixes = ("",) if "x" in arrays else ("_train", "_test")
    read = {f"{column}{suffix}" for column in COLUMNS for suffix in suffixes}
    for name in sorted(set(arrays) - read):
        beside = "x" if "x" in arrays else "x_train"
        raise UserError(
            f"{path}: array '{name}' beside '{beside}': give x_train, y_train, x_test and y_test, or x and y, and "
            "other columns with the same endings"
        )


def _split(path: Path, arrays: Columns, suffix: str, unlabelled: bool = False) -> Split:
    for name in (f"x{suffix}", f"y{suffix}"):
        if name not in arrays:
            raise UserError(f"{path}: array '{name}' is missing: give x_train, y_train, x_test and y_test, or x and y")
    x = _rows(path, f"x{suffix}", arrays[f"x{suffix}"])
    columns = {
        column: _integers(path, column + suffix, arrays[column + suffix], len(x))
        for column in ("y", "experience", "domain")
        if column + suffix in arrays
    }
    lowest = int(columns["y"].min())
    if lowest < (-1 if unlabelled else 0):
        hint = ", or set unlabelled: true if rows with -1 have no label" if lowest == -1 and suffix != "_test" else ""
        raise UserError(f"{path}: y{suffix} holds {lowest}: number the classes from 0{hint}")
    return Split(x, **columns)


def _rows(path: Path, name: str, array: NDArray[Any]) -> Tensor:
    """Images as `[N, C, H, W]` uint8, vectors as `[N, D]` float32."""
    if not len(array):
        raise UserError(f"{path}: {name} is empty")
    if array.dtype == np.uint8 and array.ndim == 3:
        return torch.from_numpy(array).unsqueeze(1)
    if array.dtype == np.uint8 and array.ndim == 4 and array.shape[1] in (1, 3):
        return torch.from_numpy(array)
    if array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] in (1, 3):
        return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()
    if np.issubdtype(array.dtype, np.floating) and array.ndim == 2:
        finite = np.abs(array) <= np.finfo(np.float32).max  # of NaN this is false, too
        if not finite.all():
            at = int((~finite.all(axis=1)).nonzero()[0][0])
            raise UserError(f"{path}: {name} holds NaN, infinite or too large values, first in row {at}")
        return torch.from_numpy(array.astype(np.float32))
    raise UserError(
        f"{path}: {name} is {array.dtype} {array.shape}: give images as uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] "
        "with 1 or 3 channels, or vectors as floats [N, D]"
    )


def _integers(path: Path, name: str, array: NDArray[Any], rows: int) -> Tensor:
    if array.shape != (rows,):
        raise UserError(f"{path}: {name} has shape {array.shape}, but there are {rows} rows")
    if not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"{path}: {name} is {array.dtype}: give integers")
    return torch.from_numpy(array.astype(np.int64))


def _class_names(path: Path, names: NDArray[Any] | None, train: Tensor, test: Tensor) -> tuple[str, ...]:
    """The given names, or the ids as text; every label must have one."""
    count = int(train.max()) + 1
    if not count:
        raise UserError(f"{path}: no training row has a label")
    if count > MOST_CLASSES:
        raise UserError(f"{path}: label {count - 1} is too large: number the classes from 0, up to {MOST_CLASSES:,}")
    given = [str(i) for i in range(count)] if names is None else _texts(path, names)
    largest = max(int(train.max()), int(test.max()))
    if largest >= len(given):
        source = "class_names has" if names is not None else "the training rows have"
        raise UserError(f"{path}: label {largest} is too large: {source} {len(given)} classes, numbered from 0")
    return tuple(given)


def _texts(path: Path, names: NDArray[Any]) -> list[str]:
    """Names of text or, as other tools write them, of bytes."""
    if names.ndim != 1:
        raise UserError(f"{path}: class_names has shape {names.shape}: give a list of names")
    try:
        return [name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: class_names holds bytes that are no UTF-8: give text") from error


def _kind(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape[1:])}"
