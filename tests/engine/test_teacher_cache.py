"""The teacher cache: what is read is what was said, rounded to float16, in whatever run it was said first."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import clkd, python, start
from safetensors.torch import load_file, save_file

from clkd import checkpoint
from clkd.cli.main import main
from clkd.engine.compose import Composer, Composition
from clkd.engine.execute import execute
from clkd.locks import InUse, beside
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load
from clkd.scenario.request import RunRequest
from clkd.seeding import generator
from clkd.signals import Batch, Needs, Signals
from clkd.teachers.answers import AlteredError, Answers, allocated, folders, make_room
from clkd.teachers.base import Teacher
from clkd.teachers.cached import Blocks
from clkd.teachers.network import NetworkTeacher

PLUGINS = load_plugins()
BASE: dict[str, Any] = {
    "name": "tiny",
    "stream": {
        "dataset": {"name": "digits", "rows_per_class": 20},
        "split": {"by": "class", "experiences": 5},
        "augment": {"crop": 1, "views": 2},
    },
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "teachers": {"big": {"kind": "fit", "model": {"kind": "mlp", "hidden": [24]}, "epochs": 1}},
    "losses": [
        "cross_entropy",
        {"kind": "kd", "between": ["student", "big"]},
        {"kind": "features", "between": ["student.penultimate", "big.penultimate"], "align": "linear"},
    ],
    "memory": {"kind": "reservoir", "size": 30},
    "train": {"epochs": 3, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05}},
    "tracking": {"mode": "offline"},
}
WIDTH = 10 + 24


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("CLKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each question to a network was about."""
    rows: list[int] = []
    say = NetworkTeacher._say

    def counted(self: NetworkTeacher, batch: Batch, needs: Needs) -> Signals:
        rows.append(len(batch))
        return say(self, batch, needs)

    monkeypatch.setattr(NetworkTeacher, "_say", counted)
    return rows


def write(name: str, changes: dict[str, Any]) -> Path:
    path = Path(f"{name}.yaml")
    path.write_text(to_yaml({**BASE, **changes, "output": str(Path(name).absolute())}))
    return path


def run(name: str, limit: int | None = None, **changes: Any) -> dict[str, Any]:
    return execute(RunRequest(scenario=write(name, changes), limit_experiences=limit, quiet=True), PLUGINS)


def stream(**changes: Any) -> dict[str, Any]:
    return {**BASE["stream"], **changes}


def weights(name: str) -> dict[str, Any]:
    last = checkpoint.latest(Path(name) / "checkpoints")
    assert last is not None
    state: dict[str, Any] = checkpoint.load(last)["student"]["state"]
    return state


def assert_same_bits(a: str, b: str) -> None:
    for key, tensor in weights(a).items():
        assert torch.equal(tensor, weights(b)[key]), key


def logged(name: str, key: str) -> list[float]:
    lines = map(json.loads, (Path(name) / "metrics.jsonl").read_text().splitlines())
    return [line["metrics"][f"teacher_cache/big/{key}"] for line in lines if line["event"] == "experience"]


def files() -> list[Answers]:
    return [Answers.open(folder) for folder in folders(Path("cache/answers").absolute())]


def composed(**changes: Any) -> Composition:
    loaded = load(write("composed", changes), [], PLUGINS.registry)
    Path("cache").mkdir(exist_ok=True)
    return Composer(
        loaded.scenario, PLUGINS.registry, torch.device("cpu"), Path("cache").absolute(), loaded.base
    ).compose()


def teacher_of(composition: Composition) -> Teacher:
    return composition.parts.teachers["big"]


@pytest.mark.parametrize("split", ["class", "permuted"])
def test_it_says_what_the_teacher_says_rounded_to_float16_in_every_view_and_domain(split: str) -> None:
    by_domain = {"by": "domain", "transform": "permuted", "experiences": 3}
    there = composed(**({"stream": stream(split=by_domain)} if split == "permuted" else {}))
    parts, needs = there.parts, Needs(True, ("penultimate",))
    for experience in there.stream:
        parts.begin(experience, 0)
        rows = experience.train.ready("cpu")
        new = rows.gather(torch.randperm(len(rows), generator=generator(1))[:16])
        held = parts.memory.sample(9, generator(2))
        batch = new.joined(held)
        for view in (0, 1):
            seen = parts.augment.fixed(batch, torch.full_like(batch.y, view))
            recalled = teacher_of(there).signals(seen, needs)
            said = teacher_of(there)._say(seen, needs)  # type: ignore[attr-defined]  # past the cache
            torch.testing.assert_close(recalled.logits, said.logits, rtol=2**-10, atol=1e-6)
            torch.testing.assert_close(recalled.features, said.features, rtol=2**-10, atol=1e-6)
            assert torch.equal(recalled.logits, recalled.logits.half().float())
            assert torch.equal(recalled.valid, said.valid)
            assert torch.equal(recalled.class_ids, said.class_ids)
        parts.memory.observe(rows.gather(torch.arange(len(rows))), said)
        parts.end(experience)
    assert len(files()) == (3 if split == "permuted" else 1)


