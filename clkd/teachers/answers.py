"""A teacher's answers on disk: one file of float16 that fills block by block. Nothing here loads torch.

`<cache>/answers/<key>/` holds

- `answers.bin`: for each view, each row, in the order of the blocks: the logits and then the features, as float16. The
  file is sparse: what was not answered yet takes no space.
- `present.bin`: for each view, each block: 0, or the CRC-32 of the block's answers, written after them. A process that
  is killed therefore leaves whole blocks behind, or such as are noticed and asked for again.
- `meta.json`: what the key was made from, the layout, and how to ask this teacher again.

A file that is being used is held by a lock beside it, `<key>.use`; one process at a time fills it, under `<key>.lock`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from array import array
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from clkd.cache import clear
from clkd.errors import UserError
from clkd.locks import alone, beside, unused

FORMAT = 2
"""Part of every key: raised when the layout, the blocks, or what is made of a row (views, domains) change."""
FULL = 20.0
"""Gigabytes of answers that are kept at most where `CLKD_ANSWERS_GB` says nothing."""


class AlteredError(Exception):
    """A file of answers is not what was written."""


@dataclass(slots=True)
class Answers:
    """One file of answers. `blocks` are the numbers of rows that are asked about together; `width` float16s a row.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     answers = Answers.create(Path(folder) / "key", {"width": 1, "blocks": [2, 1]})
    ...     answers.grow(views=1)
    ...     answers.write(0, 1, bytes([0, 60]))
    ...     list(answers.marks()), answers.intact(0, 1), answers.rows()
    ([0, 1857449592], True, 1)
    """

    folder: Path
    meta: dict[str, Any]
    starts: list[int] = field(default_factory=list)

    @classmethod
    def create(cls, folder: Path, meta: dict[str, Any]) -> Answers:
        """An empty file in the place of whatever was there."""
        clear(folder)
        folder.mkdir(parents=True)
        for name in ("answers.bin", "present.bin"):
            (folder / name).touch()
        answers = cls(folder, {"asked": 0, "seconds": 0.0, **meta})
        answers.save()
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Answers:
        """Raises `AlteredError` if it is not there, was edited or cut short."""
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            told = meta.pop("digest")
            answers = cls(folder, meta, list(accumulate(meta["blocks"], initial=0))[:-1])
            size, marks = (_size(folder / name) for name in ("answers.bin", "present.bin"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise AlteredError(f"{type(error).__name__}: {error}") from error
        if _digest(meta) != told:
            raise AlteredError("meta.json was edited")
        if marks % (4 * len(answers.blocks)) or size < answers.views * answers.view_bytes:
            raise AlteredError("it was cut short")
        return answers

    def save(self) -> None:
        """Write `meta.json`, whole or not at all."""
        part = self.folder / f".meta-{os.getpid()}.part"
        part.write_text(json.dumps({**self.meta, "digest": _digest(self.meta)}, indent=1), encoding="utf-8")
        os.replace(part, self.folder / "meta.json")

    @property
    def blocks(self) -> list[int]:
        blocks: list[int] = self.meta["blocks"]
        return blocks

    @property
    def row_bytes(self) -> int:
        return 2 * int(self.meta["width"])

    @property
    def view_bytes(self) -> int:
        return sum(self.blocks) * self.row_bytes

    @property
    def path(self) -> Path:
        return self.folder / "answers.bin"

    @property
    def views(self) -> int:
        """How many views there is room for."""
        return os.stat(self.folder / "present.bin").st_size // (4 * len(self.blocks))

    def grow(self, views: int) -> None:
        """Make room for more views. The answers' file goes first, so that a cut in between does no harm."""
        if views > self.views:
            os.truncate(self.path, views * self.view_bytes)
            os.truncate(self.folder / "present.bin", views * len(self.blocks) * 4)

    def marks(self) -> array[int]:
        """For each view and block, view by view: 0, or the checksum of its answers."""
        return array("I", (self.folder / "present.bin").read_bytes())

    def answered(self) -> list[tuple[int, int]]:
        """The blocks that are there, as (view, block)."""
        count = len(self.blocks)
        return [divmod(place, count) for place, mark in enumerate(self.marks()) if mark]

    def rows(self) -> int:
        """Answers that are there: each row counts once for each view."""
        blocks = self.blocks
        return sum(blocks[block] for _, block in self.answered())

    def span(self, view: int, block: int) -> tuple[int, int]:
        """Where a block's answers begin in the file, and how many bytes they are."""
        return view * self.view_bytes + self.starts[block] * self.row_bytes, self.blocks[block] * self.row_bytes

    def write(self, view: int, block: int, content: bytes) -> None:
        """A block's answers, and then the mark that they are there."""
        begin, size = self.span(view, block)
        assert len(content) == size, "a block is answered whole"
        with self.path.open("r+b") as file:
            file.seek(begin)
            file.write(content)
        with (self.folder / "present.bin").open("r+b") as file:
            file.seek(4 * (view * len(self.blocks) + block))
            file.write(array("I", [_mark(content)]).tobytes())

    def read(self, view: int, block: int) -> bytes:
        begin, size = self.span(view, block)
        with self.path.open("rb") as file:
            file.seek(begin)
            return file.read(size)

    def intact(self, view: int, block: int) -> bool:
        """Whether a block's answers are those that were written."""
        with (self.folder / "present.bin").open("rb") as file:
            file.seek(4 * (view * len(self.blocks) + block))
            mark = file.read(4)
        return mark not in (b"", bytes(4)) and mark == array("I", [_mark(self.read(view, block))]).tobytes()

    def reserve(self, view: int, block: int) -> None:
        """Take the space that a block will need, so that a full disk is known before the teacher is asked."""
        with self.path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), *self.span(view, block))

    def touch(self) -> None:
        """Note that it is used now."""
        os.utime(self.folder / "meta.json")


