"""`clkd plugin`: for those who write plugins. `clkd plugins`, for those who use them, lists them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clkd.cli.common import json_option, print_json, print_table
from clkd.scaffold import KINDS, new

if TYPE_CHECKING:
    from clkd.testing.audit import Audit


@click.group("plugin", short_help="Start a plugin, and check that it keeps the laws.")
def command() -> None:
    """Write a plugin: start one, and check that it keeps the laws."""


@command.command("new")
@click.argument("name")
@click.option("--kind", required=True, type=click.Choice(tuple(KINDS)), help="What kind of part it brings.")
@click.option(
    "--out", default=".", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), help="Where its folder goes."
)
@json_option
def start(name: str, kind: str, out: Path, as_json: bool) -> None:
    """Write a whole distribution, clkd-NAME, with one part that works, its test, a scenario and CI."""
    files = new(name, kind, out)
    root = files[0].parent
    if as_json:
        print_json({"folder": str(root), "files": [str(path.relative_to(root)) for path in files]})
        return
    for path in files:
        click.echo(path)
    click.echo(f"\nnext:\n  cd {root}\n  pip install -e '.[test]'\n  pytest\n  clkd run scenario.yaml")


@command.command("check")
@click.argument("what", metavar="[PATH|NAME]", required=False)
@click.option("-a", "--all", "everything", is_flag=True, help="Print the laws that are kept, too.")
@json_option
def check(what: str | None, everything: bool, as_json: bool) -> int:
    """Try every part of a plugin against the laws of its kind, and print a verdict.

    PATH is a plugin's folder (with pyproject.toml; it need not be installed) or a plugin file, NAME that of an
    installed plugin or its package; without either, all installed plugins are checked. The plugin's code is run.

    Exit codes: 0 all laws are kept, 1 one is broken, 3 the plugin does not load.
    """
    from clkd.testing.audit import audit  # loads torch

    audits = audit(what)
    if as_json:
        print_json([asdict(each) for each in audits])
    else:
        for each in audits:
            _print(each, everything)
        if not audits:
            click.echo("no plugin is installed beside clkd's own: name a PATH")
    return max((each.exit_code for each in audits), default=0)


def _print(audit: Audit, everything: bool) -> None:
    click.echo(f"{audit.plugin}  [{audit.origin}]")
    rows = [(f"  {part.kind}", part.name, part.status, part.summary) for part in audit.parts]
    print_table(("  KIND", "NAME", "VERDICT", "WHY"), rows or [("  -", "-", "-", "it registers no part")])
    for part in audit.parts:
        for law in part.laws:
            if law.status == "broken" or everything:
                click.echo(f"\n  {part.kind} {part.name}: {law.law} {law.status}\n    law: {law.meaning}")
                click.echo(f"    why: {law.reason}" if law.reason else "", nl=bool(law.reason))
    for trouble in audit.troubles:
        click.echo(f"\n  {trouble}")
    click.echo(f"verdict: {audit.verdict}\n")