def test_a_cold_and_a_warm_cache_train_the_same_bits_and_another_seed_hits(asked: list[int]) -> None:
    run("cold")
    assert sum(asked) == 2 * 200, "each row once in each of its two views, in all five experiences"
    run("warm")
    run("other", seed=1)
    assert sum(asked) == 2 * 200
    assert_same_bits("cold", "warm")
    assert logged("warm", "hit_rate") == logged("other", "hit_rate") == [1.0] * 5
    assert logged("cold", "hit_rate")[0] == 0.0
    assert all(0 < rate < 1 for rate in logged("cold", "hit_rate")[1:]), "replayed rows were answered before"
    assert logged("cold", "rows_asked") == [80.0] * 5
    assert logged("warm", "seconds_saved")[0] > 0
    assert logged("warm", "bytes")[-1] >= 2 * 200 * WIDTH * 2


def test_members_of_an_ensemble_answer_out_of_it(asked: list[int]) -> None:
    """They are heard by way of it alone."""
    members = {
        name: {**BASE["teachers"]["big"], "model": {"kind": "mlp", "hidden": [n]}} for name, n in (("a", 8), ("b", 9))
    }
    teachers = {**members, "both": {"kind": "ensemble", "members": ["a", "b"]}}
    losses = ["cross_entropy", {"kind": "kd", "between": ["student", "both"]}]
    run("cold", teachers=teachers, losses=losses)
    assert sum(asked) == 2 * 2 * 200
    run("warm", teachers=teachers, losses=losses, seed=1)
    assert sum(asked) == 2 * 2 * 200


def test_who_asked_first_does_not_matter() -> None:
    """Half a cache, filled by another seed and by another cut of the same data, gives the bits of an empty one."""
    run("cold")
    shutil.rmtree("cache/answers")
    run("other", seed=1, limit=2)
    run("cut", limit=1, stream=stream(split={"by": "class", "experiences": 2, "order": "random"}))
    run("half")
    assert_same_bits("cold", "half")


def test_a_run_resumed_on_an_empty_cache_ends_with_the_same_bits() -> None:
    run("whole")
    run("cut", limit=3)
    shutil.rmtree("cache/answers")
    execute(RunRequest(resume="cut", quiet=True), PLUGINS)
    assert_same_bits("whole", "cut")


def test_more_views_add_to_those_that_are_there(asked: list[int]) -> None:
    """The fitted teacher is the same: it is trained on views drawn anew."""
    run("two")
    run("three", stream=stream(augment={"crop": 1, "views": 3}))
    assert sum(asked) == 3 * 200
    assert len(files()) == 1
    assert files()[0].rows() == 3 * 200


def checkpointed(name: str, factor: float = 1.0) -> dict[str, Any]:
    """The fitted teacher as a checkpoint, its last layer scaled."""
    state = load_file(next(Path("cache/teachers").glob("*.safetensors")))
    state["head.weight"] = state["head.weight"] * factor
    save_file(state, f"{name}.safetensors")
    return {"kind": "checkpoint", "path": f"{name}.safetensors", "model": {"kind": "mlp", "hidden": [24]}}


@pytest.mark.parametrize(
    "change",
    [
        {"stream": stream(augment={"crop": 2, "views": 2})},
        {"stream": stream(augment={"crop": 1, "flip": True, "views": 2})},
        {"stream": stream(dataset={"name": "digits", "rows_per_class": 19})},
        {"stream": stream(split={"by": "domain", "transform": "rotated", "angles": [30.0, 60.0]})},
        {"losses": BASE["losses"][:2]},
        {"weights": 1.5},
        {"view": {"mean": [0.5], "std": [0.25]}},
        {"classes": list(range(9, -1, -1))},
    ],
    ids=["crop", "flip", "data", "domain", "kept", "weights", "teacher's view", "classes"],
)
def test_whatever_decides_an_answer_is_in_its_key(change: dict[str, Any], asked: list[int]) -> None:
    run("fitted", limit=1)
    shutil.rmtree("cache/answers")
    run("first", limit=1, teachers={"big": checkpointed("t")})
    before = sum(asked)
    own = {key: change[key] for key in ("view", "classes") if key in change}
    other = {**checkpointed("u", change.get("weights", 1.0)), **own}
    sections = {key: value for key, value in change.items() if key in BASE}
    run("second", limit=1, teachers={"big": other}, **sections)
    assert logged("second", "hit_rate") == [0.0]
    assert sum(asked) > before
    assert len(files()) == 2