def _size(file: Path) -> int:
    with file.open("rb") as opened:  # which a folder in its place is not
        return os.fstat(opened.fileno()).st_size


def _mark(content: bytes) -> int:
    return zlib.crc32(content) or 1


def _digest(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def folders(root: Path) -> list[Path]:
    """All files of answers below `root`, readable or not, least recently used first."""
    return sorted((folder for folder in root.iterdir() if folder.is_dir()), key=used) if root.is_dir() else []


def used(folder: Path) -> float:
    """When a file of answers was last used, in Unix seconds; 0 if nobody can tell."""
    stat = stat_of(folder / "meta.json")
    return stat.st_mtime if stat else 0.0


def stat_of(path: Path) -> os.stat_result | None:
    """None if it is not there, or not any more: others write and delete meanwhile."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def allocated(folder: Path) -> int:
    """Bytes that a folder really takes on disk: files of answers have holes."""
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return sum(stat.st_blocks * 512 for stat in map(stat_of, files) if stat)


def remove(folder: Path) -> bool:
    """Delete a file of answers, unless somebody uses it."""
    with unused(beside(folder, "use")) as free:
        if free and folder.exists():
            shutil.rmtree(folder)
        return free


def bound() -> int:
    """Bytes that all answers together may take: `$CLKD_ANSWERS_GB`, by default 20 GB."""
    given = os.environ.get("CLKD_ANSWERS_GB", "").strip()
    try:
        gigabytes = float(given) if given else FULL
        if not 0 <= gigabytes < 1e9:
            raise ValueError
    except ValueError as error:
        raise UserError(f"CLKD_ANSWERS_GB={given}: give a number of gigabytes from 0, such as 20") from error
    return int(gigabytes * 1e9)


def make_room(root: Path, answers: Answers, missing: list[tuple[int, int]]) -> bool:
    """Take the space for the `missing` blocks (view, block) of one file, within the bound and the disk.

    Files that nobody uses make way, least recently used first, but only if that is enough. Space that a run took which
    was killed meanwhile is not asked for again.
    """
    asked, held = set(missing), allocated(answers.folder)
    whole = max(held, sum(answers.span(*place)[1] for place in asked | set(answers.answered())))
    with alone(root / ".lock", "making room"):
        others = {folder: allocated(folder) for folder in folders(root) if folder != answers.folder}
        over = max(sum(others.values()) + whole - bound(), whole - held - shutil.disk_usage(root).free)
        if over > sum(size for folder, size in others.items() if _idle(folder)):
            return False
        for folder, size in others.items():
            if over > 0 and remove(folder):
                over -= size
        for place in missing if over <= 0 else ():
            answers.reserve(*place)
        return over <= 0


def _idle(folder: Path) -> bool:
    with unused(beside(folder, "use")) as free:
        return free
