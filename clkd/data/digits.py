"""The handwritten digits that scikit-learn brings along: real data that needs no network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from clkd.data.source import Found, Places, Raw, Source, Split, holdout


@dataclass(kw_only=True)
class Digits(Source):
    """UCI optdigits (Alpaydin and Kaynak 1998) as in `sklearn.datasets.load_digits`: 1,797 images of 8×8 pixels.

    Its 17 grey levels are spread over 0…255. A fifth of each class is test data, the same rows in every run.
    """

    def find(self, places: Places) -> Found:
        return Found((), read)


def read(scratch: Path) -> Raw:
    """All rows, scaled and split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    whole = Split(images, torch.from_numpy(bunch.target).long())
    kept, held = holdout(whole.y, 0.2)
    return Raw(whole.rows(kept), whole.rows(held), tuple("0123456789"))