@pytest.mark.parametrize(("able", "rate"), [(True, 0.0), (False, 1.0)])
def test_auto_is_filed_as_the_precision_that_it_is_here(
    able: bool, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able}, raising=False)
    run("float32", limit=1)
    run("auto", limit=1, train={**BASE["train"], "precision": "auto"})
    assert logged("auto", "hit_rate") == [rate]
    run("bf16", limit=1, train={**BASE["train"], "precision": "bf16"})
    assert logged("bf16", "hit_rate") == [1.0 - rate]


@pytest.fixture
def arithmetic() -> Iterator[None]:
    """Torch's switches are put back: one in the words of all versions, one in those of the version that is here."""
    matmul, newer = torch.get_float32_matmul_precision(), getattr(torch.backends.cudnn, "conv", None)
    before = newer.fp32_precision if newer else torch.backends.cudnn.allow_tf32
    yield
    if newer:
        newer.fp32_precision = before
    else:
        torch.backends.cudnn.allow_tf32 = before
    torch.set_float32_matmul_precision(matmul)


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("kind", ["products", "convolutions"])
def test_what_torch_computes_float32_in_is_in_the_key(kind: str) -> None:
    run("first", limit=1)
    if kind == "products":
        torch.set_float32_matmul_precision("high")
    elif newer := getattr(torch.backends.cudnn, "conv", None):
        newer.fp32_precision = "ieee"
    else:
        torch.backends.cudnn.allow_tf32 = False
    run("second", limit=1)
    assert logged("second", "hit_rate") == [0.0]


def test_the_same_weights_from_another_file_hit() -> None:
    run("fitted", limit=1)
    run("copy", limit=1, teachers={"big": checkpointed("elsewhere")})
    assert logged("copy", "hit_rate") == [1.0]


@pytest.mark.parametrize(("recall", "rows"), [("memory", 400 + 4 * 2 * 30), (False, None)])
def test_recall_chooses_the_place(recall: Any, rows: int | None, asked: list[int]) -> None:
    run("elsewhere", teachers={"big": {**BASE["teachers"]["big"], "recall": recall}})
    assert files() == []
    if rows:
        assert sum(asked) == rows, "once per experience, what is in memory too"


def test_a_teacher_that_follows_the_student_leaves_nothing_on_disk() -> None:
    losses = ["cross_entropy", {"kind": "kd", "between": ["student", "previous"]}]
    run("previous", teachers={"previous": "previous"}, losses=losses, limit=3)
    assert files() == []


def test_a_bound_is_obeyed_and_the_least_recently_used_makes_way(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, asked: list[int]
) -> None:
    monkeypatch.setenv("CLKD_ANSWERS_GB", "0.000001")
    with caplog.at_level("INFO", logger="clkd.engine"):
        run("none", limit=1)
    assert "teachers.big: not kept in the cache" in caplog.text
    assert files()[0].rows() == 0
    assert sum(asked) == 2 * 40, "it is recalled in memory instead"
    monkeypatch.setenv("CLKD_ANSWERS_GB", "0.00006")
    run("first")
    (first,) = files()
    run("second", stream=stream(augment={"crop": 2, "views": 2}))
    (second,) = (answers for answers in files() if answers.rows())
    assert second.folder != first.folder, "two do not fit into 60 kB, so the one that nobody uses made way"
    held = InUse(beside(second.folder, "use"))
    run("third", limit=5)
    assert second.rows() == 400, "what is in use stays"
    del held


