"""The base of every source: where a data set may lie, what was found there, and what reading it gives."""

from __future__ import annotations

import math
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal
from urllib.request import urlopen

import torch
from torch import Tensor

from clkd.errors import Interrupted, UserError
from clkd.options import Part
from clkd.seeding import generator

if TYPE_CHECKING:
    from clkd.data.store import Store

TIMEOUT = 10.0
"""Seconds that a download may stay silent before it counts as failed."""


class UnavailableError(UserError):
    """A data set can be had nowhere; a scenario's `offline` data set may take its place."""


CHUNK_BYTES = 64 * 2**20
"""Decoded pixels that are held at a time, which bounds the memory that decoding takes."""


@dataclass(frozen=True, slots=True)
class Lazy:
    """Rows that are made when they are asked for, so that a data set need not fit into memory.

    Attributes:
        shape: `(N, C, H, W)` of all rows, which are uint8.
        make: the rows at some positions (`[n]` int64).

    >>> rows = Lazy((3, 1, 1, 1), lambda at: at.to(torch.uint8).view(-1, 1, 1, 1))
    >>> [part.flatten().tolist() for part in chunks(rows[torch.tensor([2, 0])])]
    [[2, 0]]
    """

    shape: tuple[int, ...]
    make: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: Tensor) -> Lazy:
        """Only the rows at `at`."""
        return Lazy((len(at), *self.shape[1:]), lambda some: self.make(at[some]))

    def then(self, change: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Lazy:
        """The same rows after `change`, which makes each of them `shape`."""
        return Lazy((len(self), *shape), lambda some: change(self.make(some)))


def chunks(x: Tensor | Lazy) -> Iterator[Tensor]:
    """All rows in order, a bounded number of bytes at a time."""
    whole = x if isinstance(x, Tensor) else None
    row = max(1, math.prod(x.shape[1:]) * (1 if whole is None else whole.element_size()))
    for at in torch.split(torch.arange(len(x)), max(1, CHUNK_BYTES // row)):
        yield x.make(at) if isinstance(x, Lazy) else x[at[0] : at[-1] + 1]


@dataclass(frozen=True, slots=True)
class Split:
    """The training or the test rows of a data set.

    Attributes:
        x: `[N, C, H, W]` uint8, or `[N, D]` float32; `Lazy` where it is still to be decoded.
        y: `[N]` int64 class ids; -1 for a training row without a label.
        experience: `[N]` int64, the experience each row belongs to, where the data says so. In test rows -1 means all.
        domain: `[N]` int64, the domain each row belongs to, where the data says so.
    """

    x: Any
    y: Tensor
    experience: Tensor | None = None
    domain: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    def columns(self) -> dict[str, Any]:
        """The tensors that are there, by name."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}

    def rows(self, at: Tensor) -> Split:
        """Only the rows at `at`."""
        return Split(**{name: column[at] for name, column in self.columns().items()})


@dataclass(frozen=True, slots=True)
class Raw:
    """A data set as it was read, before it is converted and stored."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
    skipped: int = 0
    """Corrupt pictures that were left out."""
    domain_names: tuple[str, ...] = ()
    """One per domain id, where they have names."""


@dataclass(frozen=True, slots=True)
class Found:
    """The files that determine a data set, and how to read them, given a scratch folder for what has to be unpacked."""

    files: tuple[Path, ...]
    read: Callable[[Path], Raw]
    content: tuple[str, ...] = ()
    """Hashes of what determines it beside files."""
    stand_in: str | None = None
    """The data set that took the place of a part of it."""


def _nothing(part: Part) -> Store:
    raise NotImplementedError("whoever prepares data sets passes it")


@dataclass(frozen=True, slots=True)
class Places:
    """Where data is looked for: the data set's `root`, `$CLKD_DATA`, the cache's downloads, in this order."""

    base: Path
    cache: Path
    root: str | None = None
    prepare: Callable[[Part], Store] = _nothing
    """Prepares a data set that this one is made of."""

    @property
    def downloads(self) -> Path:
        return self.cache / "downloads"

    def folders(self) -> list[Path]:
        given = (self.root, os.environ.get("CLKD_DATA"))
        return [*(self.base / os.path.expanduser(place) for place in given if place), self.downloads]

    def resolve(self, path: str) -> Path:
        """The file or folder that an option names: absolute, in `root`, beside the scenario, or in `$CLKD_DATA`."""
        candidates = [self.base / os.path.expanduser(path), *(folder / path for folder in self.folders())]
        ordered = [candidates[1], candidates[0], *candidates[2:]] if self.root else candidates
        for candidate in ordered:
            if candidate.exists():
                return candidate
        looked = ", ".join(dict.fromkeys(str(candidate) for candidate in ordered))
        raise UnavailableError(f"path '{path}' does not exist; looked for {looked}")


@dataclass(kw_only=True)
class Source:
    """A data set, as its options describe it. Override `find`.

    A subclass is a keyword-only dataclass too: its fields are its options. Those below belong to every data set; all
    but `root` are obeyed by `prepare`, so a source need not look at them.
    """

    root: str | None = None
    offline: Part | None = None
    size: int | None = None
    channels: Literal[1, 3] | None = None
    rows_per_class: int | None = None

    def find(self, places: Places) -> Found:
        """Where the data set lies now. Nothing is decoded here.

        Raises:
            UnavailableError: it can be had nowhere.
        """
        raise NotImplementedError


@dataclass(kw_only=True)
class Published(Source):
    """A data set that everybody can download. Override the three methods."""

    def look_in(self, folder: Path) -> Found | None:
        """The data set, if `folder` holds it in any layout people keep it in."""
        raise NotImplementedError

    def origin(self) -> tuple[str, str]:
        """Its name, and an address that answers if it can be downloaded at all."""
        raise NotImplementedError

    def download(self, target: Path) -> None:
        """Put it into the folder `target`."""
        raise NotImplementedError

    def find(self, places: Places) -> Found:
        for folder in places.folders():
            if found := self.look_in(folder):
                return found
        name, address = self.origin()
        reason = _download(name, address, self.download, places.downloads)
        if found := self.look_in(places.downloads):  # though it failed: another process may have brought it meanwhile
            return found
        assert reason, f"{name} was just downloaded to {places.downloads / name}"
        raise UnavailableError(
            f"{name} is not in {', '.join(map(str, places.folders()))}, and downloading it failed ({reason}); "
            "set CLKD_DATA or the data set's `root` to a folder that holds it, or declare `offline: digits`"
        )


_failed: dict[str, str] = {}
"""Downloads that failed in this process, with the reason: they are not tried again."""


def _download(name: str, address: str, download: Callable[[Path], None], downloads: Path) -> str | None:
    """Fetch into `downloads/name`, all or nothing. Returns why that failed, or None."""
    if os.environ.get("CLKD_OFFLINE") == "1":
        return "CLKD_OFFLINE=1 forbids it"
    if name not in _failed:
        silence = socket.getdefaulttimeout()
        socket.setdefaulttimeout(TIMEOUT)
        try:
            _fetch(address, download, downloads / name)
        except Interrupted:
            raise
        except Exception as error:  # whatever a network or its libraries raise: it is reported, with the way out
            _failed[name] = f"{type(error).__name__}: {error}"
        finally:
            socket.setdefaulttimeout(silence)
    return _failed.get(name)


def _fetch(address: str, download: Callable[[Path], None], target: Path) -> None:
    urlopen(address).close()  # an unreachable server is known before torchvision is imported (2 s)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder, redirect_stdout(sys.stderr):
        download(Path(folder) / "new")
        os.replace(Path(folder) / "new", target)


def holdout(y: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Positions of the rows that stay and of those held out: `fraction` of each class, the same in every run.

    Rows without a label (-1) all stay.

    >>> kept, held = holdout(torch.tensor([0] * 10 + [1] * 5), 0.2)
    >>> len(kept), len(held)
    (12, 3)
    """
    draw = torch.rand(len(y), generator=generator(0, "holdout"))
    held = []
    for label in torch.unique(y[y >= 0]).tolist():
        rows = (y == label).nonzero().flatten()
        held.append(rows[draw[rows].argsort()[: round(len(rows) * fraction)]])
    out = torch.cat(held).sort().values if held else draw[:0].long()
    if not len(out):
        raise UserError(f"test_fraction: {fraction:g} of each class is not one row: raise it, or give test rows")
    stays = torch.ones(len(y), dtype=torch.bool)
    stays[out] = False
    return stays.nonzero().flatten(), out
