"""The reference, written from the code: every part, YAML key, command and hook, and the pages of the Python API.

`conf.py` calls `pages` when the site is built; what it writes is not committed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, get_args

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from clkd import hooks
from clkd.cli.main import COMMANDS, cli
from clkd.optimizers import OPTIMIZERS, SCHEDULERS, OptimizerOptions, SchedulerOptions, Signature
from clkd.options import SELECTOR, SHARED, PartField
from clkd.plugins import isolated
from clkd.registry import KINDS, Entry, noun
from clkd.scenario.describe import describe_options
from clkd.scenario.document import to_yaml
from clkd.scenario.model import DEFAULTS, Scenario

GUIDES = {
    "losses": (
        "losses/response",
        "losses/feature",
        "losses/relation",
        "losses/contrastive",
        "losses/adversarial",
        "losses/regularisers",
    ),
    "memories": ("memory",),
    "retrievals": ("memory",),
    "transfers": ("transfer",),
    "teachers": ("teachers",),
    "heads": ("heads",),
    "datasets": ("howto/own_data", "data"),
    "streams": ("streams", "domains"),
    "schedules": ("schedules",),
    "gradients": ("losses/regularisers",),
    "metrics": ("metrics",),
    "trackers": ("tracking",),
    "methods": ("methods",),
}
"""The pages that say which of a kind to choose."""
MODULES = {
    "Signals, batches, experiences": ("clkd.signals", "clkd.experience", "clkd.context"),
    "Losses": ("clkd.losses.base", "clkd.losses.logits", "clkd.losses.regulariser"),
    "Memory": ("clkd.memory.base", "clkd.memory.table", "clkd.memory.retrieval"),
    "Transfer": ("clkd.transfer.base",),
    "Teachers": ("clkd.teachers.base", "clkd.teachers.network"),
    "Models": ("clkd.models.student", "clkd.models.heads", "clkd.models.taps"),
    "Data": ("clkd.data.source", "clkd.data.store"),
    "Streams": ("clkd.streams.base", "clkd.streams.avalanche"),
    "Schedules": ("clkd.schedules.base",),
    "Gradient policies": ("clkd.gradients.base",),
    "Metrics": ("clkd.metrics.base",),
    "Tracking": ("clkd.tracking.base",),
    "Options and registry": ("clkd.options", "clkd.registry", "clkd.plugins"),
    "Scenarios and runs": ("clkd.scenario.request", "clkd.scenario.load", "clkd.engine.execute", "clkd.engine.run"),
    "Seeding, errors": ("clkd.seeding", "clkd.errors"),
    "Testing": ("clkd.testing.contract", "clkd.testing.parts", "clkd.testing.plugin", "clkd.testing.tiny"),
}
"""The Python API: a page each."""
FIELDS: dict[str, type[BaseModel]] = {"optimizer": OptimizerOptions, "scheduler": SchedulerOptions}


def pages() -> dict[str, str]:
    """Every page by its place in `docs/reference`, in the order of the navigation."""
    registry = isolated().registry
    parts = {
        f"{kind}.md": part_page(kind, [registry.get(kind, name) for name in registry.names(kind)]) for kind in KINDS
    }
    api = {f"python/{slug(title)}.md": module_page(title, modules) for title, modules in MODULES.items()}
    return {"scenario.md": scenario_page(), **parts, "commands.md": command_page(), "hooks.md": hook_page(), **api}


def slug(title: str) -> str:
    """A title as a file's name."""
    return title.lower().replace(",", "").replace(" ", "_")


def part_page(kind: str, entries: list[Entry]) -> str:
    """All built-in parts of a kind, with the options of each."""
    named = (
        "`method`" if kind == "methods" else f"its bare name, or by `{SELECTOR.get(kind, 'kind')}` beside its options"
    )
    lines = [
        f"# {kind.capitalize()}",
        "",
        f"Named in a scenario by {named}. `clkd list {kind}` lists those of plugins, too.",
    ]
    if kind in GUIDES:
        lines += ["", f"Which one to choose: {', '.join(f'[](../{page}.md)' for page in GUIDES[kind])}."]
    if kind in SHARED:
        lines += ["", f"## Keys of every {noun(kind)}", "", *table(SHARED[kind])]
    for entry in entries:
        lines += ["", f"({kind}-{entry.name})=", f"## `{entry.name}`", ""]
        lines += [f"{entry.summary[:1].upper()}{entry.summary[1:]}.", ""]
        lines += ["```yaml", to_yaml(entry.load()).rstrip(), "```"] if kind == "methods" else table(entry.options)
        lines += ["", *_docstring(entry)]
    return "\n".join(lines) + "\n"


def _docstring(entry: Entry) -> list[str]:
    """What the part's own class or function says: formulas, papers, examples."""
    made = entry.load
    if entry.kind == "methods" or not inspect.getdoc(made):
        return []
    what = "class" if inspect.isclass(made) else "function"
    return ["```{eval-rst}", f".. auto{what}:: {made.__module__}.{made.__qualname__}", "   :no-index:", "```"]


