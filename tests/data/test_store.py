"""The store: written once, by one process, checked at every opening."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import python, wait_for

from clkd import locks
from clkd.data import store as store_module
from clkd.data.source import Raw, Split
from clkd.data.store import Store, open_or_build, statistics
from clkd.errors import UserError


def raw(seed: int = 0) -> Raw:
    g = torch.Generator().manual_seed(seed)

    def split(n: int) -> Split:
        x = torch.randint(0, 256, (n, 2, 3, 4), generator=g, dtype=torch.uint8)
        return Split(x, torch.arange(n) % 3, experience=torch.arange(n) % 2)

    return Raw(split(30), split(9), ("a", "b", "é"))


def refuse(scratch: Path) -> Raw:
    raise AssertionError("it should not have been decoded again")


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    for build in (lambda scratch: raw(), refuse):
        store = open_or_build("small", "key", tmp_path, build)
        for split, original in ((store.train, raw().train), (store.test, raw().test)):
            assert {name: value.tolist() for name, value in split.columns().items()} == {
                name: value.tolist() for name, value in original.columns().items()
            }
        assert (store.class_names, store.shape, len(store.test)) == (("a", "b", "é"), (2, 3, 4), 9)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["small-key", "small-key.lock"]


def test_pages_are_private(tmp_path: Path) -> None:
    store = open_or_build("small", "key", tmp_path, lambda scratch: raw())
    store.train.x.zero_()
    assert torch.equal(open_or_build("small", "key", tmp_path, refuse).train.x, raw().train.x)


@pytest.mark.parametrize(
    "harm",
    [
        "cut",
        "flip",
        "remove",
        "meta",
        "garbage",
        "list",
        "bottomless",
        "empty",
        "x is a folder",
        "meta is a folder",
        "a file",
    ],
)
def test_an_altered_store_is_built_again_with_a_note(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    open_or_build("small", "key", tmp_path, lambda scratch: raw())
    x, meta = tmp_path / "data" / "small-key" / "train_x.bin", tmp_path / "data" / "small-key" / "meta.json"
    content = x.read_bytes()
    if harm == "cut":
        x.write_bytes(content[:-1])
    elif harm == "flip":
        x.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif harm == "remove":
        x.unlink()
    elif harm == "meta":
        facts = json.loads(meta.read_text())
        meta.write_text(json.dumps({**facts, "mean": [0.0, 0.0]}))
    elif harm in ("list", "bottomless", "empty"):
        meta.write_text({"list": "[]", "bottomless": "[" * 100_000, "empty": ""}[harm])
    elif harm.endswith("is a folder"):
        path = x if harm.startswith("x") else meta
        path.unlink()
        path.mkdir()
    elif harm == "a file":
        shutil.rmtree(meta.parent)
        meta.parent.write_text("in its place")
    else:
        meta.write_text("{")
    with caplog.at_level(logging.WARNING, "clkd.data"):
        again = open_or_build("small", "key", tmp_path, lambda scratch: raw())
    assert torch.equal(again.train.x, raw().train.x)
    assert "was altered" in caplog.text
    assert open_or_build("small", "key", tmp_path, refuse).fingerprint == again.fingerprint


def large(seed: int = 0) -> Raw:
    """2 MiB, of which a glance reads an eighth."""
    x = torch.randint(0, 256, (512, 1, 64, 64), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Raw(Split(x, torch.arange(512) % 2), Split(x[:4], torch.arange(4) % 2), ("a", "b"))


def change(path: Path, places: Iterable[int], time_ns: int | None = None) -> None:
    """Flip a bit at each place; `time_ns` is what the file then says of its last change."""
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            old = file.read(1)
            file.seek(place)
            file.write(bytes([old[0] ^ 1]))
    if time_ns is not None:
        os.utime(path, ns=(time_ns, time_ns))


@pytest.fixture
def large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, int]:
    """The pixels of a store whose files count as large, and the time of their last change."""
    monkeypatch.setattr(store_module, "FULL_CHECK", 2**20)
    open_or_build("large", "key", tmp_path, lambda scratch: large())
    path = tmp_path / "data" / "large-key" / "train_x.bin"
    return path, path.stat().st_mtime_ns


def decoded_again(cache: Path) -> bool:
    """Opens the store, and says whether it had to be decoded for that."""
    scratches: list[Path] = []

    def build(scratch: Path) -> Raw:
        scratches.append(scratch)
        return large()

    open_or_build("large", "key", cache, build)
    return bool(scratches)


def test_of_a_large_file_both_ends_and_blocks_between_them_are_compared(
    tmp_path: Path, large_file: tuple[Path, int]
) -> None:
    path, written = large_file
    size = path.stat().st_size
    block = 31 * (size - store_module.BLOCK) // (store_module.BLOCKS - 1)
    for place in (0, block, block + store_module.BLOCK - 1, size - 1):
        change(path, [place], written)
        assert decoded_again(tmp_path), place
        written = path.stat().st_mtime_ns
        assert not decoded_again(tmp_path)


def test_a_large_file_is_not_read_whole_while_nothing_speaks_against_it(
    tmp_path: Path, large_file: tuple[Path, int]
) -> None:
    """Which is why a change between the blocks is not noticed under the old time, and is under a new one."""
    path, written = large_file
    change(path, [store_module.BLOCK + 1], written)
    assert not decoded_again(tmp_path)
    os.utime(path, ns=(written + 1, written + 1))
    assert decoded_again(tmp_path)


def test_a_large_file_that_was_copied_is_read_whole_and_kept(tmp_path: Path, large_file: tuple[Path, int]) -> None:
    path, written = large_file
    os.utime(path, ns=(written + 1, written + 1))
    assert not decoded_again(tmp_path)


def test_a_large_file_of_another_size_is_noticed_under_the_old_time(
    tmp_path: Path, large_file: tuple[Path, int]
) -> None:
    path, written = large_file
    with path.open("ab") as file:
        file.write(b"\0")
    os.utime(path, ns=(written, written))
    assert decoded_again(tmp_path)


def test_a_failed_decoding_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(scratch: Path) -> Raw:
        (scratch / "half").write_text("…")
        raise UserError("broken")

    with pytest.raises(UserError, match="broken"):
        open_or_build("small", "key", tmp_path, fail)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["small-key.lock"]


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    prints = [open_or_build("s", str(i), tmp_path, lambda scratch, i=i: raw(i // 2)).fingerprint for i in range(4)]
    assert prints[0] == prints[1] != prints[2] == prints[3]


def test_two_processes_build_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process holds the lock while it decodes; this one waits, says so, and reads what that one wrote."""
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_store import raw, open_or_build
def slow(scratch):
    Path({str(tmp_path / "started")!r}).touch()
    while not Path({str(tmp_path / "waited for")!r}).exists():
        time.sleep(0.01)
    return raw()
