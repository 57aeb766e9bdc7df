"""Built-in data sets keep the laws, and every law catches a data set that breaks it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clkd.data.arrays import Arrays
from clkd.data.digits import Digits
from clkd.data.image_folder import ImageFolder
from clkd.data.source import Found, Lazy, Raw, Source, Split
from clkd.testing import tiny
from clkd.testing.contract import check, check_dataset
from clkd.testing.dataset_laws import DATASET_LAWS


def test_the_bundled_digits_keep_the_contract():
    check_dataset(Digits)


def test_an_image_folder_keeps_it(tmp_path):
    draw = np.random.default_rng(0)
    for label, i in itertools.product(("cat", "dog"), range(10)):
        path = tmp_path / "images" / label / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    check_dataset(lambda: ImageFolder(path="images"), base=tmp_path)


def test_an_npz_file_keeps_it(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=(40, 3)), y=np.arange(40) % 4)
    check_dataset(lambda: Arrays(path="a.npz"), base=tmp_path)


@dataclass(kw_only=True)
class Plain(Source):
    """The stream of `clkd.testing.tiny`; the broken ones below change one thing each."""

    def find(self, places):
        return Found((), self.read)

    def read(self, scratch):
        return Raw(tiny.split(8, 0), tiny.split(4, 1), tiny.CLASSES)

    def changed(self, **columns):
        raw = Plain.read(self, Path())
        return replace(raw, train=replace(raw.train, **columns))


class Lost(Plain):
    def find(self, places):
        return Found((places.base / "nowhere.bin",), self.read)


class Floating(Plain):
    def read(self, scratch):
        return self.changed(x=Plain.read(self, scratch).train.x.float() / 255)


class Narrow(Plain):
    def read(self, scratch):
        return self.changed(y=Plain.read(self, scratch).train.y.int())


class Shifted(Plain):
    """Counts classes from 1."""

    def read(self, scratch):
        return self.changed(y=Plain.read(self, scratch).train.y + 1)


class Absent(Plain):
    def read(self, scratch):
        raw = Plain.read(self, scratch)
        return replace(raw, test=raw.test.rows((raw.test.y != 2).nonzero().flatten()))


class Leaking(Plain):
    """Its test rows are training rows."""

    def read(self, scratch):
        raw = Plain.read(self, scratch)
        return replace(raw, test=raw.train.rows(torch.arange(0, 32, 2)))


class Shuffled(Plain):
    def read(self, scratch):
        raw = Plain.read(self, scratch)
        return replace(raw, train=raw.train.rows(torch.randperm(len(raw.train))))


class Fleeting(Plain):
    """Rows that are made anew, with noise, whenever they are asked for."""

    def read(self, scratch):
        x = Plain.read(self, scratch).train.x
        noisy = Lazy(tuple(x.shape), lambda at: torch.randint(0, 255, (len(at), *x.shape[1:]), dtype=torch.uint8))
        return self.changed(x=noisy)


BROKEN = {
    "found": Lost, "rows": Floating, "columns": Narrow, "labels": Shifted, "classes": Absent, "disjoint": Leaking,
    "repeatable": Shuffled,
}  # fmt: skip


def test_the_plain_example_keeps_the_contract():
    check_dataset(Plain)


@pytest.mark.parametrize("law", [law for law in DATASET_LAWS if law != "stored"])
def test_each_law_catches_a_data_set_that_breaks_it(law, tmp_path):
    with pytest.raises(AssertionError) as caught:
        check(BROKEN[law], {law: DATASET_LAWS[law]}, base=tmp_path)
    assert f"while checking the law '{law}' of {BROKEN[law].__name__}" in caught.value.__notes__


def test_rows_that_are_made_anew_each_time_are_caught(tmp_path):
    with pytest.raises(AssertionError, match="rows differ when it is read again"):
        check(Fleeting, {"repeatable": DATASET_LAWS["repeatable"]}, base=tmp_path)


def test_what_the_store_refuses_breaks_a_law(tmp_path):
    class Empty(Plain):
        def read(self, scratch):
            raw = Plain.read(self, scratch)
            return replace(raw, test=raw.test.rows(torch.arange(0)))

    with pytest.raises(Exception) as caught:  # noqa: PT011  # the store's own words
        check(Empty, {"stored": DATASET_LAWS["stored"]}, base=tmp_path)
    assert "while checking the law 'stored' of Empty" in caught.value.__notes__


def test_vectors_that_are_not_finite_are_caught(tmp_path):
    class NaN(Plain):
        def read(self, scratch):
            x = torch.rand(32, 3)
            x[5, 1] = torch.nan
            return Raw(Split(x, torch.arange(32) % 4), Split(torch.rand(8, 3), torch.arange(8) % 4), tiny.CLASSES)

    with pytest.raises(AssertionError, match="a training row is not finite"):
        check(NaN, {"rows": DATASET_LAWS["rows"]}, base=tmp_path)
