"""Each data set in its real on-disk format, in every place it may lie, and what is said when it does not."""

import gzip
import importlib
import io
import logging
import pickle
import shutil
import socket
import struct
import sys
import tarfile
import urllib.error
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clkd.data import source
from clkd.data.avalanche import AvalancheBenchmark
from clkd.data.cifar import Cifar10
from clkd.data.convert import grey, resize
from clkd.data.source import Split
from clkd.data.store import Store
from clkd.errors import Interrupted, UserError

Load = Callable[..., Store]


def pixels(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + n).integers(0, 256, (n, *shape), dtype=np.uint8)


def write_batches(
    folder: Path, names: list[str], meta: str, label_key: str, classes: list[str]
) -> tuple[np.ndarray, list]:
    """CIFAR's format: pickled dicts of `[n, 3072]` bytes, red plane first."""
    folder.mkdir(parents=True)
    every, labels = [], []
    for i, name in enumerate(names):
        x = pixels(12, 3072, seed=i)
        y = [(i + k) % len(classes) for k in range(12)]
        (folder / name).write_bytes(pickle.dumps({"data": x, label_key: y}))
        every.append(x)
        labels += y
    (folder / meta).write_bytes(pickle.dumps({{"labels": "label_names"}.get(label_key, "fine_label_names"): classes}))
    return np.concatenate(every).reshape(-1, 3, 32, 32), labels


def write_cifar10(folder: Path) -> tuple[np.ndarray, list]:
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return write_batches(folder, names, "batches.meta", "labels", list(Cifar10.classes))


def write_images(folder: Path, classes: list[str], n: int = 3, size: tuple[int, int] = (32, 32)) -> None:
    for split in ("train", "test"):
        for c, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i, image in enumerate(pixels(n, *size, 3, seed=c)):
                Image.fromarray(image).save(folder / split / name / f"{i}.png")


def pack(folder: Path, archive: Path, mode: str) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, mode) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name)


def write_idx(folder: Path, zipped: bool, seed: int = 0) -> dict[str, np.ndarray]:
    """The IDX format: big-endian magic number, sizes, bytes."""
    folder.mkdir(parents=True)
    arrays = {}
    for split, n in (("train", 40), ("t10k", 20)):
        arrays[split] = pixels(n, 28, 28, seed=seed)
        labels = (np.arange(n) % 10).astype(np.uint8)
        for name, data, magic in (
            (f"{split}-images-idx3-ubyte", arrays[split], 0x803),
            (f"{split}-labels-idx1-ubyte", labels, 0x801),
        ):
            content = struct.pack(f">{1 + data.ndim}I", magic, *data.shape) + data.tobytes()
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return arrays


@pytest.mark.parametrize("place", [".", "cifar10", "cifar-10-batches-py", "cifar10/cifar-10-batches-py"])
def test_cifar10_batches_are_found_and_read(load: Load, tmp_path: Path, place: str) -> None:
    x, y = write_cifar10(tmp_path / "root" / place)
    store = load("cifar10", root="root", trust=True)
    assert np.array_equal(torch.cat([store.train.x, store.test.x]).numpy(), x)
    assert torch.cat([store.train.y, store.test.y]).tolist() == y
    assert (len(store.test), store.class_names, store.augment) == (
        12,
        tuple(Cifar10.classes),
        {"crop": 4, "flip": True},
    )


def test_pickles_are_not_opened_unless_genuine_or_trusted(load: Load, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "cifar-10-batches-py"
    write_cifar10(folder)

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    for path in folder.iterdir():
        path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=r"checksum differs.*trust: true"):
        load("cifar10", root="root")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "cifar10/my-cifar10-copy.tar.xz"])
def test_cifar10_archives_of_batches(load: Load, tmp_path: Path, name: str) -> None:
    x, _ = write_cifar10(tmp_path / "made" / "cifar-10-batches-py")
    pack(tmp_path / "made", tmp_path / "root" / name, "w:gz" if name.endswith("gz") else "w:xz")
    store = load("cifar10", root="root", trust=True)
    assert np.array_equal(store.train.x.numpy(), x[:60])
    assert [path.name for path in (tmp_path / "root").iterdir()] == [name.split("/")[0]]


