"""Images in folders, one folder per class, decoded by a pool of threads."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from clkd.data.source import Found, Lazy, Places, Raw, Source, Split, holdout
from clkd.errors import Interrupted, UserError, did_you_mean, one_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

log = logging.getLogger("clkd.data")

CHUNK = 64
"""Pictures that a thread decodes at a time."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A picture inside an archive."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


@dataclass(kw_only=True)
class ImageFolder(Source):
    """`path/train/CLASS/*` and `path/test/CLASS/*`, or `path/CLASS/*` with an automatic split.

    `path/train/CLASS/*` alone is split, too. Class ids follow the sorted folder names. Images become RGB unless
    `channels` is 1. Hidden files, and those that are not images by their suffix, are left alone.
    """

    path: str
    test_fraction: float = 0.2
    skip_corrupt: bool = False

    def find(self, places: Places) -> Found:
        folder = places.resolve(self.path)
        if not folder.is_dir():
            raise UserError(f"path: {folder} is no folder: give one that holds a folder of images per class")
        split = (folder / "train").is_dir() and (folder / "test").is_dir()
        train = folder / "train" if split or folders_in(folder) == ["train"] else folder
        classes = folders_in(train)
        if not classes:
            raise UserError(f"{train} has no folders: give one folder of images per class")
        return find_images(train, folder / "test" if split else None, classes, self)

    def held_out(self, whole: Split) -> tuple[Split, Split]:
        kept, held = holdout(whole.y, self.test_fraction)
        return whole.rows(kept), whole.rows(held)


def find_images(train: Path, test: Path | None, classes: Sequence[str], source: Source) -> Found:
    """The images of `classes`, in their order, below `train` and `test`."""
    strangers = set(folders_in(test)) - set(classes) if test else set()
    for name in sorted(strangers):
        raise UserError(f"{test}/{name}: no such class in {train}, {did_you_mean(name, classes)}")
    parts = [_files(folder, classes) for folder in (train, test) if folder]
    files = tuple(path for part in parts for paths in part for path in paths)
    return Found(files, partial(_read, parts, tuple(classes), source))


def folders_in(folder: Path) -> list[str]:
    """The names of its visible subfolders, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def is_image(name: str) -> bool:
    """Whether a file's suffix says that it is an image. Hidden ones are none: macOS leaves them beside pictures."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _files(folder: Path, classes: Sequence[str]) -> list[list[Path]]:
    """The images of each class, sorted by name."""
    found = []
    for name in classes:
        place = folder / name
        names = sorted(filter(is_image, os.listdir(place))) if place.is_dir() else []  # five times as fast as glob
        paths = [place / image for image in names]
        if not paths:
            raise UserError(f"{place} has no images ({', '.join(SUFFIXES)}){_remedy(place)}")
        found.append(paths)
    return found


def _remedy(folder: Path) -> str:
    """What may be meant where a folder of classes stands in for a class."""
    below = folders_in(folder) if folder.is_dir() else []
    return f" but folders, such as {below[0]}: name folders of classes train and test" if below else ""


def _read(parts: list[list[list[Path]]], classes: tuple[str, ...], source: Source, scratch: Path) -> Raw:
    total = _count(parts)
    if getattr(source, "skip_corrupt", False):
        parts = [_sound(part, classes) for part in parts]
    splits = [decode(part, source) for part in parts]
    if len(splits) == 1:
        assert isinstance(source, ImageFolder), "only this source may come without a test folder"
        splits = list(source.held_out(splits[0]))
    return Raw(splits[0], splits[1], classes, total - _count(parts))


def _count(parts: list[list[list[Path]]]) -> int:
    return sum(len(paths) for part in parts for paths in part)


def _sound(pictures: list[list[Path]], classes: tuple[str, ...]) -> list[list[Path]]:
    """Those that can be decoded; the others are named. Each is decoded here and, for its rows, once more."""
    kept = []
    with ThreadPoolExecutor() as pool:
        for name, paths in zip(classes, pictures, strict=True):
            faults = list(pool.map(_fault, paths))
            for fault in filter(None, faults):
                log.warning("left out: %s", fault)
            kept.append([path for path, fault in zip(paths, faults, strict=True) if not fault])
            if not kept[-1]:
                raise UserError(
                    f"class '{name}' has no picture that can be read: {paths[0]} and all others are corrupt"
                )
    return kept


def _fault(picture: Path) -> str | None:
    """Why a picture cannot be decoded; None if it can."""
    try:
        _opened(picture, "RGB")
    except UnreadableError as error:
        return str(error)
    return None


def decode(pictures: Sequence[Sequence[Path | Packed]], source: Source) -> Split:
    """All pictures of all classes, `pictures[c]` those of class c: RGB, or grey if `channels` is 1.

    Only the first is decoded here, for its size; the others when their rows are written.

    Raises:
        UserError: a picture cannot be read, or (then) differs in size from the first one while no `size` is given.
    """
    mode = "L" if source.channels == 1 else "RGB"
    every = [picture for part in pictures for picture in part]
    first = _decode(every[0], mode, source.size)

    def pixels(at: int) -> NDArray[np.uint8]:
        image = _decode(every[at], mode, source.size)
        if image.shape != first.shape:
            raise UserError(
                f"{every[at]} has {image.shape[1]}×{image.shape[0]} pixels and {every[0]} {first.shape[1]}×"
                f"{first.shape[0]}: give the data set a size for all, such as `size: {first.shape[0]}`"
            )
        return image

    def make(at: Tensor) -> Tensor:
        x = np.empty((len(at), *first.shape), dtype=np.uint8)
        places = at.tolist()

        def fill(start: int) -> None:
            for place in range(start, min(start + CHUNK, len(places))):
                x[place] = pixels(places[place])

        with ThreadPoolExecutor() as pool:
            list(pool.map(fill, range(0, len(places), CHUNK)))  # raises what a thread raised
        return torch.from_numpy(x).permute(0, 3, 1, 2)

    height, width, channels = first.shape
    labels = torch.arange(len(pictures)).repeat_interleave(torch.tensor([len(part) for part in pictures]))
    return Split(Lazy((len(every), channels, height, width), make), labels)


def _decode(picture: Path | Packed, mode: str, size: int | None) -> NDArray[np.uint8]:
    """One picture as `[H, W, C]` uint8."""
    try:
        pixels = _opened(picture, mode)
    except UnreadableError as error:
        raise UserError(f"{error} (`skip_corrupt: true` leaves such pictures out)") from error
    if size is not None and pixels.size != (size, size):
        pixels = pixels.resize((size, size), Image.Resampling.BILINEAR)
    array = np.asarray(pixels)
    return array[:, :, None] if mode == "L" else array


class UnreadableError(Exception):
    """A picture that cannot be decoded, and why."""


def _of_eight_bits(image: Image.Image) -> Image.Image:
    """The same with 8 bits a pixel: Pillow's own conversion cuts 16 bits off at 255, which leaves white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its pixels are signed or of 32 bits, and nobody knows their range: save it with 8 or 16 bits")
    return image


def _opened(picture: Path | Packed, mode: str) -> Image.Image:
    try:
        with Image.open(picture if isinstance(picture, Path) else BytesIO(picture.content)) as image:
            return _of_eight_bits(image).convert(mode)
    except Interrupted:
        raise
    except Exception as error:  # PIL and its decoders raise almost anything for a file that they cannot read
        reason = "its content is none" if isinstance(error, UnidentifiedImageError) else one_line(str(error), 200)
        raise UnreadableError(f"{picture} cannot be read as an image: {reason or type(error).__name__}") from error