def table(model: type[BaseModel], places: dict[type[BaseModel], str] | None = None) -> list[str]:
    """The options of a config model, one a line; on the scenario's page, which has `places`, with links."""
    told = describe_options(model)
    if not told:
        return ["No options."]
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for option in told:
        name, filled = option["name"], DEFAULTS if model is Scenario else {}
        default = to_yaml(filled[name], flow=True).strip() if name in filled else option["default"]
        links = "" if places is None else leads(model.model_fields[name], places)
        rows.append(
            row(f"`{name}`", option["type"], "required" if default is None else f"`{default}`", option["doc"] + links)
        )
    return rows


def leads(info: FieldInfo, places: dict[type[BaseModel], str]) -> str:
    """Where the keys of what stands in a field are told."""
    models = [f"[`{places[each]}`](#{places[each]})" for each in models_in(info.annotation)]
    parts = [f"[{kind}]({kind}.md)" for kind in parts_in([info.annotation, *info.metadata])]
    return "".join(f" See {each}." for each in (*models, *parts))


def parts_in(marks: Iterable[Any]) -> Iterator[str]:
    """The kinds of parts within a field's type."""
    for each in marks:
        yield from [each.kind] if isinstance(each, PartField) else parts_in(get_args(each))


def row(*cells: str) -> str:
    """A table's line; a bar within a cell is no end of it."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The config models within a field's type, themselves not parts."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for each in get_args(annotation):
        if not isinstance(each, PartField):
            yield from models_in(each)


def sections(model: type[BaseModel] = Scenario, place: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Each mapping of a scenario: where it stands, and its config model; the scenario itself stands nowhere."""
    yield place, model
    for name, info in model.model_fields.items():
        inside = {dict: "NAME.", tuple: "N."}.get(getattr(info.annotation, "__origin__", None), "")
        for inner in models_in(info.annotation):
            yield from sections(inner, ".".join(filter(None, (place, name, inside.rstrip(".")))))


def scenario_page() -> str:
    """Every key of a scenario, section by section; a config model that stands in several places is shown once."""
    places: dict[type[BaseModel], str] = {}
    for place, model in sections():
        places.setdefault(model, place)
    head = [
        "# Scenario: every key",
        "",
        "One YAML file. `clkd schema` prints the same for editors, `clkd show FILE` what a file comes to. `NAME` is a",
        "name of your own, `N` a place in a list. Parts have pages of their own.",
    ]
    for model, place in places.items():
        title = f"`{place}`" if place else "The file"
        doc = " ".join((inspect.getdoc(model) or "").split("\n\n")[0].split())
        head += ["", f"({place or 'file'})=", f"## {title}", "", doc, "", *table(model, places)]
        for name, known in (("optimizer", OPTIMIZERS), ("scheduler", SCHEDULERS)):
            if model is FIELDS[name]:
                head += ["", *keywords(known)]
    return "\n".join(head) + "\n"


def keywords(known: dict[str, Signature]) -> list[str]:
    """What torch's own parts are called, and what they take."""
    rows = ["| `kind` | torch's name | keywords and defaults |", "|---|---|---|"]
    for kind, signature in known.items():
        given = ", ".join(
            f"`{name}: {to_yaml(value, flow=True).strip()}`" for name, value in signature.keywords.items()
        )
        rows.append(row(f"`{kind}`", f"`{signature.torch_name}`", given))
    return rows


def commands(group: click.Group = cli, words: tuple[str, ...] = ("clkd",)) -> Iterator[tuple[str, click.Command]]:
    """Every command of clkd's own, those within groups too, as it is typed."""
    for name in COMMANDS if group is cli else sorted(group.commands):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield " ".join((*words, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


def command_page() -> str:
    """What each command says of itself by `--help`."""
    lines = ["# Commands", "", "As `clkd COMMAND --help` prints it."]
    for words, command in commands():
        context = click.Context(command, info_name=words, terminal_width=96)
        lines += ["", f"## `{words}`", "", "```text", command.get_help(context), "```"]
    return "\n".join(lines) + "\n"


def hook_page() -> str:
    """Every hook with its signature."""
    text = "# Hooks\n\nHow to use them: [plugins](../plugins.md#hooks).\n"
    return text + "".join(
        f"\n{automatic('function', f'clkd.hooks.{name}')}\n" for name in vars(hooks) if name.startswith("clkd_")
    )


def module_page(title: str, modules: tuple[str, ...]) -> str:
    """What modules say of themselves, and all that is public in them."""
    return f"# {title}\n" + "".join(f"\n## `{name}`\n\n{automatic('module', name)}\n" for name in modules)


def automatic(what: str, name: str) -> str:
    """A docstring, put in when the site is built."""
    members = "   :members:\n   :member-order: bysource\n" if what == "module" else ""
    return f"```{{eval-rst}}\n.. auto{what}:: {name}\n{members}```"
