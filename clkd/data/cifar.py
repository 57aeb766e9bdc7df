"""CIFAR-10 and CIFAR-100, as published or as folders of images.

The published batches are Python pickles, and unpickling can run any code. torchvision compares their checksums with
the published ones before it opens them, and so only genuine files are unpickled, unless `trust: true` says otherwise.
"""

from __future__ import annotations

import lzma
import re
import tarfile
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any, ClassVar

import numpy as np
import torch

from clkd import vision
from clkd.data.image_folder import Packed, decode, find_images, folders_in, is_image
from clkd.data.source import Found, Published, Raw, Split
from clkd.errors import Interrupted, UserError, one_line

MOST_UNPACKED = 2**30
"""Bytes in an archive; CIFAR has 190 million."""


@dataclass(kw_only=True)
class Cifar10(Published):
    """CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32×32 pixels in 10 classes.

    In each place, and in its folder `cifar10`, these are accepted: the folder `cifar-10-batches-py` or its contents,
    folders `train/CLASS` and `test/CLASS` of images, and an archive (tar.gz, tar.xz) of any of these whose name
    contains `cifar10` or `cifar-10`.
    """

    trust: bool = False

    name: ClassVar[str] = "cifar10"
    official: ClassVar[str] = "CIFAR10"
    batches: ClassVar[str] = "cifar-10-batches-py"
    files: ClassVar[tuple[str, ...]] = ("batches.meta", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
    archive: ClassVar[str] = r"cifar-?10(?!0)(?!.*(binary|matlab)).*\.(tar\.gz|tgz|tar\.xz)$"
    classes: ClassVar[Sequence[str]] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    url: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"

    def origin(self) -> tuple[str, str]:
        return self.name, self.url

    def download(self, target: Path) -> None:
        self._class()(str(target), download=True)

    def look_in(self, folder: Path) -> Found | None:
        for place in (folder, folder / self.name):
            if place.is_dir() and (found := self._unpacked(place) or self._packed(place)):
                return found
        return None

    def _unpacked(self, folder: Path) -> Found | None:
        for place in (folder, folder / self.batches):
            files = tuple(place / name for name in self.files)
            if all(path.is_file() for path in files):
                return Found(files, partial(self._read_batches, place))
        train, test = folder / "train", folder / "test"
        if train.is_dir() and test.is_dir() and self._is_mine(names := folders_in(train)):
            return find_images(train, test, self._in_order(names), self)
        return None

    def _is_mine(self, names: Sequence[str]) -> bool:
        return list(names) == sorted(self.classes)

    def _in_order(self, names: Sequence[str]) -> Sequence[str]:
        return self.classes

    def _packed(self, folder: Path) -> Found | None:
        for path in sorted(folder.iterdir()):
            if re.search(self.archive, path.name.lower()) and path.is_file():
                return Found((path,), partial(self._read_archive, path))
        return None

    def _read_archive(self, archive: Path, scratch: Path) -> Raw:
        """Batches go to `scratch` under their known names; images are decoded without touching the disk."""
        contents = _contents(archive)
        batches = {name: data for path, data in contents.items() if (name := PurePath(path).name) in self.files}
        if len(batches) == len(self.files):
            for name, data in batches.items():
                (scratch / name).write_bytes(data)
            return self._read_batches(scratch, scratch)
        train, test = (_pictures(archive, contents, split) for split in ("train", "test"))
        names = sorted(train)
        if names != sorted(test) or not self._is_mine(names):
            raise UserError(f"{archive} holds neither {self.batches} nor train/CLASS and test/CLASS of {self.name}")
        splits = [decode([part[name] for name in self._in_order(names)], self) for part in (train, test)]
        return Raw(splits[0], splits[1], tuple(self._in_order(names)))

    def _read_batches(self, folder: Path, scratch: Path) -> Raw:
        """Through torchvision, which wants the folder under its published name: a link gives it that."""
        root = scratch / "torchvision"
        root.mkdir()
        (root / self.batches).symlink_to(folder.resolve())
        with warnings.catch_warnings():
            # NumPy's dtypes were pickled by an older NumPy, in a spelling that NumPy 2.4 deprecates.
            warnings.filterwarnings("ignore", message=r".*align should be passed")
            try:
                train, test = (self._class()(str(root), train=which) for which in (True, False))
            except RuntimeError as error:
                raise UserError(
                    f"{folder} does not hold the published {self.name} (a checksum differs); fetch it again, or set "
                    "`trust: true` if you made these files yourself"
                ) from error
            except Interrupted:
                raise
            except Exception as error:  # trusted files may hold anything, and unpickling raises as much
                raise UserError(
                    f"{folder}: its files cannot be read as batches of {self.name}: {one_line(str(error), 200)}"
                ) from error
        return Raw(_split(train), _split(test), tuple(train.classes))

    def _class(self) -> Any:
        """torchvision's class; where these files are trusted, without the checksums that it would compare."""
        vision.torchvision()
        from torchvision import datasets

        official = getattr(datasets, self.official)
        if not self.trust:
            return official
        unchecked = {
            which: [[name, None] for name, _ in getattr(official, which)] for which in ("train_list", "test_list")
        }
        return type(self.official, (official,), {**unchecked, "meta": {**official.meta, "md5": None}})


@dataclass(kw_only=True)
class Cifar100(Cifar10):
    """CIFAR-100 (Krizhevsky 2009) with its fine labels; found like CIFAR-10, under its own names."""

    name: ClassVar[str] = "cifar100"
    official: ClassVar[str] = "CIFAR100"
    batches: ClassVar[str] = "cifar-100-python"
    files: ClassVar[tuple[str, ...]] = ("meta", "train", "test")
    archive: ClassVar[str] = r"cifar-?100(?!.*(binary|matlab)).*\.(tar\.gz|tgz|tar\.xz)$"
    url: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"

    def _is_mine(self, names: Sequence[str]) -> bool:
        return len(names) == 100

    def _in_order(self, names: Sequence[str]) -> Sequence[str]:
        return names  # the published order is alphabetical, too


def _split(dataset: Any) -> Split:
    images = np.ascontiguousarray(dataset.data.transpose(0, 3, 1, 2))
    return Split(torch.from_numpy(images), torch.tensor(dataset.targets, dtype=torch.int64))


def _contents(archive: Path) -> dict[str, bytes]:
    """All plain files of an archive. Nothing is written, so no name in it can lead anywhere.

    Compression can make a small file say a lot, so what it says is bounded.
    """
    contents: dict[str, bytes] = {}
    room = MOST_UNPACKED
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                room -= member.size
                if room < 0:
                    raise UserError(f"{archive} unpacks to more than {MOST_UNPACKED / 2**30:g} GiB: this is no CIFAR")
                if member.isfile() and (file := tar.extractfile(member)):
                    contents[member.name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{archive} cannot be unpacked: {error}; fetch it again") from error
    return contents


def _pictures(archive: Path, contents: dict[str, bytes], split: str) -> dict[str, list[Packed]]:
    """The pictures of each class below `split`, sorted by name as in a folder."""
    found: dict[str, list[Packed]] = {}
    for path in sorted(contents):
        parts = PurePath(path).parts
        if parts[-3:-2] == (split,) and is_image(parts[-1]):
            found.setdefault(parts[-2], []).append(Packed(f"{archive}: {path}", contents[path]))
    return found