def test_cifar10_images_in_folders_and_archives_are_the_same_data(load: Load, tmp_path: Path) -> None:
    write_images(tmp_path / "a" / "cifar10", list(Cifar10.classes))
    pack(tmp_path / "a" / "cifar10", tmp_path / "b" / "cifar10-images.tar.xz", "w:xz")
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as tar:  # as `tar czf x.tar.gz -C dir .` on a Mac
        for split in ("train", "test"):
            tar.add(tmp_path / "a" / "cifar10" / split, arcname=f"./{split}")
        for name in ("./train/cat/._0.png", "./._train"):
            hidden = tarfile.TarInfo(name)
            hidden.size = 3
            tar.addfile(hidden, io.BytesIO(b"mac"))
    (tmp_path / "c").mkdir()
    shutil.move(tmp_path / "c.tar.gz", tmp_path / "c" / "cifar10.tar.gz")
    stores = [load("cifar10", root=root) for root in ("a", "a/cifar10", "b", "c")]
    assert len({store.fingerprint for store in stores}) == 1
    assert stores[0].class_names == Cifar10.classes
    for c in range(10):
        expected = pixels(3, 32, 32, 3, seed=c).transpose(0, 3, 1, 2)
        assert np.array_equal(stores[0].train.x[stores[0].train.y == c].numpy(), expected)


def test_other_folders_and_archives_are_not_cifar10(load: Load, tmp_path: Path) -> None:
    write_images(tmp_path / "root", ["cat", "dog"])
    pack(tmp_path / "root", tmp_path / "root" / "cifar-100-python.tar.gz", "w:gz")
    with pytest.raises(UserError, match="cifar10 is not in"):
        load("cifar10", root="root")
    pack(tmp_path / "root" / "train", tmp_path / "root" / "cifar10.tar.gz", "w:gz")
    with pytest.raises(UserError, match=r"cifar10.tar.gz holds neither"):
        load("cifar10", root="root")
    (tmp_path / "root" / "cifar10.tar.gz").write_bytes(b"not a tar")
    with pytest.raises(UserError, match=r"cifar10.tar.gz cannot be unpacked"):
        load("cifar10", root="root")


def test_cifar100_has_its_fine_labels(load: Load, tmp_path: Path) -> None:
    classes = [f"class {c:02}" for c in range(100)]
    folder = tmp_path / "root" / "cifar-100-python"
    x, y = write_batches(folder, ["train", "test"], "meta", "fine_labels", classes)
    store = load("cifar100", root="root", trust=True)
    assert np.array_equal(store.train.x.numpy(), x[:12])
    assert (store.test.y.tolist(), store.class_names) == (y[12:], tuple(classes))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "place"), [("mnist", "."), ("mnist", "MNIST/raw"), ("mnist", "raw"), ("fashion_mnist", "FashionMNIST/raw")]
)
def test_idx_files(load: Load, tmp_path: Path, name: str, place: str, zipped: bool) -> None:
    arrays = write_idx(tmp_path / "root" / place, zipped)
    before = sorted((tmp_path / "root").rglob("*"))
    store = load(name, root="root")
    assert np.array_equal(store.train.x[:, 0].numpy(), arrays["train"])
    assert np.array_equal(store.test.x[:, 0].numpy(), arrays["t10k"])
    assert store.test.y.tolist() == [i % 10 for i in range(20)]
    assert store.class_names[9] == {"mnist": "9", "fashion_mnist": "Ankle boot"}[name]
    assert sorted((tmp_path / "root").rglob("*")) == before


