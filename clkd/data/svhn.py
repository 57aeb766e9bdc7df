"""Street View House Numbers in its published Matlab files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clkd import vision
from clkd.data.source import Found, Published, Raw, Split
from clkd.errors import Interrupted, UserError, one_line

FILES = ("train_32x32.mat", "test_32x32.mat")


@dataclass(kw_only=True)
class Svhn(Published):
    """SVHN (Netzer et al. 2011), cropped digits: 73,257 + 26,032 colour images of 32×32 pixels.

    In each place, the place itself and its folders `svhn` and `SVHN` are looked at.
    """

    trust: bool = False

    def origin(self) -> tuple[str, str]:
        return "svhn", "http://ufldl.stanford.edu/housenumbers/test_32x32.mat"

    def download(self, target: Path) -> None:
        for split in ("train", "test"):
            self._class()(str(target), split=split, download=True)

    def look_in(self, folder: Path) -> Found | None:
        for place in (folder, folder / "svhn", folder / "SVHN"):
            files = tuple(place / name for name in FILES)
            if all(path.is_file() for path in files):
                return Found(files, partial(self._read, place))
        return None

    def _read(self, folder: Path, scratch: Path) -> Raw:
        try:
            train, test = (self._class()(str(folder), split=split) for split in ("train", "test"))
        except RuntimeError as error:
            raise UserError(
                f"{folder} does not hold the published SVHN (a checksum differs); fetch it again, or set `trust: true` "
                "if you made these files yourself"
            ) from error
        except Interrupted:
            raise
        except Exception as error:  # trusted files may hold anything, and SciPy raises as much
            raise UserError(f"{folder}: its files cannot be read as SVHN's: {one_line(str(error), 200)}") from error
        return Raw(_split(train), _split(test), tuple("0123456789"))

    def _class(self) -> Any:
        """torchvision's class; where these files are trusted, without the checksums that it would compare."""
        vision.torchvision()
        from torchvision.datasets import SVHN

        if not self.trust:
            return SVHN
        return type(
            "SVHN", (SVHN,), {"split_list": {k: [url, name, None] for k, (url, name, _) in SVHN.split_list.items()}}
        )


def _split(dataset: Any) -> Split:
    return Split(torch.from_numpy(np.ascontiguousarray(dataset.data)), torch.from_numpy(dataset.labels))