@pytest.mark.parametrize("given", ["many", "-1", "nan"])
def test_a_bound_that_is_no_number_is_a_mistake(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.environ["CLKD_ANSWERS_GB"] = given
    try:
        code = main(["run", str(write("wrong", {})), "-q"])
    finally:
        del os.environ["CLKD_ANSWERS_GB"]
    assert code == 2
    assert f"CLKD_ANSWERS_GB={given}: give a number of gigabytes" in capsys.readouterr().err


def harm(answers: Answers, how: str) -> None:
    meta, content = answers.folder / "meta.json", answers.path.read_bytes()
    if how == "flip":
        answers.path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif how == "cut":
        answers.path.write_bytes(content[:-1])
    elif how == "edit":
        meta.write_text(meta.read_text().replace('"asked": ', '"asked": 1'))
    elif how in FOLDERS:
        (answers.folder / FOLDERS[how]).unlink()
        (answers.folder / FOLDERS[how]).mkdir()
    elif how in ("list", "empty"):
        meta.write_text("[]" if how == "list" else "")
    elif how == "a file":
        shutil.rmtree(answers.folder)
        answers.folder.write_text("in its place")
    else:
        meta.write_text("{")


FOLDERS = {"a folder": "answers.bin", "marks are a folder": "present.bin", "facts are a folder": "meta.json"}


@pytest.mark.parametrize("how", ["flip", "cut", "edit", "garbage", "list", "empty", "a file", *FOLDERS])
def test_what_was_altered_is_asked_again_with_one_warning(how: str, caplog: pytest.LogCaptureFixture) -> None:
    run("sound", limit=1)
    content = files()[0].path.read_bytes()
    harm(files()[0], how)
    with caplog.at_level("WARNING", logger="clkd"):
        run("mended", limit=1)
    assert [r.getMessage().count("was altered") for r in caplog.records] == [1]
    assert files()[0].path.read_bytes() == content
    assert_same_bits("sound", "mended")


SLOW = """
import os, signal
from clkd.teachers.answers import Answers
from clkd.cli.main import main
plain, written = Answers.write, []
def write(self, view, block, content):
    if len(written) == 3:
        self.path.open("r+b").write(bytes(len(content)))  # half a block is on its way, and then
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(block)
    plain(self, view, block, content)
Answers.write = write
main(["run", "victim.yaml", "-q"])
"""


def test_killed_while_filling_it_leaves_what_was_whole(asked: list[int]) -> None:
    run("sound")
    content = files()[0].path.read_bytes()
    shutil.rmtree("cache/answers")
    write("victim", {})
    assert python(SLOW).wait() == -signal.SIGKILL
    assert 0 < files()[0].rows() < 80, "a usable beginning"
    before = sum(asked)
    run("after")
    assert sum(asked) - before < 400
    assert files()[0].path.read_bytes() == content
    assert_same_bits("sound", "after")


def test_space_that_a_killed_run_took_is_not_asked_for_again(
    asked: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All blocks are reserved before the first one is asked about."""
    run("sound", limit=1)
    (answers,) = files()
    views, blocks = answers.views, range(len(answers.blocks))
    every = [(view, block) for view in range(views) for block in blocks]
    (answers.folder / "present.bin").write_bytes(bytes(len((answers.folder / "present.bin").read_bytes())))
    for place in every:
        answers.reserve(*place)
    monkeypatch.setenv("CLKD_ANSWERS_GB", str(1.2 * allocated(answers.folder) / 1e9))
    assert make_room(answers.folder.parent, answers, every)
    monkeypatch.setenv("CLKD_ANSWERS_GB", str(0.5 * allocated(answers.folder) / 1e9))
    assert not make_room(answers.folder.parent, answers, every)


def test_a_teacher_that_is_known_by_something_else_than_weights_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    run("any", limit=1)
    (answers,) = files()
    meta = json.loads((answers.folder / "meta.json").read_text())
    meta["facts"]["teacher"] = {"rule": 1}
    Answers.create(
        answers.folder.with_name("other"),
        {key: meta[key] for key in ("teacher", "data", "width", "blocks", "facts", "origin")},
    )
    assert main(["cache", "list"]) == 0
    assert main(["cache", "clear", "--all", "--yes"]) == 0


def test_two_runs_at_once_fill_one_file() -> None:
    run("fitted", limit=1)
    shutil.rmtree("cache/answers")
    both = [start("run", str(write(name, {})), "-q") for name in ("one", "two")]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert_same_bits("one", "two")
    assert files()[0].rows() == 400
    asked = sum(logged("one", "rows_asked")) + sum(logged("two", "rows_asked"))
    assert asked == 400, "whoever comes second waits and reads"


def test_verify_passes_and_then_fails_for_a_flipped_byte_and_for_other_weights(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("fitted", limit=1)
    shutil.rmtree("cache/answers")
    run("first", limit=2, teachers={"big": checkpointed("t")})
    assert main(["cache", "verify", "--rows", "100"]) == 0
    assert "ok" in capsys.readouterr().out

    sound = files()[0].path.read_bytes()
    harm(files()[0], "flip")
    assert main(["cache", "verify"]) == 1
    assert "1 of 8 blocks are not what was written" in capsys.readouterr().out
    files()[0].path.write_bytes(sound)

    checkpointed("t", 1.01)
    assert main(["cache", "verify", files()[0].folder.name[:6], "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["reason"] == "drift: the teacher's weights changed since"

    Path("t.safetensors").unlink()
    assert main(["cache", "verify"]) == 1
    assert "the teacher cannot be asked again: teachers.big: the teacher's file" in capsys.readouterr().out


def test_verify_sees_answers_that_were_never_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Whole and with the right checksum, but not this teacher's."""
    run("first", limit=1)
    (answers,) = files()
    for view in (0, 1):
        for block in (b for b in range(10) if answers.intact(view, b)):
            said = torch.frombuffer(bytearray(answers.read(view, block)), dtype=torch.float16)
            answers.write(view, block, (said * 1.02).numpy().tobytes())
    assert main(["cache", "verify"]) == 1
    assert "drift: answers in view" in capsys.readouterr().out


def test_list_and_clear(capsys: pytest.CaptureFixture[str]) -> None:
    run("first", limit=2)
    capsys.readouterr()
    assert main(["cache", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {entry["kind"] for entry in listed} == {"answers", "data", "teachers"}
    (answers,) = (entry for entry in listed if entry["kind"] == "answers")
    assert (answers["rows"], answers["views"], answers["teacher"]) == (160, 2, "big")
    assert answers["bytes"] == pytest.approx(160 * WIDTH * 2, abs=40_000)
    assert main(["cache", "list"]) == 0
    assert "big " in capsys.readouterr().out

    assert main(["cache", "clear"]) == 2
    assert main(["cache", "clear", "zzz", "--yes"]) == 2
    held = InUse(beside(Path(answers["path"]), "use"))
    assert main(["cache", "clear", "--answers", "--yes"]) == 0
    assert f"kept {answers['key']}: a run is using it" in capsys.readouterr().out
    del held
    assert main(["cache", "clear", answers["key"][:5], "--yes"]) == 0
    assert "deleted 1 " in capsys.readouterr().out
    assert files() == []
    assert main(["cache", "clear", "--all", "--yes", "--json"]) == 0
    assert {entry["kind"] for entry in json.loads(capsys.readouterr().out)} == {"data", "teachers"}
    assert main(["cache", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_nobody_there_to_confirm_deletes_nothing() -> None:
    run("first", limit=1)
    done = clkd("cache", "clear", "--all")
    assert (done.returncode, done.stderr) == (2, "clkd: cache clear: nobody is there to confirm: add --yes\n")
    assert len(files()) == 1


def test_blocks_hold_each_row_once_and_one_class_each() -> None:
    y = torch.randint(0, 4, (300,), generator=generator(0))
    blocks = Blocks(y, size=32)
    assert torch.equal(torch.cat(blocks.rows).sort().values, torch.arange(300))
    assert all(len(torch.unique(y[rows])) == 1 and 0 < len(rows) <= 32 for rows in blocks.rows)
    for number, rows in enumerate(blocks.rows):
        assert (blocks.of[rows] == number).all()
        assert torch.equal(blocks.slot[rows] - blocks.starts[number], torch.arange(len(rows)))


def test_a_file_that_is_not_there_is_altered() -> None:
    with pytest.raises(AlteredError):
        Answers.open(Path("nowhere"))


STOPPED = """
import os, signal, sys
from clkd.cli.main import main
from clkd.engine.teacher_cache import TeacherCache
whole = TeacherCache.answer
def answer(self, *args):
    TeacherCache.answer = whole
    os.kill(os.getpid(), signal.SIGTERM)
    return whole(self, *args)
TeacherCache.answer = answer
sys.exit(main(["run", "victim.yaml", "-q"]))
"""


@pytest.mark.slow
def test_a_signal_while_it_is_filled_is_obeyed_before_the_next_block() -> None:
    run("sound")
    shutil.rmtree("cache/answers")
    write("victim", {})
    assert python(STOPPED).wait() == 143
    assert sum(1 for mark in files()[0].marks() if mark) == 1
    execute(RunRequest(resume="victim", quiet=True), PLUGINS)
    assert_same_bits("sound", "victim")