open_or_build("small", "key", Path({str(tmp_path)!r}), slow)
"""
    monkeypatch.setattr("clkd.locks.QUIET", 0.0)
    say = locks.log.warning

    def told(*line: Any) -> None:
        say(*line)
        (tmp_path / "waited for").touch()

    monkeypatch.setattr(locks.log, "warning", told)
    other = python(script)
    wait_for((tmp_path / "started").exists, other)
    with caplog.at_level(logging.WARNING, "clkd.data"):
        store = open_or_build("small", "key", tmp_path, refuse)
    assert other.wait() == 0
    assert torch.equal(store.train.x, raw().train.x)
    assert f"waiting for process {other.pid} on " in caplog.text
    assert ", decoding small since " in caplog.text


def test_an_unwritable_cache_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(self: Path, *args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", forbid)  # permissions do not bind a superuser, who may be running the tests
    with pytest.raises(UserError, match=r"is not writable .* set CLKD_CACHE"):
        open_or_build("small", "key", tmp_path, refuse)


def test_a_cache_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="set CLKD_CACHE"):
        open_or_build("small", "key", tmp_path / "file", refuse)


def test_statistics_are_those_of_the_pixels() -> None:
    x = raw().train.x
    mean, std = statistics(x)
    floats = x.double() / 255
    torch.testing.assert_close(mean, floats.mean((0, 2, 3)).float())
    torch.testing.assert_close(std, floats.std((0, 2, 3), correction=0).float())
    vectors = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    assert [t.tolist() for t in statistics(vectors)] == [[2.0, 5.0], [1.0, 1.0]]
    assert statistics(torch.zeros(4, 1, 2, 2, dtype=torch.uint8))[1].tolist() == [1.0]


@pytest.mark.slow
def test_a_second_run_imports_no_decoder(load: Callable[..., Store], tmp_path: Path) -> None:
    """Neither torchvision nor Avalanche nor scikit-learn: what was decoded once is only mapped."""
    load("digits")
    script = f"""
import sys
from pathlib import Path
import clkd.data
assert not {{"torch", "numpy", "torchvision", "sklearn"}} & set(sys.modules), "the front door is heavy"
from clkd.registry import Registry
from clkd.data.prepare import prepare
registry = Registry()
clkd.data.clkd_register_datasets(register=registry.register_for("datasets", "clkd.data", "clkd"))
part = registry.parse("datasets", {{"name": "cifar10", "offline": "digits", "size": 8, "channels": 1}})
here = Path({str(tmp_path)!r})
for part in (registry.parse("datasets", "digits"), part):
    store = prepare(part, build=registry.build, cache=here / "cache", base=here)
    assert len(store.train) == 1438
    if part.name == "digits":
        assert not {{"torchvision", "avalanche", "sklearn"}} & set(sys.modules), sorted(sys.modules)
assert not {{"torchvision", "avalanche"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