def test_mnist_and_fashion_side_by_side_are_told_apart(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLKD_DATA", str(tmp_path / "all"))
    fashion, digits = (
        write_idx(tmp_path / "all" / n / "raw", False, s) for s, n in ((1, "FashionMNIST"), (2, "MNIST"))
    )
    assert np.array_equal(load("mnist").train.x[:, 0].numpy(), digits["train"])
    assert np.array_equal(load("fashion_mnist").train.x[:, 0].numpy(), fashion["train"])


def test_a_broken_idx_file_is_named(load: Load, tmp_path: Path) -> None:
    write_idx(tmp_path / "root", True)
    (tmp_path / "root" / "t10k-images-idx3-ubyte.gz").write_bytes(b"garbage")
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte.gz .* cannot be read as IDX"):
        load("mnist", root="root")


def test_svhn_counts_its_zeros_as_class_0(load: Load, tmp_path: Path) -> None:
    from scipy.io import savemat

    folder = tmp_path / "root" / "SVHN"
    folder.mkdir(parents=True)
    for split, n in (("train", 20), ("test", 10)):
        labels = np.arange(n)[:, None] % 10 + 1  # in these files, 10 stands for the digit 0
        savemat(folder / f"{split}_32x32.mat", {"X": pixels(n, 32, 32, 3).transpose(1, 2, 3, 0), "y": labels})
    with pytest.raises(UserError, match="checksum differs"):
        load("svhn", root="root")
    store = load("svhn", root="root", trust=True)
    assert np.array_equal(store.train.x.numpy(), pixels(20, 32, 32, 3).transpose(0, 3, 1, 2))
    assert store.test.y.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


def test_digits_are_scikit_learns_split_by_class(load: Load) -> None:
    from sklearn.datasets import load_digits

    bunch, store = load_digits(), load("digits")
    assert store.shape == (1, 8, 8)
    assert (int(store.train.x.min()), int(store.train.x.max())) == (0, 255)
    for c in range(10):
        total = int((bunch.target == c).sum())
        assert int((store.test.y == c).sum()) == round(total / 5)
    levels = torch.cat([store.train.x, store.test.x]).float().mul(16 / 255).round()
    assert sorted(map(tuple, levels.flatten(1).tolist())) == sorted(map(tuple, bunch.data.tolist()))


def test_an_image_folder_with_its_own_split(load: Load, tmp_path: Path) -> None:
    write_images(tmp_path / "mine", ["b", "a"], size=(6, 9))
    (tmp_path / "mine" / "train" / "a" / "notes.txt").write_text("not an image")
    store = load("image_folder", path="mine")
    assert (store.class_names, store.shape, store.augment) == (("a", "b"), (3, 6, 9), {})
    assert np.array_equal(store.train.x[:3].numpy(), pixels(3, 6, 9, 3, seed=1).transpose(0, 3, 1, 2))
    assert store.train.y.tolist() == store.test.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert load("image_folder", path="mine", channels=1).shape == (1, 6, 9)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_16_bits_lose_their_lower_half_and_not_their_upper(
    load: Load, tmp_path: Path, channels: int
) -> None:
    write_images(tmp_path / "mine", ["a", "b"], size=(4, 8))
    ramp = np.linspace(0, 65535, 32).astype(np.uint16).reshape(4, 8)
    Image.fromarray(ramp).save(tmp_path / "mine" / "train" / "a" / "0.png")
    (tmp_path / "mine" / "train" / "b" / "0.pgm").write_bytes(b"P5 8 4 65535\n" + ramp.astype(">u2").tobytes())
    store = load("image_folder", path="mine", channels=channels)
    expected = np.repeat((ramp >> 8)[None], channels, 0)
    assert np.array_equal(store.train.x[0].numpy(), expected)
    assert sum(np.array_equal(row.numpy(), expected) for row in store.train.x) == 2


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pictures_of_32_bits_are_refused(load: Load, tmp_path: Path, kind: type) -> None:
    write_images(tmp_path / "mine", ["a", "b"], size=(4, 8))
    Image.fromarray(np.ones((4, 8), dtype=kind)).save(tmp_path / "mine" / "train" / "a" / "0.tiff")
    with pytest.raises(UserError, match=r"a/0.tiff cannot be read as an image: its pixels are signed or of 32 bits"):
        load("image_folder", path="mine")


def test_an_image_folder_is_split_by_class(load: Load, tmp_path: Path) -> None:
    write_images(tmp_path / "made", ["a", "b"], n=10)
    store = load("image_folder", path="made/train", test_fraction=0.3)
    assert (store.test.y.tolist(), len(store.train)) == ([0] * 3 + [1] * 3, 14)
    shutil.rmtree(tmp_path / "made" / "test")
    alone = load("image_folder", path="made", test_fraction=0.3)
    assert (alone.class_names, alone.test.y.tolist(), len(alone.train)) == (("a", "b"), [0] * 3 + [1] * 3, 14)
    (tmp_path / "made" / "val").mkdir()
    with pytest.raises(UserError, match=r"made/train has no images .* but folders, such as a: name .* train and test"):
        load("image_folder", path="made")


def test_hidden_files_are_no_pictures(load: Load, tmp_path: Path) -> None:
    write_images(tmp_path / "mine", ["a", "b"])
    expected = load("image_folder", path="mine")
    (tmp_path / "mine" / "train" / "a" / "._0.png").write_bytes(b"what macOS notes of a picture")
    (tmp_path / "mine" / "train" / ".thumbnails").mkdir()
    assert len(load("image_folder", path="mine").train) == len(expected.train)


def test_images_that_do_not_fit_are_named(load: Load, tmp_path: Path) -> None:
    write_images(tmp_path / "mine", ["a", "b"])
    odd = tmp_path / "mine" / "test" / "b" / "2.png"
    Image.fromarray(pixels(1, 40, 16, 3)[0]).save(odd)
    with pytest.raises(UserError, match=r"b/2.png has 16×40 pixels and .* 32×32: give .* such as `size: 32`"):
        load("image_folder", path="mine")
    assert load("image_folder", path="mine", size=8).shape == (3, 8, 8)
    odd.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"b/2.png cannot be read as an image"):
        load("image_folder", path="mine")
    odd.parent.rename(odd.parent.with_name("c"))
    with pytest.raises(UserError, match=r"test/c: no such class"):
        load("image_folder", path="mine")
    with pytest.raises(UserError, match=r"path 'nowhere' does not exist; looked for .*nowhere"):
        load("image_folder", path="nowhere")
    with pytest.raises(UserError, match=r"path: .*0\.png is no folder"):
        load("image_folder", path="mine/train/a/0.png")


