"""Data that cannot be learned from is named before anything is trained; nothing of it passes in silence."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clkd.data
from clkd.data.prepare import prepare
from clkd.errors import UserError
from clkd.registry import Registry
from clkd.scenario.document import to_yaml

REST = {
    "name": "tiny",
    "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
    "train": {"optimizer": "sgd"},
}
BY_CLASS = {"by": "class", "experiences": 3}


@pytest.fixture
def dry(tmp_path, clkd, monkeypatch):
    """`dry(dataset, split)`: compose a scenario about these data, and train nothing."""
    monkeypatch.chdir(tmp_path)

    def dry(dataset, split=None):
        Path("s.yaml").write_text(to_yaml({**REST, "stream": {"dataset": dataset, "split": split or BY_CLASS}}))
        done = clkd("run", "s.yaml", "--dry-run", "-q")
        assert not Path("runs").exists()
        return done

    return dry


def vectors(**changes):
    """An npz file of 30 vectors for training and 9 for testing, in 3 classes."""
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.normal(size=(30, 4)), "y_train": np.arange(30) % 3}
    arrays |= {"x_test": rng.normal(size=(9, 4)), "y_test": np.arange(9) % 3}
    np.savez("a.npz", **{name: value for name, value in {**arrays, **changes}.items() if value is not None})
    return {"name": "arrays", "path": "a.npz"}


def nan_at(row, value=np.nan):
    x = np.ones((30, 4))
    x[row, 2] = value
    return x


@pytest.mark.parametrize(
    ("changes", "split", "said"),
    [
        ({"x_train": nan_at(7)}, None, "a.npz: x_train holds NaN, infinite or too large values, first in row 7"),
        ({"x_train": nan_at(8, -np.inf)}, None, "x_train holds NaN, infinite or too large values, first in row 8"),
        ({"x_train": nan_at(9, 1e300)}, None, "x_train holds NaN, infinite or too large values, first in row 9"),
        ({"y_test": np.arange(9)}, None, "label 8 is too large: the training rows have 3 classes"),
        ({"y_train": np.arange(30) - 1}, None, "y_train holds -1: number the classes from 0"),
        ({"y_train": np.arange(30) * 10**9}, None, "label 29000000000 is too large"),
        ({"y_train": np.full(30, 2**64 - 1, np.uint64)}, None, "y_train holds -1"),
        ({"x_train": np.ones((0, 4)), "y_train": np.ones(0, int)}, None, "x_train is empty"),
        ({"y_train": np.arange(30) % 2 * 2}, None, "class 1 (1) has no training rows: leave it out"),
        ({"y_test": np.arange(9) % 2}, None, "experience 2 ([2]) would have no test rows"),
        ({"y_train": np.arange(30) % 2 * 2}, {"by": "data", "experiences": 2}, "class 1 (1) has test rows but no"),
        ({}, {"by": "class", "experiences": 4}, "4 experiences need at least 4 classes, the data set has 3"),
        ({}, {"by": "data", "experiences": 31}, "31 experiences need at least as many training rows, there are 30"),
        ({}, {"by": "class", "classes": [[0], [3]]}, "class 3 does not exist, the data set has classes 0 to 2"),
        ({}, {"by": "class", "experiences": 3, "validation": 0.05}, "0.05 of experience 0 ([0]) is not one row"),
        ({}, {"by": "given"}, "by: given needs data that names each row's experience"),
        ({"experience_train": np.zeros(30, int), "experience_test": np.ones(9, int)}, {"by": "given"}, "would have no"),
    ],
)  # fmt: skip
def test_rows_that_no_training_can_use(changes, split, said, dry):
    done = dry(vectors(**changes), split)
    assert done.code == 2
    assert said in done.err.splitlines()[-1]


@pytest.mark.parametrize("augment", [{"flip": True}, {"crop": 1}, {"flip": True, "views": 2}])
def test_vectors_are_neither_cropped_nor_mirrored(augment, clkd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stream = {"dataset": vectors(), "split": BY_CLASS, "augment": augment}
    Path("s.yaml").write_text(to_yaml({**REST, "stream": stream}))
    done = clkd("run", "s.yaml", "--dry-run", "-q")
    assert done.code == 2
    assert "crop and flip are for images, but rows are vectors of shape (4,)" in done.err.splitlines()[-1]


def test_a_class_without_a_folder_of_test_pictures_is_named(dry, tmp_path):
    for part in ("train", "test"):
        pictures(tmp_path / "mine" / part)
    shutil.rmtree(tmp_path / "mine" / "test" / "dog")
    done = dry({"name": "image_folder", "path": "mine"}, SPLIT)
    assert done.code == 2
    assert "test/dog has no images" in done.err.splitlines()[-1]


def test_no_share_for_tests_leaves_a_word(dry):
    np.savez("a.npz", x=np.ones((6, 4)), y=np.arange(6) % 3)
    done = dry({"name": "arrays", "path": "a.npz", "test_fraction": 0.01})
    assert done.code == 2
    assert "test_fraction: 0.01 of each class is not one row" in done.err


def pictures(folder, size=16, per_class=4):
    """Noise, half of it JPEG and half PNG, in two classes."""
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            image = Image.fromarray(draw.integers(0, 255, (size, size, 3), dtype=np.uint8))
            image.save(folder / name / f"{i}.{'jpg' if i % 2 else 'png'}")
    return {"name": "image_folder", "path": folder.name}


SPLIT = {"by": "class", "experiences": 2}
CORRUPT = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a picture"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to nowhere": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "a bomb": lambda path: path.write_bytes(bomb()),
}


def bomb():
    """A PNG that says it has 40,000 × 40,000 pixels."""
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("how", CORRUPT)
@pytest.mark.parametrize("name", ["1.jpg", "2.png", "0.png"])
def test_a_corrupt_picture_is_named(how, name, dry, tmp_path):
    dataset = pictures(tmp_path / "mine")
    CORRUPT[how](tmp_path / "mine" / "cat" / name)
    done = dry(dataset, SPLIT)
    assert done.code == 2
    last = done.err.splitlines()[-1]
    assert f"mine/cat/{name} cannot be read as an image: " in last
    assert "`skip_corrupt: true` leaves such pictures out" in last


def test_rows_that_are_tested_and_trained_on_are_counted_and_told(tmp_path, clkd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "mine" / "train")
    for kind in ("cat", "dog"):
        (tmp_path / "mine" / "test" / kind).mkdir(parents=True)
        same, other = (tmp_path / "mine" / "test" / kind / name for name in ("same.png", "other.png"))
        shutil.copy(tmp_path / "mine" / "train" / kind / "0.png", same)
        Image.fromarray(255 - np.asarray(Image.open(same))).save(other)
    stream = {"dataset": {"name": "image_folder", "path": "mine"}, "split": SPLIT}
    Path("s.yaml").write_text(to_yaml({**REST, "stream": stream, "tracking": {"mode": "offline"}, "output": "run"}))
    for _ in range(2):  # the store remembers it
        assert "2 of 4 test rows are training rows, too" in clkd("run", "s.yaml", "--dry-run", "-q").out
    assert clkd("run", "s.yaml", "-q").code == 0
    start = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[0])
    assert start["metrics"]["data/test_rows_trained_on"] == 2
    for kind in ("cat", "dog"):
        (tmp_path / "mine" / "test" / kind / "same.png").unlink()
    assert "training rows, too" not in clkd("run", "s.yaml", "--dry-run", "-q").out


def test_corrupt_pictures_are_skipped_counted_and_told(tmp_path, clkd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = pictures(tmp_path / "mine", per_class=6)
    for place in ("cat/0.png", "cat/3.jpg", "dog/5.jpg"):
        CORRUPT["cut"](tmp_path / "mine" / place)
    stream = {"dataset": {**dataset, "skip_corrupt": True}, "split": SPLIT}
    Path("s.yaml").write_text(to_yaml({**REST, "stream": stream, "tracking": {"mode": "offline"}, "output": "run"}))
    done = clkd("run", "s.yaml", "-q")
    assert done.code == 0
    named = [line for line in done.err.splitlines() if ": left out: " in line]
    assert [place in line for place, line in zip(("cat/0.png", "cat/3.jpg", "dog/5.jpg"), named, strict=True)] == [
        True
    ] * 3
    start = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[0])
    assert start["metrics"]["data/skipped_pictures"] == 3
    again = clkd("run", "s.yaml", "--dry-run", "-q")
    assert "3 corrupt pictures left out" in again.out, "the store remembers it"
    good = tmp_path / "good"
    shutil.copytree(tmp_path / "mine", good)
    for place in ("cat/0.png", "cat/3.jpg", "dog/5.jpg"):
        (good / place).unlink()
    Path("s.yaml").write_text(to_yaml({**REST, "stream": {"dataset": {**dataset, "path": "good"}, "split": SPLIT}}))
    lines = clkd("run", "s.yaml", "--dry-run", "-q").out.splitlines()
    assert lines[-2:] == again.out.splitlines()[-2:], "the same rows as in a folder without them"


def test_a_class_without_a_sound_picture_is_an_error_even_so(dry, tmp_path):
    dataset = pictures(tmp_path / "mine", per_class=2)
    for path in (tmp_path / "mine" / "dog").iterdir():
        CORRUPT["text"](path)
    done = dry({**dataset, "skip_corrupt": True}, SPLIT)
    assert done.code == 2
    assert "class 'dog' has no picture that can be read" in done.err.splitlines()[-1]


def test_pictures_of_mixed_size_are_named_and_size_brings_them_to_one(dry, tmp_path):
    dataset = pictures(tmp_path / "mine")
    Image.new("RGB", (20, 8)).save(tmp_path / "mine" / "dog" / "1.jpg")
    done = dry(dataset, SPLIT)
    assert done.code == 2
    assert "dog/1.jpg has 20×8 pixels and " in done.err.splitlines()[-1]
    assert "give the data set a size for all, such as `size: 16`" in done.err
    assert dry({**dataset, "size": 8}, SPLIT).code == 0


# Files of data, harmed at random


@pytest.fixture(scope="module")
def registry():
    registry = Registry()
    clkd.data.clkd_register_datasets(register=registry.register_for("datasets", "clkd.data", "clkd"))
    return registry


def harmed(content: bytes, draw: random.Random) -> bytes:
    """Flipped, cut, overwritten, or with something put in."""
    at = draw.randrange(len(content))
    match draw.randrange(4):
        case 0:
            return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]
        case 1:
            return content[:at]
        case 2:
            return content[:at] + draw.randbytes(min(8, len(content) - at)) + content[at + 8 :]
        case _:
            return content[:at] + draw.randbytes(draw.randrange(1, 9)) + content[at:]


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist(folder):
    draw = np.random.default_rng(0)
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx(draw.integers(0, 255, (20, 4, 4), dtype=np.uint8)))
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(20, dtype=np.uint8) % 10)))
    return {"name": "mnist", "root": str(folder)}


def compressed(folder):
    draw = np.random.default_rng(0)
    np.savez_compressed(folder / "a.npz", x=draw.integers(0, 255, (40, 4, 4), dtype=np.uint8), y=np.arange(40) % 2)
    return {"name": "arrays", "path": str(folder / "a.npz")}


def gallery(folder):
    pictures(folder / "mine")
    return {"name": "image_folder", "path": str(folder / "mine")}


@pytest.mark.parametrize("make", [mnist, compressed, gallery])
def test_a_hundred_harms_are_mistakes_that_name_the_file_or_change_nothing_but_numbers(make, tmp_path, registry):
    draw = random.Random(0)
    (tmp_path / "data").mkdir()
    part = registry.parse("datasets", make(tmp_path / "data"))
    files = sorted(path for path in (tmp_path / "data").rglob("*") if path.is_file())
    refused = 0
    for i in range(100):
        file = draw.choice(files)
        good = file.read_bytes()
        file.write_bytes(harmed(good, draw))
        said = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns of EXIF data that make no sense
                prepare(part, build=registry.build, cache=tmp_path / f"cache{i}", base=tmp_path)
        except UserError as error:
            said = str(error)
        refused += bool(said)
        assert not said or str(tmp_path / "data") in said or part.name in said
        assert "\n" not in said
        file.write_bytes(good)
        shutil.rmtree(tmp_path / f"cache{i}", ignore_errors=True)
    assert refused > 20


def test_what_a_strangers_source_gives_is_checked_as_well(tmp_path, clkd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Python takes a file of the same second and size for the one that it has compiled.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Path("mine").mkdir()
    Path("s.yaml").write_text(
        to_yaml({**REST, "stream": {"dataset": "mine", "split": {"by": "class", "experiences": 2}}})
    )
    for x, y, said in [
        (
            "torch.full((4, 2), float('nan'))",
            "torch.arange(4) % 2",
            "mine: training row 0 holds NaN or infinite values",
        ),
        ("torch.ones(4, 2)", "torch.arange(4)", "mine: a training row has label 3, but classes are 0 to 1"),
        ("torch.ones(4, 2)", "torch.arange(4) - 2", "mine: a training row has label -2, but classes are 0 to 1"),
        ("torch.ones(5, 2)", "torch.arange(4) % 2", "mine: 5 training rows of x and 4 labels do not fit"),
        ("torch.ones(0, 2)", "torch.arange(0)", "mine: there are no training rows"),
    ]:
        Path("mine/mine.py").write_text(
            "from dataclasses import dataclass\nimport torch\nfrom clkd import hookimpl\n"
            "from clkd.data import DatasetOptions\nfrom clkd.data.source import Found, Raw, Source, Split\n"
            "@dataclass(kw_only=True)\nclass Mine(Source):\n"
            "    def find(self, places):\n"
            f"        rows = Split({x}, {y})\n"
            "        return Found((), lambda scratch: Raw(rows, rows, ('a', 'b')))\n"
            "@hookimpl\ndef clkd_register_datasets(register):\n    register('mine', Mine, config=DatasetOptions)\n"
        )
        done = clkd("run", "s.yaml", "--dry-run", "-q", "--plugins-dir", "mine")
        assert done.code == 2
        assert said in done.err.splitlines()[-1]
