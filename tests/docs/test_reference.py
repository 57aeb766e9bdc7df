"""The generated reference: nothing is missing in it, and everything in it has words."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from pages import DOCS
from pages import PAGES as DOC_PAGES
from pydantic import BaseModel

import clkd
from clkd import hooks
from clkd.optimizers import OPTIMIZERS, SCHEDULERS
from clkd.options import Options
from clkd.plugins import isolated
from clkd.registry import KINDS
from clkd.scenario.describe import describe_options
from clkd.scenario.model import Scenario


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = generator()
PAGES: dict[str, str] = GENERATE.pages()


def config_models() -> list[type[Options]]:
    """All there are in clkd."""
    for found in pkgutil.walk_packages(clkd.__path__, "clkd."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)

    def below(model: type[Options]) -> Iterator[type[Options]]:
        for each in model.__subclasses__():
            yield each
            yield from below(each)

    inferred = "clkd.registry"  # of parts that other tests made up
    return sorted(
        {each for each in below(Options) if each.__module__.startswith("clkd.") and each.__module__ != inferred},
        key=str,
    )


def test_every_option_of_every_part_and_every_key_of_a_scenario_says_what_it_means() -> None:
    silent = [
        f"{model.__module__}.{model.__qualname__}.{name}"
        for model in config_models()
        for name, field in model.model_fields.items()
        if not (field.description or "").strip()
    ]
    assert silent == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_is_on_the_page_of_its_kind_with_its_options(kind: str) -> None:
    registry = isolated().registry
    for name in registry.names(kind):
        section = PAGES[f"{kind}.md"].split(f"\n## `{name}`\n")[1].split("\n## ")[0]
        for option in describe_options(registry.get(kind, name).options):
            line = next(line for line in section.splitlines() if line.startswith(f"| `{option['name']}` |"))
            assert option["doc"], "a part without a config model has no words for its options"
            assert option["doc"].replace("|", r"\|") in line


def test_every_key_of_a_scenario_is_on_its_page() -> None:
    """Found here by another way: the defaults of a whole scenario, place by place."""
    page = PAGES["scenario.md"]

    def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
        yield model
        for field in model.model_fields.values():
            for name in re.findall(r"clkd\.[\w.]+", str(field.annotation)):
                home, _, made = name.rpartition(".")
                found = getattr(importlib.import_module(home), made, None)
                if inspect.isclass(found) and issubclass(found, BaseModel):
                    yield from models(found)

    seen = set(models(Scenario))
    assert len(seen) >= 15
    assert [(model, name) for model in seen for name in model.model_fields if f"\n| `{name}` |" not in page] == []
    for key in Scenario.model_fields:
        assert f"\n| `{key}` |" in page.split("\n## ")[1]


@pytest.mark.parametrize("page", DOC_PAGES, ids=lambda page: page.name)
def test_a_key_that_prose_names_is_one(page: Path) -> None:
    """Blocks are checked by running them; `skip_corrupt: true` in a sentence is checked here."""
    known = {name for model in config_models() for name in model.model_fields}
    known |= {key for table in (OPTIMIZERS, SCHEDULERS) for each in table.values() for key in each.keywords}
    known |= {key for each in OPTIMIZERS.values() for key in each.switches}
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert [key for key in re.findall(r"`\{?(\w+): [^`]*`", prose) if key not in known] == []


def test_a_key_says_its_type_range_and_default() -> None:
    page = PAGES["scenario.md"]
    assert "| `epochs` | integer > 0 | `1` | Passes over each experience's rows. |" in page
    assert "| `clip_norm` | number > 0, or null | `null` |" in page
    assert "| `on_nan` | stop \\| skip | `stop` |" in page
    assert "| `optimizer` | optimizer | required | An optimizer of torch" in page
    assert "See [`train.optimizer`](#train.optimizer)." in page
    assert "| `memory` | memory | `none` | What is kept of the past and replayed" in page
    assert "(`clkd list memories`). See [memories](memories.md). |" in page


def test_every_command_and_option_is_there_and_says_what_it_does() -> None:
    page = PAGES["commands.md"]
    for words, command in GENERATE.commands():
        assert f"\n## `{words}`\n" in page
        section = page.split(f"\n## `{words}`\n")[1].split("\n## `")[0]
        assert (command.help or "").strip(), words
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert (parameter.help or "").strip(), (words, parameter.name)
                assert all(name in section for name in parameter.opts)
            else:
                assert (parameter.make_metavar(click.Context(command)).strip("[].")) in section, (words, parameter.name)


def test_every_hook_is_there() -> None:
    for name in vars(hooks):
        if name.startswith("clkd_"):
            assert f".. autofunction:: clkd.hooks.{name}\n" in PAGES["hooks.md"]


def test_everything_that_clkd_exports_is_in_the_python_api() -> None:
    api = "".join(text for name, text in PAGES.items() if name.startswith("python/"))
    homes = {*clkd._HOME.values()} - {"clkd.hooks"}
    assert {home for home in homes if f".. automodule:: {home}\n" not in api} == set()
