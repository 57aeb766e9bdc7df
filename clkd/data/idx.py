"""MNIST and Fashion-MNIST in the IDX format, plain or gzipped."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from clkd import vision
from clkd.data.source import Found, Published, Raw, Split
from clkd.errors import FULL, Interrupted, UserError, one_line, writing

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(kw_only=True)
class Mnist(Published):
    """MNIST (LeCun et al. 1998): 60,000 + 10,000 handwritten digits of 28×28 grey pixels.

    In each place, `MNIST/raw`, `raw` and the place itself are looked at.
    """

    name: ClassVar[str] = "mnist"
    official: ClassVar[str] = "MNIST"
    classes: ClassVar[tuple[str, ...]] = tuple("0123456789")
    url: ClassVar[str] = "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz"
    packaged: ClassVar[Path | None] = None
    """Where an operating system's package puts it."""

    def origin(self) -> tuple[str, str]:
        return self.name, self.url

    def download(self, target: Path) -> None:
        vision.torchvision()
        from torchvision import datasets

        getattr(datasets, self.official)(str(target), download=True)

    def look_in(self, folder: Path) -> Found | None:
        own = folder / self.name
        places = (
            folder / self.official / "raw",
            own / self.official / "raw",
            own,
            folder / "raw",
            folder,
            self.packaged,
        )
        for place in places:
            files = [_plain_or_gzipped(place / name) for name in FILES] if place else [None]
            present = tuple(path for path in files if path)
            if len(present) == len(FILES):
                return Found(present, partial(self._read, present))
        return None

    def _read(self, files: tuple[Path, ...], scratch: Path) -> Raw:
        vision.torchvision()
        from torchvision.datasets.mnist import read_image_file, read_label_file

        splits = []
        for images, labels in (files[:2], files[2:]):
            try:
                x, y = read_image_file(str(_plain(images, scratch))), read_label_file(str(_plain(labels, scratch)))
            except Interrupted:
                raise
            except Exception as error:  # torchvision and gzip raise almost anything for bytes that are not theirs
                if isinstance(error, OSError) and error.errno in FULL:  # while unpacking: it is no fault of the files
                    with writing(scratch):
                        raise
                reason = one_line(str(error), 200)
                raise UserError(
                    f"{images} and {labels.name} cannot be read as IDX files ({reason}); fetch them again"
                ) from error
            if len(x) != len(y):
                raise UserError(f"{images} has {len(x):,} images, {labels.name} {len(y):,} labels; fetch them again")
            splits.append(Split(x.unsqueeze(1), y))
        return Raw(splits[0], splits[1], self.classes)


@dataclass(kw_only=True)
class FashionMnist(Mnist):
    """Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 pictures of clothing, in MNIST's format.

    Debian's package `dataset-fashion-mnist` is found as well.
    """

    name: ClassVar[str] = "fashion_mnist"
    official: ClassVar[str] = "FashionMNIST"
    classes: ClassVar[tuple[str, ...]] = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
    url: ClassVar[str] = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-labels-idx1-ubyte.gz"
    packaged: ClassVar[Path | None] = Path("/usr/share/datasets/fashion-mnist")


def _plain_or_gzipped(path: Path) -> Path | None:
    packed = path.with_name(path.name + ".gz")
    return path if path.is_file() else packed if packed.is_file() else None


def _plain(path: Path, scratch: Path) -> Path:
    """The file itself, or its contents unpacked into `scratch`: the place it was found in may be read-only."""
    if path.suffix != ".gz":
        return path
    with gzip.open(path) as packed, (scratch / path.stem).open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    return scratch / path.stem
