"""What docs/transfer.md shows is what happens, and its table has every strategy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from clkd.engine.execute import execute
from clkd.engine.explain import explain
from clkd.plugins import load_plugins
from clkd.registry import Registry
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load
from clkd.scenario.request import RunRequest

TEXT = (Path(__file__).parents[2] / "docs/transfer.md").read_text(encoding="utf-8")
REGISTRY: Registry = load_plugins().registry


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def rows() -> dict[str, list[str]]:
    lines = re.findall(r"^\| `(\w+)` \|(.*)\|$", TEXT.split("## All of them")[1].split("\n## ")[0], re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in lines}


def written(folder: Path, shown: dict[str, Any]) -> Path:
    path = folder / "s.yaml"
    path.write_text(to_yaml({"name": "doc", **shown, "tracking": {"mode": "off"}, "output": str(folder / "run")}))
    return path


@pytest.mark.parametrize("place", range(3))
def test_the_scenarios_shown_train(tmp_path: Path, place: int) -> None:
    path = written(tmp_path, yaml.safe_load(blocks("yaml")[place]))
    assert execute(RunRequest(scenario=path, quiet=True), load_plugins())["status"] == "finished"


def test_what_the_first_will_train_reads_well(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, yaml.safe_load(blocks("yaml")[0])), [], REGISTRY)
    formula = explain(loaded, load_plugins())["experiences"][1]["loss"]
    assert formula.endswith(" + 0.50·dann + 0.0001·bsp")


def test_every_strategy_is_in_the_table_and_says_whether_it_needs_a_source() -> None:
    assert set(rows()) == set(REGISTRY.names("transfers"))
    for name, (_, _, source, _, _) in rows().items():
        free = getattr(REGISTRY.get("transfers", name).options, "source_free", False)
        assert free == REGISTRY.get("transfers", name).summary.endswith("; source-free")
        assert (source == "yes") == (not free and name not in ("none", "mcd")), name


@pytest.mark.parametrize("name", sorted(set(REGISTRY.names("transfers")) - {"none"}))
def test_the_class_and_its_options_agree_on_the_source(name: str) -> None:
    built = REGISTRY.build(REGISTRY.parse("transfers", name), seed=0)
    assert built.source_free == getattr(REGISTRY.get("transfers", name).options, "source_free", False)