@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW"])
def test_arrays_of_images(load: Load, tmp_path: Path, layout: str) -> None:
    x = pixels(10, *{"NHW": (5, 6), "NHWC": (5, 6, 3), "NCHW": (3, 5, 6)}[layout])
    column = np.arange(10) // 5
    columns = {"experience_train": column, "experience_test": column[:4], "domain_train": column}
    labels = {"y_train": np.arange(10) % 2, "y_test": np.arange(4) % 2, "class_names": ["no", "yes"]}
    np.savez(tmp_path / "a.npz", x_train=x, x_test=x[:4], **labels, **columns)
    store = load("arrays", path="a.npz")
    expected = x[:, None] if layout == "NHW" else x.transpose(0, 3, 1, 2) if layout == "NHWC" else x
    assert np.array_equal(store.train.x.numpy(), expected)
    assert store.class_names == ("no", "yes")
    assert (store.train.experience.tolist(), store.train.domain.tolist()) == (column.tolist(), column.tolist())
    assert (store.test.experience.tolist(), store.test.domain) == ([0] * 4, None)


def test_arrays_of_vectors_are_split_by_class(load: Load, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(3, 2, (100, 4))
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(100) % 4)
    store = load("arrays", path="a.npz", test_fraction=0.25)
    assert (store.train.x.dtype, store.shape, len(store.test)) == (torch.float32, (4,), 24)
    both = torch.cat([store.train.x, store.test.x])
    assert sorted(both[:, 0].tolist()) == sorted(torch.tensor(x).float()[:, 0].tolist())
    torch.testing.assert_close(store.std, store.train.x.std(0, correction=0))
    with pytest.raises(UserError, match="size and channels are for images"):
        load("arrays", path="a.npz", size=8)


