"""A budget in bytes is exact: what a memory holds on to never takes more, and one more row would not have fitted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clkd.engine.execute import execute
from clkd.errors import UserError
from clkd.experience import Rows
from clkd.memory.base import Memory
from clkd.memory.budget import rows_within
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load
from clkd.scenario.request import RunRequest
from clkd.testing import material
from clkd.testing.memory_laws import _life, storages

PLUGINS = load_plugins()
REGISTRY = PLUGINS.registry
NAMES = tuple(str(c) for c in range(len(material.CLASSES)))
BUDGETED: list[dict[str, Any]] = [
    {"kind": name}
    for name in REGISTRY.names("memories")
    if "size" in REGISTRY.get("memories", name).options.model_fields
]
BUDGETED += [{"kind": "reservoir", "store": ["logits"]}, {"kind": "gss", "store": ["penultimate"]}]
IDS = [" ".join(map(str, raw.values())) for raw in BUDGETED]
BESIDE = {
    "reservoir": 0, "ring": 8, "loss_aware": 4, "gss": 4, "random": 8, "class_balanced": 8, "experience_balanced": 8,
    "domain_balanced": 8, "herding": 8, "reservoir ['logits']": 4 * len(NAMES) + 8,
    "gss ['penultimate']": 4 + 4 * material.WIDTH + 8,
}  # fmt: skip
ROW = {name: 4 + 32 + beside for name, beside in BESIDE.items()}
"""Bytes of a row of `clkd.testing.material`: four pixels, ids, and what is kept beside."""


def build(raw: dict[str, Any], size: int | str) -> Memory:
    i = torch.arange(90)
    of_the_run = {"seed": 0, "shape": material.SHAPE, "class_names": NAMES, "device": torch.device("cpu")}
    context = SimpleNamespace(train=Rows(material.pixels(), i, i, i), rows=90, **of_the_run)
    part = REGISTRY.parse("memories", {**raw, "size": size})
    memory: Memory = REGISTRY.build(part, context=context, student=material.student())
    return memory


@pytest.mark.parametrize("budget", ["100B", "0.5kB", "1KiB", "3 kB", "1MB"])
@pytest.mark.parametrize("raw", BUDGETED, ids=IDS)
def test_bytes_held_stay_within_the_budget_to_the_row(raw, budget):
    limit = {"100B": 100, "0.5kB": 500, "1KiB": 1024, "3 kB": 3000, "1MB": 10**6}[budget]
    row = ROW[" ".join(map(str, raw.values()))]
    memory = build(raw, budget)
    for _, _ in _life(memory):
        held = sum(storages(memory).values())
        assert held == memory.nbytes() <= limit
    assert limit - row < held, "one more row would have fitted"
    assert len(memory) == min(limit // row, 90)


@pytest.mark.parametrize("raw", BUDGETED, ids=IDS)
def test_the_same_rows_are_kept_as_with_that_number_of_rows(raw):
    row = ROW[" ".join(map(str, raw.values()))]
    for (one, _), (other, _) in zip(_life(build(raw, f"{row * 11 + 3}B")), _life(build(raw, 11)), strict=True):
        assert material.equal(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("raw", BUDGETED, ids=IDS)
def test_less_than_a_row_is_refused_and_says_what_a_row_takes(raw):
    row = ROW[" ".join(map(str, raw.values()))]
    assert len(list(_life(build(raw, f"{row}B")))) > 0
    with pytest.raises(UserError, match=rf"^memory\.size: {row - 1}B is less than one row takes, which is {row} bytes"):
        build(raw, f"{row - 1}B")


@pytest.mark.parametrize("raw", BUDGETED, ids=IDS)
def test_all_keeps_every_row_of_the_stream(raw):
    """Whichever comes when: that of `clkd.testing.material` has 90."""
    memory = build(raw, "all")
    shown: set[int] = set()
    for _, experience in _life(memory):
        shown |= set(experience.train.sample_id.tolist())
    rows = memory.sample(100, torch.Generator())
    assert rows is not None
    assert sorted(rows.sample_id.tolist()) == sorted(shown)


def test_a_count_of_rows_needs_no_context():
    assert rows_within(7, None) == 7


@pytest.mark.parametrize("size", ["twenty", "20", "20 MB extra", "-3MB", "1e3kB", "20TB", 1.5, True, None, [5]])
def test_other_sizes_are_mistakes_with_an_example(size):
    with pytest.raises(ValueError, match="such as 500, or of bytes, such as 20MB"):
        REGISTRY.parse("memories", {"kind": "reservoir", "size": size})


def scenario(path: Path, size: int | str) -> Path:
    file = path / "tiny.yaml"
    file.write_text(
        to_yaml(
            {
                "name": "tiny",
                "stream": {
                    "dataset": {"name": "digits", "rows_per_class": 20},
                    "split": {"by": "class", "experiences": 2},
                },
                "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
                "losses": ["cross_entropy"],
                "memory": {"kind": "reservoir", "size": size},
                "train": {"epochs": 1, "batch_size": 32, "optimizer": {"kind": "sgd", "lr": 0.05}},
                "tracking": {"mode": "off"},
            }
        )
    )
    return file


def go(file: Path, **wishes: Any) -> dict[str, Any]:
    return execute(RunRequest(scenario=file, quiet=True, **wishes), PLUGINS)


def test_a_run_says_how_many_rows_its_budget_is_and_resumes(tmp_path, monkeypatch):
    """A digit takes 64 + 32 bytes."""
    monkeypatch.chdir(tmp_path)
    file = scenario(tmp_path, "2kB")
    assert go(file, dry_run=True)["description"]["memory"] == "reservoir, 2kB: 20 rows"
    assert load(file, (), REGISTRY).scenario.memory.dump()["size"] == "2kB"
    whole = go(file)
    cut = go(file, limit_experiences=1)
    resumed = execute(RunRequest(resume=cut["run_id"], quiet=True), PLUGINS)
    assert resumed["accuracy_matrix"] == whole["accuracy_matrix"]


def test_a_run_with_too_small_a_budget_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="95B is less than one row takes, which is 96 bytes"):
        go(scenario(tmp_path, "95B"))
    assert not list(tmp_path.glob("runs/*"))
