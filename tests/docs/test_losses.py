"""What docs/losses/ shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from clkd.engine.execute import execute
from clkd.engine.explain import explain
from clkd.losses.exemplar_options import SupConOptions
from clkd.losses.feature_options import FEATURE_LOSSES
from clkd.losses.relation_options import RELATION_LOSSES
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load
from clkd.scenario.request import RunRequest
from clkd.scenario.show import show

DOCS = Path(__file__).parents[2] / "docs/losses"
PAGES = {"feature": FEATURE_LOSSES, "relation": RELATION_LOSSES}
SCENARIO = {
    "name": "shown",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 12}, "split": {"by": "class", "experiences": 5}},
    "student": {"model": {"kind": "resnet8", "width": 3}, "head": "linear"},
    "memory": {"kind": "reservoir", "size": 20},
    "train": {"batch_size": 8, "optimizer": {"kind": "sgd", "lr": 0.01}},
}
TEACHERS = {"external": {"kind": "fit", "model": {"kind": "resnet8", "width": 4}, "epochs": 1}, "previous": "previous"}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)


def write(folder: Path, losses: list[object]) -> Path:
    """A scenario with these losses and the teachers that they name."""
    named = to_yaml(losses)
    teachers = {name: part for name, part in TEACHERS.items() if name in named}
    scenario = folder / "scenario.yaml"
    scenario.write_text(to_yaml({**SCENARIO, "teachers": teachers, "losses": losses}))
    return scenario


@pytest.mark.parametrize("page", PAGES)
def test_every_scenario_shown_is_valid_and_shown_readably(page: str, tmp_path: Path) -> None:
    found = blocks(page, "yaml")
    assert len(found) == 2
    for block in found:
        loaded = load(write(tmp_path, yaml.safe_load(block)["losses"]), (), load_plugins().registry)
    shown = show(loaded)
    assert max(map(len, shown.splitlines())) < 160
    if page == "relation":
        assert "layers: [stage2, stage3, penultimate]" in shown


@pytest.mark.parametrize("page", PAGES)
def test_the_loss_of_your_own_keeps_the_laws_and_trains(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin, check = blocks(page, "python")
    code = [line for line in plugin.splitlines() if line.strip()]
    assert len(code) <= 15, "short enough to read"
    exec(plugin + check, {})
    (tmp_path / "my_plugins").mkdir()
    (tmp_path / "my_plugins" / "mine.py").write_text(plugin)
    kind = re.findall(r'register\("(\w+)"', plugin)[0]
    scenario = write(tmp_path, ["cross_entropy", {"kind": kind, "between": ["student.stage3", "previous.stage3"]}])
    assert blocks(page, "bash") == ["clkd run scenario.yaml --plugins-dir my_plugins\n"]
    plugins = load_plugins([tmp_path / "my_plugins"])
    request = RunRequest(scenario=scenario, limit_experiences=2, limit_batches=2, tracking="off", quiet=True)
    monkeypatch.chdir(tmp_path)
    assert execute(request, plugins)["status"] == "stopped"


@pytest.mark.parametrize("page", PAGES)
def test_every_loss_of_the_family_is_on_its_page(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name, *_ in PAGES[page])


def test_every_option_of_supcon_is_on_its_page() -> None:
    text = (DOCS / "contrastive.md").read_text(encoding="utf-8")
    assert all(f"`{name}: " in text for name in SupConOptions.model_fields)


COSTS = {
    "name": "costs",
    "stream": {"dataset": {"name": "cifar10", "offline": "digits"}, "split": {"by": "class", "experiences": 1}},
    "student": {"model": "resnet8", "head": "linear"},
    "teachers": {"external": {"kind": "fit", "model": {"kind": "resnet20", "width": 32}, "recall": False}},
    "train": {"batch_size": 64, "optimizer": {"kind": "sgd", "lr": 0.1}},
}
"""What the pages' costs are measured with."""
STAGES = ["stage1", "stage2", "stage3"]
MEASURED = {
    "features": {"layers": ["stage3"]},
    "fitnet": {"layers": ["stage3"]},
    "attention": {"layers": STAGES},
    "nst": {"layers": ["stage3"]},
    "vid": {"layers": ["stage3"]},
    "ofd": {"layers": ["stage3_pre"]},
    "review": {"layers": STAGES},
    "mgd": {"layers": ["stage3"]},
    "fsp": {"layers": STAGES},
    **{name: {} for name in ("crd", "srrl", "simkd")},
    **{name: {} for name, *_ in RELATION_LOSSES},
}


def test_the_costs_are_those_that_explain_tells(tmp_path: Path) -> None:
    between = ["student", "external"]
    losses = ["cross_entropy", *({"kind": kind, "between": between, **given} for kind, given in MEASURED.items())]
    scenario = tmp_path / "costs.yaml"
    scenario.write_text(to_yaml({**COSTS, "losses": losses}))
    plugins = load_plugins()
    (told,) = explain(load(scenario, (), plugins.registry), plugins)["experiences"]
    own = dict.fromkeys(MEASURED, 0)
    for name, count in told["created"].items():
        own[name.partition("_external.")[0]] += count
    assert set(own) == {name for family in PAGES.values() for name, *_ in family}
    assert not any(own[name] for name, *_ in RELATION_LOSSES)
    pages = [(DOCS / f"{page}.md").read_text(encoding="utf-8") for page in ("response", *PAGES)]
    for kind, count in own.items():
        if kind in {name for name, *_ in FEATURE_LOSSES}:
            (shown,) = re.findall(rf"^\| `{kind}` \| ([\d,]+) \|$", pages[1], re.MULTILINE)
            assert shown == f"{count:,}", kind
    student, teacher = told["student_parameters"], told["teachers"]["external"]["parameters"]
    macs = [f"{told['macs_per_step'][model] / 1e9:.1f}" for model in ("student", "external")]
    for page in (" ".join(page.split()) for page in pages):
        assert f"ResNet-8 ({student:,} parameters)" in page
        assert f"twice the width ({teacher:,})" in page
        assert f"{macs[0]} billion multiply-accumulates for the student and {macs[1]} billion for the teacher" in page