GOOD = {"x_train": np.ones((4, 2)), "y_train": np.arange(4) % 2, "x_test": np.ones((2, 2)), "y_test": np.arange(2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.array([[1, np.nan]] * 4)}, "x_train holds NaN"),
        ({"x_train": np.ones((4, 3))}, "differ in shape"),
        ({"x_train": np.ones((4, 2, 2, 2), np.uint8)}, "give images as uint8"),
        ({"x_train": np.ones((0, 2))}, "x_train is empty"),
        ({"y_train": np.array([0, 1, -1, 0])}, "y_train holds -1: number the classes from 0"),
        ({"y_test": np.array([0, 2])}, "label 2 is too large: the training rows have 2 classes"),
        ({"class_names": ["one"]}, "label 1 is too large: class_names has 1"),
        ({"class_names": ["one", "one"]}, "two classes are called 'one'"),
        ({"y_train": np.arange(3)}, r"y_train has shape \(3,\), but there are 4 rows"),
        ({"y_train": np.ones(4)}, "y_train is float64: give integers"),
        ({"experience_test": np.zeros(3, int)}, "experience_test has shape"),
        ({"y_tain": np.zeros(3, int)}, "unknown array 'y_tain', did you mean 'y_train'"),
        ({"y_test": None}, "array 'y_test' is missing"),
        ({"x": np.ones((4, 2)), "y": np.arange(4) % 2}, "array 'x_test' beside 'x': give x_train, .* or x and y"),
        ({"domain": np.zeros(4, int)}, "array 'domain' beside 'x_train'"),
        ({"class_names": np.array("cat")}, r"class_names has shape \(\): give a list of names"),
        ({"class_names": np.array([b"\xff", b"a"])}, "bytes that are no UTF-8"),
        ({"class_names": np.array([{}], dtype=object)}, "cannot be read as an npz file of plain arrays"),
    ],
)
def test_arrays_that_make_no_sense_are_refused(load: Load, tmp_path: Path, change: dict, message: str) -> None:
    arrays = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=message):
        load("arrays", path="a.npz")


def test_places_are_searched_in_order(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLKD_DATA", str(tmp_path / "env"))
    found = []
    for seed, folder in enumerate(["cache/downloads", "env", "root"]):
        arrays = write_idx(tmp_path / folder, False, seed)
        store = load("mnist", root="root")
        found.append(np.array_equal(store.train.x[:, 0].numpy(), arrays["train"]))
    assert found == [True, True, True]


def test_shared_options_convert_images(load: Load, tmp_path: Path) -> None:
    write_images(tmp_path / "cifar10", list(Cifar10.classes), n=5)
    whole = load("cifar10", root=".")
    small = load("cifar10", root=".", size=16, channels=1, rows_per_class=2)
    assert (small.train.x.shape, small.test.x.shape) == ((20, 1, 16, 16), (50, 1, 16, 16))
    assert torch.equal(load("cifar10", root=".", rows_per_class=2).train.x, whole.train.x[torch.arange(50) % 5 < 2])
    picture = Image.fromarray(whole.test.x[7].permute(1, 2, 0).numpy())
    scaled = np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resize(whole.test.x[7:8], 16)[0].permute(1, 2, 0).numpy() - scaled).max() <= 1
    assert np.abs(grey(whole.test.x[7:8])[0, 0].numpy().astype(int) - np.asarray(picture.convert("L"))).max() <= 1
    assert len({load("cifar10", root=".", **o).fingerprint for o in ({}, {"size": 32}, {"channels": 3})}) == 1


def test_changed_source_files_are_decoded_again(load: Load, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **GOOD)
    before = load("arrays", path="a.npz").fingerprint
    np.savez(tmp_path / "a.npz", **{**GOOD, "x_test": np.zeros((2, 2))})
    assert load("arrays", path="a.npz").fingerprint != before


def test_a_stand_in_is_announced_and_has_the_expected_shape(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "clkd.data"):
        store = load("cifar10", offline="digits")
    assert (store.name, store.stand_in, store.requested, store.shape) == ("digits", "digits", "cifar10", (3, 32, 32))
    assert "digits stands in for cifar10: cifar10 is not in" in caplog.text
    assert load("cifar10", offline="digits", size=12, channels=1, rows_per_class=3).train.x.shape == (30, 1, 12, 12)
    genuine = load("digits")
    assert (genuine.stand_in, genuine.requested) == (None, "digits")


