"""The tensor store: a data set decoded once, kept in the cache as raw binary files and mapped into memory.

`<cache>/data/<name>-<key>/` holds one file per tensor and `meta.json` with types, shapes, checksums, class names and
statistics. Contents are checked at every opening; what was altered or cut short is decoded again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clkd.cache import clear
from clkd.data.source import Lazy, Raw, Split, chunks
from clkd.errors import StorageError, UserError, writing
from clkd.locks import alone, beside

log = logging.getLogger("clkd.data")

FULL_CHECK = 2**30
"""Bytes up to which a file is read whole at every opening (0.5 s or less)."""
BLOCKS, BLOCK = 64, 4096
"""Of a larger file, so many blocks of so many bytes are read."""
NO_LABEL = -1
"""The class id of training rows without a label."""
NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)

DTYPES = {"uint8": torch.uint8, "int64": torch.int64, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class Store:
    """A data set, ready to be gathered from.

    Attributes:
        name: the data set in use.
        train, test: its rows, memory-mapped.
        class_names: one per class id.
        mean, std: `[C]` of the training rows, images on the [0, 1] scale; `[D]` per feature for vectors. Never zero.
        fingerprint: a hash of the content.
        augment: the augmentation that is standard for it; empty for none.
        stand_in: the name of the data set that took the requested one's place, if one did.
        requested: the name of the data set that the scenario asks for.
        skipped: corrupt pictures that were left out, as `skip_corrupt` allows.
        repeated: how many test rows are training rows, too, bit for bit.
        domain_names: one per domain id; empty where the data has none.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    mean: Tensor
    std: Tensor
    fingerprint: str
    augment: dict[str, Any] = field(default_factory=dict)
    stand_in: str | None = None
    requested: str = ""
    skipped: int = 0
    repeated: int = 0
    domain_names: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """One row: `(C, H, W)` or `(D,)`."""
        return tuple(self.train.x.shape[1:])


class AlteredError(Exception):
    """A stored data set is not what was written."""


def open_or_build(name: str, key: str, cache: Path, build: Callable[[Path], Raw]) -> Store:
    """The stored data set; decoded now, by one process at a time, if it is not there or was altered.

    `build` is handed a scratch folder inside the cache, which is removed afterwards.
    """
    folder = cache / "data" / f"{name}-{key}"
    if os.path.lexists(folder):
        try:
            return _open(name, folder)
        except AlteredError as error:
            log.warning("%s was altered (%s): decoding %s again", folder, error, name)
    return _build(name, folder, build)


def trouble(folder: Path) -> str | None:
    """Why a stored data set is not what was written; None where it is. Large files are read in part."""
    try:
        _open(folder.name, folder)
    except AlteredError as error:
        return str(error)
    return None


def _build(name: str, folder: Path, build: Callable[[Path], Raw]) -> Store:
    with alone(beside(folder), f"decoding {name}"):
        try:
            return _open(name, folder)  # another process may have built it while this one waited
        except AlteredError:
            log.info("decoding %s into %s", name, folder)
        _tidy(folder)
        with TemporaryDirectory(dir=folder.parent, prefix=_scratch(folder)) as scratch:
            (Path(scratch) / "unpacked").mkdir()
            raw = build(Path(scratch) / "unpacked")
            _refuse_unusable(raw, name)
            with writing(folder):
                _write(raw, Path(scratch) / "new")
                clear(folder)
                os.replace(Path(scratch) / "new", folder)
        try:
            return _open(name, folder)
        except AlteredError as error:
            raise StorageError(f"{folder} reads otherwise than it was written ({error}): check the disk") from error


def _refuse_unusable(raw: Raw, name: str) -> None:
    """What no training could use, whichever source it comes from: labels without a class, numbers that are none."""
    classes = len(raw.class_names)
    if again := [called for called, times in Counter(raw.class_names).items() if times > 1]:
        raise UserError(
            f"{name}: two classes are called '{again[0]}', and a class is known by its name: call one otherwise"
        )
    for what, split in (("training", raw.train), ("test", raw.test)):
        if not len(split):
            raise UserError(f"{name}: there are no {what} rows")
        for column, rows in split.columns().items():
            if len(rows) != len(split):
                raise UserError(f"{name}: {len(rows):,} {what} rows of {column} and {len(split):,} labels do not fit")
        lowest, highest = int(split.y.min()), int(split.y.max())
        least = NO_LABEL if split is raw.train else 0
        if lowest < least or highest >= classes:
            wrong = lowest if lowest < least else highest
            raise UserError(f"{name}: a {what} row has label {wrong}, but classes are 0 to {classes - 1}")
        if highest < 0:
            raise UserError(f"{name}: no {what} row has a label")
        if isinstance(split.x, Tensor) and split.x.is_floating_point() and not split.x.isfinite().all():
            at = int((~split.x.isfinite().flatten(1).all(1)).nonzero()[0])
            raise UserError(f"{name}: {what} row {at} holds NaN or infinite values")


def _scratch(folder: Path) -> str:
    return f".{folder.name}-"


def _tidy(folder: Path) -> None:
    """Remove what a process left that was killed while it decoded this."""
    for left in folder.parent.glob(f"{_scratch(folder)}*"):
        shutil.rmtree(left, ignore_errors=True)


