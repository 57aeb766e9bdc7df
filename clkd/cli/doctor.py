"""`clkd doctor`: what is wrong with this installation, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict

import click

from clkd.cli.common import json_option, print_json

MARKS = {"ok": "ok  ", "note": "note", "bad": "BAD "}


@click.command("doctor", short_help="Say what is wrong with this installation.")
@json_option
def command(as_json: bool) -> int:
    """Look at versions, device, tracking store, plugins, data folder and cache; exit with 1 if something is wrong.

    Nothing is changed. What is only worth knowing is a note.
    """
    from clkd.engine.doctor import findings  # loads torch

    found = list(findings())
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        for each in found:
            click.echo(f"{MARKS[each.status]}  {each.about:<9}  {each.told}")
            if each.remedy:
                click.echo(f"{'':<17}-> {each.remedy}")
    return 1 if any(each.status == "bad" for each in found) else 0
