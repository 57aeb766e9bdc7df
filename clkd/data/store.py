"""The tensor store: a data set decoded once, kept in the cache as raw binary files and mapped into memory.

`<cache>/data/<name>-<key>/` holds one file per tensor and `meta.json` with types, shapes, checksums, class names and
statistics. Contents are checked at every opening; what was altered or cut short is decoded again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from clkd.cache import alone
from clkd.data.source import Raw, Split

log = logging.getLogger("clkd.data")

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
    if (folder / "meta.json").exists():
        try:
            return _open(name, folder)
        except AlteredError as error:
            log.warning("%s was altered (%s): decoding %s again", folder, error, name)
    return _build(name, folder, build)


def _build(name: str, folder: Path, build: Callable[[Path], Raw]) -> Store:
    with alone(folder.with_name(folder.name + ".lock"), f"decoding {name}"):
        try:
            return _open(name, folder)  # another process may have built it while this one waited
        except AlteredError:
            log.info("decoding %s into %s", name, folder)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as scratch:
            (Path(scratch) / "unpacked").mkdir()
            raw = build(Path(scratch) / "unpacked")
            _write(raw, Path(scratch) / "new")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(Path(scratch) / "new", folder)
        return _open(name, folder)


def _write(raw: Raw, folder: Path) -> None:
    folder.mkdir()
    tensors = {}
    for split_name, split in (("train", raw.train), ("test", raw.test)):
        for column, tensor in split.columns().items():
            path = folder / f"{split_name}_{column}.bin"
            tensor.contiguous().numpy().tofile(path)
            dtype = str(tensor.dtype).removeprefix("torch.")
            tensors[path.stem] = {"dtype": dtype, "shape": list(tensor.shape), "sha256": _sha256(path)}
    mean, std = statistics(raw.train.x)
    meta = {"tensors": tensors, "class_names": raw.class_names, "mean": mean.tolist(), "std": std.tolist()}
    (folder / "meta.json").write_text(json.dumps({**meta, "fingerprint": _fingerprint(meta)}, indent=1))


def _open(name: str, folder: Path) -> Store:
    meta = _read_meta(folder)
    columns: dict[str, dict[str, Tensor]] = {"train": {}, "test": {}}
    for stem, facts in meta["tensors"].items():
        split, _, column = stem.partition("_")
        columns[split][column] = _map(folder / f"{stem}.bin", facts)
    return Store(
        name=name,
        train=Split(**columns["train"]),
        test=Split(**columns["test"]),
        class_names=tuple(meta["class_names"]),
        mean=torch.tensor(meta["mean"]),
        std=torch.tensor(meta["std"]),
        fingerprint=meta["fingerprint"],
        requested=name,
    )


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        fingerprint = meta.pop("fingerprint")
    except (OSError, ValueError, KeyError) as error:
        raise AlteredError(f"meta.json: {error}") from error
    if _fingerprint(meta) != fingerprint:
        raise AlteredError("meta.json was edited")
    return {**meta, "fingerprint": fingerprint}


def _map(path: Path, facts: dict[str, Any]) -> Tensor:
    if not path.exists() or _sha256(path) != facts["sha256"]:
        raise AlteredError(f"{path.name} is missing or has another checksum")
    count = torch.Size(facts["shape"]).numel()
    # Private pages: whoever writes to them changes a copy, never the file.
    flat = torch.from_file(str(path), shared=False, size=count, dtype=DTYPES[facts["dtype"]])
    return flat.view(facts["shape"])


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _fingerprint(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, per channel of images (on the [0, 1] scale) or per feature of vectors.

    A constant channel gets the deviation 1, so that dividing by it is harmless.

    >>> mean, std = statistics(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    >>> mean.tolist(), std.tolist()
    ([0.5], [0.5])
    """
    if x.dtype == torch.uint8:
        counts = torch.stack([torch.bincount(x[:, c].flatten(), minlength=256) for c in range(x.shape[1])]).double()
        share, value = counts / counts.sum(1, keepdim=True), torch.arange(256).double() / 255
        mean = share @ value
        variance = (share * (value - mean[:, None]) ** 2).sum(1)
    else:
        variance, mean = torch.var_mean(x.double(), dim=0, correction=0)
    std = variance.sqrt()
    return mean.float(), torch.where(std > 0, std, 1.0).float()