def test_data_that_can_be_had_nowhere(load: Load, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cifar10 is not in .*r, .*downloads, .*CLKD_OFFLINE=1.*`offline: digits`"):
        load("cifar10", root="r")


def test_a_failing_download_is_tried_once_and_leaves_no_trace(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLKD_OFFLINE")
    tried = []

    def unreachable(address: str) -> None:
        tried.append((address, socket.getdefaulttimeout()))
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(source, "urlopen", unreachable)
    for _ in range(2):
        with pytest.raises(UserError, match="no route to host"):
            load("cifar10")
    assert tried == [(Cifar10.url, source.TIMEOUT)]
    assert socket.getdefaulttimeout() is None
    assert not (tmp_path / "cache" / "downloads" / "cifar10").exists()


class Answer:
    """Of a server that can be reached."""

    def close(self) -> None:
        """Nothing is open."""


def test_what_is_downloaded_is_used(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Cifar10, target: Path) -> None:
        target.mkdir()
        (target / "cifar-10-python.tar.gz").write_bytes(b"half of it")
        raise ConnectionResetError("cut off")

    monkeypatch.delenv("CLKD_OFFLINE")
    monkeypatch.setattr(source, "urlopen", lambda address: Answer())
    monkeypatch.setattr(Cifar10, "download", broken)
    with pytest.raises(UserError, match="cut off"):
        load("cifar10", trust=True)
    assert list((tmp_path / "cache" / "downloads").iterdir()) == []
    source._failed.clear()
    monkeypatch.setattr(Cifar10, "download", lambda self, target: write_cifar10(target / "cifar-10-batches-py"))
    assert load("cifar10", trust=True).stand_in is None


def test_what_another_process_brought_meanwhile_is_used(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its own download, which finds the place taken, would leave it with the stand-in."""

    def late(self: Cifar10, target: Path) -> None:
        write_cifar10(tmp_path / "cache" / "downloads" / "cifar10" / "cifar-10-batches-py")
        write_cifar10(target / "cifar-10-batches-py")

    monkeypatch.delenv("CLKD_OFFLINE")
    monkeypatch.setattr(source, "urlopen", lambda address: Answer())
    monkeypatch.setattr(Cifar10, "download", late)
    assert load("cifar10", offline="digits", trust=True).stand_in is None


def test_who_is_stopped_while_data_is_read_or_fetched_stops(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no fault of the data: nothing stands in for it, and no picture is left out."""

    def stopped(*_: object, **__: object) -> None:
        raise Interrupted("stopped by Ctrl-C", 130)

    monkeypatch.delenv("CLKD_OFFLINE")
    monkeypatch.setattr(source, "urlopen", lambda address: Answer())
    monkeypatch.setattr(Cifar10, "download", stopped)
    with pytest.raises(Interrupted):
        load("cifar10", offline="digits", trust=True)
    assert not source._failed
    write_images(tmp_path / "mine", ["a", "b"])
    np.savez(tmp_path / "a.npz", **GOOD)
    write_idx(tmp_path / "idx", False)
    monkeypatch.setattr(Image, "open", stopped)
    monkeypatch.setattr(np, "load", stopped)
    monkeypatch.setattr("clkd.data.idx._plain", stopped)
    asked = {
        "image_folder": {"path": "mine", "skip_corrupt": True},
        "arrays": {"path": "a.npz"},
        "mnist": {"root": "idx"},
    }
    for name, options in asked.items():
        with pytest.raises(Interrupted):
            load(name, **options)


def test_where_a_benchmark_stands_is_found_without_importing_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "houseofmine").mkdir()
    (tmp_path / "houseofmine" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    (tmp_path / "houseofmine" / "bench.py").write_text("def make(): ...")
    own = AvalancheBenchmark(benchmark="houseofmine.bench.make", trust=True)
    assert own._own_file() == (tmp_path / "houseofmine" / "bench.py",)
    assert "houseofmine" not in sys.modules
    for name in ("SplitMNIST", "avalanche.benchmarks.classic.SplitMNIST", "nowhere.at.all", "houseofmine.lost.make"):
        assert AvalancheBenchmark(benchmark=name, trust=True)._own_file() == ()


@pytest.mark.slow
def test_a_users_own_benchmark_is_read_anew_when_its_file_has_changed(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    # Python takes a file of the same second and size for the one that it has compiled.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    found = []
    for value in (10, 20):
        (tmp_path / "mybench.py").write_text(BENCHMARK.format(value=value))
        monkeypatch.delitem(sys.modules, "mybench", raising=False)
        importlib.invalidate_caches()
        found.append(load("avalanche", benchmark="mybench.make", trust=True))
    assert [int(store.train.x.max()) for store in found] == [10, 20]
    assert found[0].fingerprint != found[1].fingerprint


BENCHMARK = """
import torch
from torch.utils.data import TensorDataset
from clkd import vision

vision.avalanche()
from avalanche.benchmarks import class_incremental_benchmark
from avalanche.benchmarks.utils import make_avalanche_dataset, DataAttribute


def make():
    y = torch.arange(8) % 2
    made = {{}}
    for split in ("train", "test"):
        x = torch.full((8, 1, 4, 4), {value} / 255)
        made[split] = make_avalanche_dataset(
            TensorDataset(x, y), data_attributes=[DataAttribute(y.tolist(), "targets", use_in_getitem=False)]
        )
    return class_incremental_benchmark(made, num_experiences=2)
"""


def test_class_names_of_bytes_are_names(load: Load, tmp_path: Path) -> None:
    """As other tools write them; a class is known by its name."""
    np.savez(tmp_path / "a.npz", **GOOD, class_names=np.array(["käse".encode(), b"cat"]))
    assert load("arrays", path="a.npz").class_names == ("käse", "cat")


def test_a_split_knows_its_rows() -> None:
    split = Split(torch.arange(6).view(6, 1).float(), torch.arange(6), domain=torch.arange(6) * 2)
    assert split.rows(torch.tensor([4, 1])).domain.tolist() == [8, 2]
    assert split.rows(torch.tensor([0])).experience is None


def test_data_sets_become_domains_of_one(load: Load, tmp_path: Path) -> None:
    """Classes by name, whatever their order; rows in order; one shape for all."""
    for folder, classes in (("ink", ("cat", "dog")), ("paint", ("ant", "dog"))):
        for name in classes:
            (tmp_path / folder / name).mkdir(parents=True)
            for i in range(5):
                seed = sum(map(ord, folder + name))
                Image.fromarray(pixels(1, 6 + i, 7, 3, seed=seed + i)[0]).save(tmp_path / folder / name / f"{i}.png")
    parts = [{"name": "image_folder", "path": folder} for folder in ("ink", "paint")]
    store = load("domains", of=parts, size=8, channels=1)
    assert (store.shape, store.class_names, store.domain_names) == ((1, 8, 8), ("cat", "dog", "ant"), ("ink", "paint"))
    alone = [load("image_folder", path=folder, size=8, channels=1) for folder in ("ink", "paint")]
    for split in ("train", "test"):
        joint, own = getattr(store, split), [getattr(each, split) for each in alone]
        assert torch.equal(joint.x, torch.cat([each.x for each in own]))
        names = [each.class_names[c] for each, rows in zip(alone, own, strict=True) for c in rows.y.tolist()]
        assert [store.class_names[c] for c in joint.y.tolist()] == names
        assert joint.domain.tolist() == [0] * len(own[0]) + [1] * len(own[1])
    with pytest.raises(UserError, match="set size and channels for all"):
        load("domains", of=[{**parts[0], "size": 8}, "digits"])


def test_a_domain_that_is_not_here_is_stood_in_for(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLKD_OFFLINE", "1")
    monkeypatch.delenv("CLKD_DATA", raising=False)
    store = load("domains", of=[{"name": "svhn", "offline": "digits"}, "digits"], size=8, channels=1)
    assert (store.stand_in, store.requested, store.domain_names) == ("digits", "domains", ("svhn", "digits"))
    assert load("domains", of=["digits", "digits"]).domain_names == ("digits 1", "digits 2")
    with pytest.raises(ValueError, match="give it to each of `of`"):
        load("domains", of=["digits", "digits"], rows_per_class=3)
