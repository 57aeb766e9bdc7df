"""`clkd tune`: parse, call, print."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import click

from clkd.cli.common import json_option, plugin_options, plugins_from, print_json
from clkd.cli.seeds import SeedsCommand, seeds_option
from clkd.errors import UserError


@click.command("tune", cls=SeedsCommand)
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "axes",
    multiple=True,
    metavar="A.B=RANGE",
    help="What is searched: 0.1..1, 8..64, log:0.001..0.1, or values: adam,sgd.",
)
@click.option(
    "--stability",
    metavar="A.B=LOW..HIGH",
    help="A number that keeps what is old, chosen after the others: the largest that costs no more than --threshold.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="The share of the best accuracy that --stability may cost.",
)
@click.option(
    "--decay",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.5,
    show_default=True,
    help="What --stability is multiplied by until it costs no more.",
)
@click.option(
    "--trials", type=click.IntRange(min=1), default=20, show_default=True, help="How many settings are tried."
)
@click.option(
    "--experience",
    type=click.IntRange(min=0),
    metavar="N",
    help="The one whose validation rows decide; they count from 0.  [default: 0, or 1 with --stability]",
)
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Of its training rows that are held out.  [default: the scenario's, or 0.1]",
)
@seeds_option
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--limit-batches", type=click.IntRange(min=1), metavar="N", help="At most N batches an epoch.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Where the search is kept.  [default: tune/NAME-…]"
)
@click.option(
    "--write",
    "target",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="[default: SCENARIO.tuned.yaml beside it]",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@json_option
@plugin_options
def command(
    scenario: Path,
    axes: tuple[str, ...],
    stability: str | None,
    threshold: float,
    decay: float,
    trials: int,
    experience: int | None,
    validation: float | None,
    seeds: tuple[int, ...],
    device: str | None,
    limit_batches: int | None,
    out: Path | None,
    target: Path | None,
    quiet: bool,
    as_json: bool,
    plugins_dirs: tuple[Path, ...],
    disabled: tuple[str, ...],
) -> None:
    """Choose hyper-parameters of a SCENARIO, and write a scenario that has them.

    clkd tune s.yaml --set train.optimizer.lr=log:0.001..0.5 --set train.batch_size=16,32,64 --trials 20

    A setting is judged by accuracy on rows that are held out of one experience's training rows, when that experience
    was just trained: later data and test data are never looked at. Given again, the same command goes on where it was
    stopped, and more --trials add to those that are there.
    """
    if not axes and stability is None:
        raise UserError("nothing to choose: give --set A.B=RANGE, or --stability A.B=LOW..HIGH")
    from clkd.cli.uncompiled import leave_out_the_compiler

    leave_out_the_compiler()
    from clkd_optuna.search import Wanted, search  # loads optuna and torch

    wanted = Wanted(
        scenario=scenario,
        axes=axes,
        stability=stability,
        threshold=threshold,
        decay=decay,
        trials=trials,
        experience=experience,
        validation=validation,
        seeds=seeds,
        device=device,
        limit_batches=limit_batches,
        out=out,
        target=target,
        command=shlex.join(["clkd", *sys.argv[1:]]),
    )
    chosen = search(wanted, plugins_from(plugins_dirs, disabled), (lambda line: None) if quiet else _tell)
    if as_json:
        print_json({**asdict(chosen), "scenario": str(chosen.scenario), "out": str(chosen.out)})
        return
    for place, value in chosen.values.items():
        click.echo(f"{place}: {value}")
    if not quiet:
        _tell(chosen.told)
        _tell(f"next: clkd run {shlex.quote(str(chosen.scenario))}")


def _tell(line: str) -> None:
    click.echo(line, err=True)
