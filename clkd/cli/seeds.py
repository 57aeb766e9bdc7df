"""`--seed 0 1 2`: several seeds in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

OPTION = "--seed"


class SeedsCommand(click.Command):
    """A command whose `--seed` takes any number of values."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(spelt_out(args)))


def spelt_out(words: Sequence[str]) -> Iterator[str]:
    """The option before each of its values, as click wants it.

    >>> list(spelt_out(["s.yaml", "--seed", "0", "1", "-q"]))
    ['s.yaml', '--seed', '0', '--seed', '1', '-q']
    """
    values = 0
    """Of the option that is being read: 0 outside it, or before its first."""
    inside = False
    for word in words:
        if word == OPTION or word.startswith(f"{OPTION}="):
            inside, values = True, int(word != OPTION)
            yield word
        elif inside and (values == 0 or word.isdigit()):
            yield from ([OPTION] if values else [])
            yield word
            values += 1
        else:
            inside = False
            yield word


def _each_once(context: click.Context, option: click.Parameter, seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise click.BadParameter("a seed is given twice")
    return seeds


seeds_option = click.option(
    OPTION,
    "seeds",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="N...",
    callback=_each_once,
    help="Instead of the scenario's seed; several are a run each.",
)
