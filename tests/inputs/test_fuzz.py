"""`clkd validate` survives whatever it is given: thousands of scenarios, broken in their structure or in their text."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clkd.cli.main import main
from clkd.scenario.document import parse, to_yaml

SHIPPED = sorted((Path(__file__).parents[2] / "scenarios").glob("*.yaml"))
TEXTS = [path.read_text() for path in SHIPPED] + [
    """\
name: mixed
seed: 3
method: er
stream:
  dataset: {name: image_folder, path: pictures, test_fraction: 0.3, offline: {name: digits, size: 8}}
  split: {by: class, classes: [[0, 1], [cat]], validation: 0.1}
  augment: {crop: 2, flip: true, views: 2}
student: {model: {kind: mlp, hidden: [16, 8]}, head: {kind: cosine}}
teachers:
  slow: {kind: ema, decay: 0.9}
  big: {kind: fit, model: resnet20, optimizer: {kind: sgd, lr: 0.1}, recall: memory}
  all: {kind: ensemble, members: [slow, big]}
losses:
  - {kind: kd, between: [student, all], temperature: {kind: linear, start: 4, epochs: 2}, weight: old_fraction}
  - {kind: features, between: [student.stage1, big.stage1], align: conv1x1, weight: 0.1}
  - {kind: cross_entropy, name: replayed, between: [student@replay]}
memory: {kind: reservoir, size: 500}
transfer: {kind: coral, weight: 0.1}
metrics: [average_accuracy]
train: {epochs: 1, optimizer: {kind: adam, lr: 1e-3}, scheduler: {kind: cosine}, precision: auto}
tracking: {mode: offline, tags: {a: b}, trackers: [jsonl]}
"""
]
WHOLE = [parse(text).data for text in TEXTS]

WORDS = sorted(
    {word for text in TEXTS for word in re.findall(r"[\w@.]+", text)}
    | {
        "",
        "~",
        "student",
        "student@replay9",
        "student.",
        "@new",
        "../..",
        "none",
        "é",
        "\u202e",
        "💥",
        "kind",
        "a" * 5000,
    }
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, 10**400, -(10**4000), 0.5, 1e308, -1e-320]),
    st.floats(),
    st.integers(),
    st.sampled_from(WORDS),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
junk = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
far = st.integers(0, 10**6)


def places(data: Any, place: tuple = ()) -> list[tuple]:
    """Where anything stands below `data`, containers first."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place, *(found for key, value in inner for found in places(value, (*place, key)))]


def at(data: Any, place: tuple) -> Any:
    for step in place:
        data = data[step]
    return data


def put(data: Any, place: tuple, value: Any) -> Any:
    if not place:
        return value
    at(data, place[:-1])[place[-1]] = value
    return data


OPERATIONS = ("replace", "remove", "rename", "add", "swap", "wrap", "repeat", "grow")


def mutated(data: Any, how: str, first: int, second: int, value: Any, word: str) -> Any:
    """The scenario with one change to its structure."""
    there = places(data)
    one, other = there[first % len(there)], there[second % len(there)]
    held = at(data, one)
    if how == "replace":
        return put(data, one, value)
    if how == "swap":
        other_held = copy.deepcopy(at(data, other))
        data = put(data, other, copy.deepcopy(held))
        return put(data, one, other_held) if one in places(data) else data
    if how == "wrap":
        return put(data, one, {word: held} if second % 2 else [held])
    if how == "add" and isinstance(held, dict):
        held[word] = value
    elif how in ("add", "repeat") and isinstance(held, list):
        held.extend([copy.deepcopy(held[second % len(held)])] * 2 if held and how == "repeat" else [value])
    elif how == "grow":
        deep = value
        for _ in range(second % 120):
            deep = [deep] if first % 2 else {"kind": deep}
        return put(data, one, deep)
    elif one and how in ("remove", "rename"):
        above = at(data, one[:-1])
        taken = above.pop(one[-1])
        if how == "rename" and isinstance(above, dict):
            above[word] = taken
    return data


TEXT_OPERATIONS = ("delete", "insert", "double line", "drop line", "cut", "indent")
TOKENS = [
    *"{}[]:,-&*!|>'\"#%@`?~\t\n\r ", "&a ", "*a", "<<: *a", "!!binary ", "!!set ", "!!python/object:os.system ",
    "---\n", "...\n", "%YAML 9.9\n", "\x00", "\x07", "\ufeff", "\u2028", "\x85", "💥", "? ", "- - - ", "0x", "1e999",
    ".nan", "!!float x", "!!int 1_0", "!!timestamp ", "9" * 5000, "[" * 400, "{a: " * 400,
]  # fmt: skip


def rewritten(text: str, how: str, first: int, second: int, token: str) -> str:
    """The text with one change to its letters."""
    spot = first % (len(text) + 1)
    lines = text.splitlines(keepends=True) or [""]
    row = first % len(lines)
    match how:
        case "delete":
            return text[:spot] + text[spot + second % 30 :]
        case "insert":
            return text[:spot] + token + text[spot:]
        case "double line":
            return "".join([*lines[: row + 1], *lines[row:]])
        case "drop line":
            return "".join([*lines[:row], *lines[row + 1 :]])
        case "indent":
            return "".join([*lines[:row], " " * (second % 5) + lines[row].lstrip(" "), *lines[row + 1 :]])
        case _:
            return text[:spot]


structures = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), far, far, junk, st.sampled_from(WORDS)), min_size=1, max_size=4
)
letters = st.lists(st.tuples(st.sampled_from(TEXT_OPERATIONS), far, far, st.sampled_from(TOKENS)), max_size=3)
PLACE = re.compile(r":\d+:\d+: |^clkd: |^--set ")
FEW = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
MANY = settings(FEW, max_examples=2200 // len(WHOLE) + 1)


@pytest.fixture
def judge(tmp_path, capfd, monkeypatch):
    """Validate a text as a file; fails unless it ends with 0 or 2 and short lines that each name a place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("clkd.plugins.entry_points", lambda group: ())  # looking for installed plugins takes longest

    def judge(content: bytes) -> None:
        (tmp_path / "s.yaml").write_bytes(content)
        code = main(["validate", "s.yaml"])
        said = capfd.readouterr()
        assert code in (0, 2)
        assert "Traceback" not in said.err
        if code == 0:
            assert said.out == "ok: s.yaml\n"
            return
        lines = said.err.splitlines()
        assert lines
        for line in lines:
            assert PLACE.search(line), line[:300]
            assert len(line) <= 700, line[:300]

    return judge


def broken(base: Any, changes: list[tuple], edits: list[tuple]) -> bytes:
    data = copy.deepcopy(base)
    for how, first, second, value, word in changes:
        data = mutated(data, how, first, second, value, word)
    text = to_yaml(data)
    for how, first, second, token in edits:
        text = rewritten(text, how, first, second, token)
    return text.encode("utf-8", "surrogatepass")


@FEW
@given(changes=structures, edits=letters)
def test_no_scenario_brings_validate_down(judge, changes, edits):
    """One that has something of everything."""
    judge(broken(WHOLE[-1], changes, edits))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("base", range(len(WHOLE)))
@MANY
@given(changes=structures, edits=letters)
def test_nor_do_any_of_thousands(judge, base, changes, edits):
    judge(broken(WHOLE[base], changes, edits))
