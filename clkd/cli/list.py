"""`clkd list`: which parts there are, and what one of them can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from clkd.cli.common import json_option, plugin_options, plugins_from, print_json, print_table
from clkd.errors import PluginError, UserError, did_you_mean
from clkd.options import SHARED
from clkd.plugins import load_plugins
from clkd.registry import KINDS, Entry, Registry, UnknownPartError
from clkd.scenario.describe import describe_options


def _kinds(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """What the shell completes."""
    return [kind for kind in KINDS if kind.startswith(begun)]


def _names(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    names = load_plugins().registry.names(context.params.get("kind") or "")
    return [name for name in names if name.startswith(begun)]


@click.command("list", short_help="List what a KIND has, or the options of one part.")
@click.argument("kind", metavar="[KIND]", required=False, shell_complete=_kinds)
@click.argument("name", required=False, shell_complete=_names)
@json_option
@plugin_options
def command(
    kind: str | None, name: str | None, as_json: bool, plugins_dirs: tuple[Path, ...], disabled: tuple[str, ...]
) -> None:
    """List the parts of a KIND, or the options of one of them; without KIND, which kinds there are.

    KIND: losses, memories, retrievals, transfers, teachers, models, heads, datasets, streams, schedules, gradients,
    metrics, trackers, methods.
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"'{kind}' is no kind of part ({did_you_mean(kind, KINDS)})")
    registry = plugins_from(plugins_dirs, disabled).registry
    if kind is None:
        _print_kinds(registry, as_json)
    elif name is None:
        _print_parts([registry.get(kind, each) for each in registry.names(kind)], as_json)
    else:
        _print_part(_entry(registry, kind, name), as_json)


def _print_kinds(registry: Registry, as_json: bool) -> None:
    counts = {kind: len(registry.names(kind)) for kind in KINDS}
    if as_json:
        print_json(counts)
    else:
        print_table(("KIND", "PARTS"), [(kind, str(count)) for kind, count in counts.items()])


def _entry(registry: Registry, kind: str, name: str) -> Entry:
    try:
        return registry.get(kind, name)
    except UnknownPartError as error:
        raise (PluginError if registry.broken else UserError)(str(error)) from error


def _print_parts(entries: list[Entry], as_json: bool) -> None:
    if as_json:
        print_json([_facts(entry) for entry in entries])
    else:
        print_table(("NAME", "PLUGIN", "SUMMARY"), [(entry.name, entry.plugin, entry.summary) for entry in entries])


def _facts(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, "summary": entry.summary, "plugin": entry.plugin, "origin": entry.origin}


def _print_part(entry: Entry, as_json: bool) -> None:
    models = [entry.options, *([SHARED[entry.kind]] if entry.kind in SHARED else [])]
    options = [option for model in models for option in describe_options(model)]
    if as_json:
        print_json({**_facts(entry), "options": options})
        return
    click.echo(f"{entry.name}: {entry.summary}  [{entry.plugin}]")
    for option in options:
        default = "required" if option["required"] else f"default {option['default']}"
        click.echo(f"\n  {option['name']}: {option['type']}  ({default})")
        if option["doc"]:
            click.echo(f"      {option['doc']}")