def _write(raw: Raw, folder: Path) -> None:
    folder.mkdir()
    tensors = {}
    for split_name, split in (("train", raw.train), ("test", raw.test)):
        for column, rows in split.columns().items():
            path = folder / f"{split_name}_{column}.bin"
            tensors[path.stem] = _write_rows(rows, path)
    train, test = (_map(folder / f"{stem}.bin", tensors[stem]) for stem in ("train_x", "test_x"))
    mean, std = statistics(train)
    meta: dict[str, Any] = {
        "tensors": tensors,
        "class_names": raw.class_names,
        "mean": mean.tolist(),
        "std": std.tolist(),
    }
    meta |= {"skipped": raw.skipped} if raw.skipped else {}
    meta |= {"repeated": again} if (again := repeated(train, test)) else {}
    meta |= {"domain_names": raw.domain_names} if raw.domain_names else {}
    glances = {stem: _glance(folder / f"{stem}.bin") for stem in tensors}
    (folder / "meta.json").write_text(
        json.dumps({**meta, "fingerprint": _fingerprint(meta), "glances": glances}, indent=1)
    )


def _write_rows(x: Tensor | Lazy, path: Path) -> dict[str, Any]:
    """Chunk by chunk: only one of them is in memory. Returns what identifies the file's content."""
    digest, dtype = hashlib.sha256(), torch.uint8
    with path.open("wb") as file:
        for part in chunks(x):
            content = part.contiguous().numpy().reshape(-1).view("uint8").data
            file.write(content)
            digest.update(content)
            dtype = part.dtype
    return {"dtype": str(dtype).removeprefix("torch."), "shape": list(x.shape), "sha256": digest.hexdigest()}


def _open(name: str, folder: Path) -> Store:
    """Raises `AlteredError` if it is not what was written, or is being deleted at this moment."""
    try:
        return _read(name, folder)
    except OSError as error:
        raise AlteredError(str(error)) from error


def _read(name: str, folder: Path) -> Store:
    meta = _read_meta(folder)
    columns: dict[str, dict[str, Tensor]] = {"train": {}, "test": {}}
    for stem, facts in meta["tensors"].items():
        split, _, column = stem.partition("_")
        path = folder / f"{stem}.bin"
        _check(path, facts, meta["glances"].get(stem))
        columns[split][column] = _map(path, facts)
    return Store(
        name=name,
        train=Split(**columns["train"]),
        test=Split(**columns["test"]),
        class_names=tuple(meta["class_names"]),
        mean=torch.tensor(meta["mean"]),
        std=torch.tensor(meta["std"]),
        fingerprint=meta["fingerprint"],
        requested=name,
        skipped=meta.get("skipped", 0),
        repeated=meta.get("repeated", 0),
        domain_names=tuple(meta.get("domain_names", ())),
    )


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        fingerprint, glances = meta.pop("fingerprint"), meta.pop("glances", {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AlteredError(f"meta.json: {error}") from error
    if _fingerprint(meta) != fingerprint or not isinstance(glances, dict):
        raise AlteredError("meta.json was edited")
    return {**meta, "fingerprint": fingerprint, "glances": glances}


def _check(path: Path, facts: dict[str, Any], glance: dict[str, Any] | None) -> None:
    """Raises `AlteredError` unless the file is what was written: by its checksum, or if it is large by a glance.

    A file that was copied or touched has another time, and is read whole.
    """
    if path.stat().st_size > FULL_CHECK and _glance(path) == glance:
        return
    if _sha256(path) != facts["sha256"]:
        raise AlteredError(f"{path.name} has another checksum")


def _glance(path: Path) -> dict[str, Any]:
    """Size, time of change, and a checksum of blocks spread over the file."""
    stat, digest = path.stat(), hashlib.sha256()
    with path.open("rb") as file:
        for i in range(BLOCKS):
            file.seek(i * max(stat.st_size - BLOCK, 0) // (BLOCKS - 1))
            digest.update(file.read(BLOCK))
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sample": digest.hexdigest()}


def _map(path: Path, facts: dict[str, Any]) -> Tensor:
    """Private pages: whoever writes to them changes a copy, never the file.

    The kernel is told to set nothing aside for such copies, or it would refuse a file that is larger than its memory.
    """
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | NORESERVE)
    return torch.frombuffer(pages, dtype=DTYPES[facts["dtype"]]).view(facts["shape"])


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _fingerprint(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def repeated(train: Tensor, test: Tensor) -> int:
    """How many rows of `test` are among those of `train`, bit for bit.

    >>> repeated(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[3, 4], [4, 3], [3, 4]]))
    2
    """
    return int(np.isin(_marks(test), _marks(train)).sum())


def _marks(x: Tensor) -> np.ndarray:
    """`[N]` a hash of each row in 64 bits: two of a million rows that differ share one once in 40 million times."""
    rows = (row for part in chunks(x) for row in part.flatten(1).contiguous().numpy())
    return np.frombuffer(b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows), dtype=np.uint64)


def _counts(x: Tensor) -> Tensor:
    """`[C, 256]` int64: how often each channel has each value."""
    return torch.stack([torch.bincount(x[:, c].flatten(), minlength=256) for c in range(x.shape[1])])


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, per channel of images (on the [0, 1] scale) or per feature of vectors.

    A constant channel gets the deviation 1, so that dividing by it is harmless.

    >>> mean, std = statistics(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    >>> mean.tolist(), std.tolist()
    ([0.5], [0.5])
    """
    if x.dtype == torch.uint8:
        counts = sum((_counts(part) for part in chunks(x)), torch.zeros(x.shape[1], 256, dtype=torch.int64)).double()
        share, value = counts / counts.sum(1, keepdim=True), torch.arange(256).double() / 255
        mean = share @ value
        variance = (share * (value - mean[:, None]) ** 2).sum(1)
    else:
        variance, mean = torch.var_mean(x.double(), dim=0, correction=0)
    std = variance.sqrt()
    return mean.float(), torch.where(std > 0, std, 1.0).float()
