"""What is saved comes back bit for bit, or a one-line error says which file is wrong; a kill loses nothing."""

import json
import logging
import math
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import python, wait_for

from clkd.checkpoint import STATE, TENSORS, CheckpointError, latest, load, save
from clkd.errors import StorageError

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.int16, torch.int32,
    torch.int64, torch.bool,
]  # fmt: skip


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same(a, b):
    """Equal in structure, types and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return a == b


def tensors():
    def build(dtype, shape, seed):
        count = math.prod(shape) * dtype.itemsize
        raw = torch.randint(0, 2 if dtype is torch.bool else 256, (count,), dtype=torch.uint8, generator=seed)
        return raw.view(dtype).reshape(shape)

    seeds = st.integers(0, 2**31).map(lambda n: torch.Generator().manual_seed(n))
    shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
    return st.builds(build, st.sampled_from(DTYPES), shapes, seeds)


leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), tensors())
keys = st.one_of(st.text(max_size=3), st.sampled_from(["$", "__metadata__", "a/b"]), st.integers(-3, 3), st.booleans())
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
    ),
    max_leaves=12,
)


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(tree=st.dictionaries(keys, trees, max_size=4))
def test_any_tree_comes_back_as_it_was(tmp_path, tree):
    assert same(load(save(tmp_path, "any", tree)), tree)


def test_an_optimizer_goes_on_from_its_checkpoint(tmp_path):
    def optimizer():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.Adam(model.parameters(), lr=0.1, betas=(0.8, 0.99))

    def step(model, adam):
        adam.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        adam.step()

    model, adam = optimizer()
    step(model, adam)
    saved = save(tmp_path, "exp_00", {"model": model.state_dict(), "optimizer": adam.state_dict()})
    assert same(load(saved)["optimizer"], adam.state_dict())
    other, resumed = optimizer()
    other.load_state_dict(load(saved)["model"])
    resumed.load_state_dict(load(saved)["optimizer"])
    step(model, adam)
    step(other, resumed)
    assert torch.equal(model.weight, other.weight)


def test_views_shared_and_gradients(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tree = {
        "turned": base.T,
        "slice": base[:, 1],
        "whole": base,
        "again": base,
        "expanded": torch.ones(1).expand(5),
        "parameter": torch.nn.Parameter(base[0]),
        "channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "negated": torch.tensor([1 + 2j]).conj().imag,
    }
    found = load(save(tmp_path, "views", tree))
    assert all(torch.equal(found[name], tree[name]) for name in tree)
    found["whole"].zero_()
    assert torch.equal(found["again"], base)  # each came back with memory of its own
    assert not found["parameter"].requires_grad


def test_what_was_loaded_can_be_changed_without_touching_the_file(tmp_path):
    saved = save(tmp_path, "a", {"w": torch.ones(3)})
    load(saved)["w"].zero_()
    assert load(saved)["w"].tolist() == [1, 1, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_of_a_gpu_come_back_on_the_cpu(tmp_path):
    found = load(save(tmp_path, "gpu", {"w": torch.arange(5, device="cuda")}))
    assert found["w"].device.type == "cpu"
    assert found["w"].tolist() == [0, 1, 2, 3, 4]


def test_what_cannot_be_kept_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"cannot hold set \(at '/a/1'\)"):
        save(tmp_path / "new", "bad", {"a": [1, {2}]})
    assert not (tmp_path / "new").exists()


def test_the_file_says_who_wrote_it_and_holds_no_nan_literal(tmp_path):
    document = json.loads((save(tmp_path, "a", {"x": math.nan}) / STATE).read_text(), parse_constant=pytest.fail)
    assert document["schema"] == 2
    assert document["clkd"]
    assert len(document["tensors_sha256"]) == 64


TREE = {"w": torch.arange(100.0), "epoch": 3, "name": "ü"}


@pytest.mark.parametrize("file", [STATE, TENSORS])
def test_every_altered_byte_is_noticed(tmp_path, file):
    path = save(tmp_path, "a", TREE) / file
    good = path.read_bytes()
    for at in range(0, len(good), max(1, len(good) // 60)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(CheckpointError) as caught:
            load(tmp_path / "a")
        assert file in str(caught.value) or "schema" in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_bytes(good)
    assert same(load(tmp_path / "a"), TREE)


@pytest.mark.parametrize("file", [STATE, TENSORS])
@pytest.mark.parametrize("part", [0, 0.5, 0.99])
def test_a_file_cut_short_is_noticed(tmp_path, file, part):
    path = save(tmp_path, "a", TREE) / file
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=rf"{file}: cut short or altered"):
        load(tmp_path / "a")


@pytest.mark.parametrize("file", [STATE, TENSORS])
def test_a_missing_file_is_named(tmp_path, file):
    (save(tmp_path, "a", TREE) / file).unlink()
    with pytest.raises(CheckpointError, match=rf"{file}: missing"):
        load(tmp_path / "a")


def test_a_newer_schema_asks_for_a_newer_clkd(tmp_path):
    path = save(tmp_path, "a", TREE) / STATE
    document = json.loads(path.read_text()) | {"schema": 3, "clkd": "9.0"}
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"clkd 9\.0 wrote it in schema 3, .* upgrade clkd"):
        load(tmp_path / "a")


def test_an_unwritable_place_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written: Not a directory"):
        save(tmp_path / "file" / "deeper", "a", TREE)


def test_keep_removes_the_oldest_and_nothing_else(tmp_path):
    other = tmp_path / "notes"
    other.mkdir()
    for name in ["z", "y", "x", "w"]:  # the order of saving counts, not that of names
        save(tmp_path, name, {"name": name}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "w", "x"]
    assert latest(tmp_path) == tmp_path / "w"


def test_saving_the_same_name_again_replaces_it(tmp_path):
    save(tmp_path, "a", {"n": 1})
    save(tmp_path, "b", {"n": 2})
    save(tmp_path, "a", {"n": 3})
    assert load(tmp_path / "a") == {"n": 3}
    assert latest(tmp_path) == tmp_path / "a"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_latest_passes_over_broken_ones_and_says_so(tmp_path, caplog):
    assert latest(tmp_path) is None
    assert latest(tmp_path / "nowhere") is None
    for name in "abc":
        save(tmp_path, name, {"name": name, "w": torch.ones(3)})
    (tmp_path / "c" / TENSORS).write_bytes(b"")
    (tmp_path / "b" / STATE).unlink()
    with caplog.at_level(logging.WARNING):
        assert latest(tmp_path) == tmp_path / "a"
    assert "cut short or altered" in caplog.text


def test_latest_survives_copying_which_changes_all_times(tmp_path):
    for name in ["b", "a"]:
        save(tmp_path / "here", name, {"name": name})
    shutil.copytree(tmp_path / "here" / "a", tmp_path / "there" / "a", copy_function=shutil.copyfile)
    shutil.copytree(tmp_path / "here" / "b", tmp_path / "there" / "b", copy_function=shutil.copyfile)
    assert latest(tmp_path / "there") == tmp_path / "there" / "a"


def test_between_the_two_renames_the_replaced_one_is_still_found(tmp_path):
    save(tmp_path, "a", {"n": 1})
    (tmp_path / "a").rename(tmp_path / ".a.replaced")
    (tmp_path / ".a-123.partial").mkdir()
    found = latest(tmp_path)
    assert found is not None
    assert load(found) == {"n": 1}
    save(tmp_path, "a", {"n": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


SAVER = """
import sys, torch
from pathlib import Path
from clkd.checkpoint import save
torch.set_num_threads(1)
directory, n = Path(sys.argv[1]), 0
while True:
    n += 1
    name = f"exp_{n % 3:02d}" if sys.argv[2] == "rotate" else "last"
    save(directory, name, {"n": n, "w": torch.full((40_000,), n)}, keep=2)
    print(n, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("names", ["rotate", "same"])
def test_a_kill_in_the_middle_leaves_the_last_good_one(tmp_path, names):
    """What was reported as saved, or something newer, is there and whole after SIGKILL at any moment."""
    delays = [0.0, 0.0047]
    for delay in delays:
        process = python(SAVER, str(tmp_path), names)
        wait_for(process.out.read_text, process)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        reported = [int(line) for line in process.communicate()[0].split()]
        found = latest(tmp_path)
        assert found is not None
        tree = load(found)
        assert tree["n"] >= reported[-1]
        assert torch.equal(tree["w"], torch.full((40_000,), tree["n"]))


@pytest.mark.parametrize("moment", range(8))
def test_a_stop_at_each_disk_operation_leaves_a_good_one(tmp_path, moment, monkeypatch):
    """The same without luck: saving stops dead at its n-th sync, rename or removal."""
    save(tmp_path, "last", {"n": 1})
    calls = iter(range(100))

    class Dead(BaseException):
        pass

    def deadly(function):
        def call(*args, **kwargs):
            if next(calls) >= moment:
                raise Dead
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", deadly(os.fsync))
        patch.setattr(Path, "rename", deadly(Path.rename))
        patch.setattr(shutil, "rmtree", deadly(shutil.rmtree))
        with pytest.raises(Dead):
            save(tmp_path, "last", {"n": 2}, keep=1)
    found = latest(tmp_path)
    assert found is not None
    assert load(found)["n"] == (1 if moment < 6 else 2)
    save(tmp_path, "last", {"n": 3}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_one_that_needs_another_is_passed_over_where_that_is_broken(tmp_path, caplog):
    save(tmp_path, "old", {"n": 0})
    save(tmp_path, "entry", {"n": 1})
    save(tmp_path, "step", {"n": 2}, needs="entry")
    assert latest(tmp_path).name == "step"
    (tmp_path / "entry" / STATE).write_text("{}")
    assert latest(tmp_path).name == "old"
    assert "an older checkpoint is looked for" in caplog.text


def test_some_neither_count_nor_go(tmp_path):
    for n in range(3):
        save(tmp_path, "step", {"n": n}, keep=1, beside=("step",))
        save(tmp_path, f"end{n}", {"n": n}, keep=1, beside=("step",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["end2", "step"]


def test_a_tensor_comes_back_in_its_order_in_memory(tmp_path):
    """What is summed up in another order differs in its last bits."""
    images = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tree = {"images": images, "turned": torch.arange(6).view(2, 3).T, "part": torch.arange(12).view(3, 4)[:, ::2]}
    found = load(save(tmp_path, "a", tree))
    assert all(torch.equal(found[name], tree[name]) for name in tree)
    assert found["images"].is_contiguous(memory_format=torch.channels_last)
    assert found["turned"].stride() == (1, 3)
    assert found["part"].is_contiguous(), "what leaves gaps is laid out anew"
