"""Every page has its place, every link a target, and every code block of docs/ and README runs or is checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from pages import DOCS, PAGES, ROOT, Block, blocks

from clkd.cli.main import COMMANDS, cli
from clkd.plugins import isolated
from clkd.scenario.document import parse, to_yaml
from clkd.scenario.load import load
from clkd.scenario.model import Scenario

LINKING = [*PAGES, ROOT / "CONTRIBUTING.md", *(ROOT / "plugins").glob("*/README.md")]
TEXTS = {page: page.read_text(encoding="utf-8") for page in LINKING}
BLOCKS = [block for page in PAGES for block in blocks(page)]
SHOWN = {"yaml", "python", "bash", "console"}
OUTPUT = {"text"}
SHELL = {"cd", "mkdir", "eval", "pip", "pytest", "mlflow", ".venv/bin/pip", "python3", ".", "clkd"}
"""Words that need no proof: the shell's own, and tools whose commands are taken by the tests of their pages."""
ADDED = {
    name for path in (ROOT / "plugins").rglob("*.py") for name in re.findall(r'command\("(\w+)"', path.read_text())
}
"""Commands that first-party plugins bring; their own tests take them."""
REGISTRY = isolated().registry
BASE: dict[str, Any] = {
    "name": "shown",
    "stream": {"dataset": "digits", "split": {"by": "class", "experiences": 5}},
    "student": {"model": "resnet8", "head": "linear"},
    "train": {"optimizer": "sgd"},
}
"""What a piece of a scenario is a piece of."""
MEMORY = {"kind": "reservoir", "size": 50, "store": ["logits"]}
TEACHERS = {"previous": "previous", "external": {"kind": "fit", "model": "resnet8"}}


def named(language: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in BLOCKS if block.language == language and not block.reason]


def test_every_page_is_on_the_map_once() -> None:
    found = re.findall(r"^- \[[^]]+\]\(([^)]+)\)", TEXTS[DOCS / "index.md"], re.MULTILINE)
    told = sorted((DOCS / link).resolve() for link in found)
    assert [page for page in PAGES if page not in told] == [DOCS / "index.md"]
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    lost = [link for link in links(TEXTS[page]) if not leads(page, link)]
    assert lost == []


def links(text: str) -> list[str]:
    """Those to files and headings, outside code blocks; a link may go over the end of a line."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]


def leads(page: Path, link: str) -> bool:
    place, _, heading = link.partition("#")
    target = (page.parent / place).resolve() if place else page
    return target.exists() and (not heading or heading in headings(target))


def headings(page: Path) -> set[str]:
    """As GitHub calls them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_block_says_what_it_is() -> None:
    assert [str(block) for block in BLOCKS if block.language not in SHOWN | OUTPUT] == []
    assert {page: len(re.findall(r"^\s*```\w*$", TEXTS[page], re.MULTILINE)) for page in PAGES} == {
        page: 2 * len(blocks(page)) for page in PAGES
    }


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(not each.reason for each in blocks(page, "python"))],
    ids=lambda page: page.stem,
)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block after the other, as who reads the page would."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "shown"}
    for block in blocks(page, "python"):
        if not block.reason:
            exec(compile(block.text, str(block), "exec"), names)


@pytest.mark.parametrize("block", named("yaml"))
def test_yaml_is_valid(block: Block, tmp_path: Path) -> None:
    shown = parse(block.text).data
    assert shown.keys() <= Scenario.model_fields.keys(), "a block shows (a part of) a scenario"
    path = tmp_path / "shown.yaml"
    path.write_text(to_yaml(completed(shown)))
    load(path, (), REGISTRY)


def completed(shown: Mapping[str, Any]) -> dict[str, Any]:
    """The piece, with the sections that it leaves out, and a loss for every teacher that it names."""
    sections = {key: BASE[key] | dict(shown.get(key, {})) for key in ("stream", "student", "train")}
    whole = {**BASE, **shown, **sections}
    if "method" in shown:  # which fills in what the student leaves out
        return whole | {"student": shown.get("student", BASE["student"])}
    spoken = {name: part for name, part in TEACHERS.items() if re.search(rf"(?<![a-z]){name}\b", to_yaml(dict(shown)))}
    teachers = spoken | dict(shown.get("teachers", {}))
    losses = ["cross_entropy", *({"kind": "kd", "between": ["student", name]} for name in teachers)]
    return {"losses": losses, "memory": MEMORY, **whole, "teachers": teachers}


@pytest.mark.parametrize("block", named("bash") + named("console"))
def test_commands_are_ones_that_there_are(block: Block) -> None:
    for words in block.commands():
        match words:
            case ["clkd", name, *rest] if name not in ADDED:
                understood([name, *rest])
            case ["torchrun", *rest]:
                understood(rest[rest.index("clkd") + 1 :])
            case ["python", script, *_]:
                assert (ROOT / script).is_file() or f"`{script}`" in TEXTS[block.page], script
            case ["make", target]:
                assert f"\n{target}:" in (ROOT / "Makefile").read_text(), target
            case [word, *_]:
                assert word in SHELL, words


def understood(words: list[str]) -> None:
    """A command and options that click takes."""
    group: click.Group = cli
    while True:
        name, *words = words
        command = group.get_command(click.Context(group), name)
        assert command is not None, name
        if not isinstance(command, click.Group):
            break
        group = command
    command.make_context(name, list(words))


def test_commands_in_the_prose_are_ones_that_there_are() -> None:
    for page, text in TEXTS.items():
        assert {*re.findall(r"`clkd ([a-z]+)", text)} <= {*COMMANDS, *ADDED}, page
