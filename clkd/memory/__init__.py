"""Memories: which rows of the past are kept, to be replayed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from clkd.hooks import hookimpl
from clkd.memory.budget import Size
from clkd.options import Options

if TYPE_CHECKING:
    from clkd.registry import Register


class ReservoirOptions(Options):
    """Options of `reservoir`."""

    size: Size = 500
    """How many rows are kept at most; or how many bytes (`20MB`), all that is kept beside rows included."""
    store: tuple[Literal["logits"], ...] = ()
    """What is kept beside each row: `[logits]` are the student's own, said when the row was new, as float32. A teacher
    of kind `stored` says them again."""
    unlabelled: bool = False
    """Whether rows without a label are kept, too, as likely as any other; losses that read labels then skip them."""


class ClassBalancedOptions(Options):
    """Options of `class_balanced`."""

    size: Size = 500
    """How many rows are kept at most, over all classes; or how many bytes (`20MB`), all that is kept beside rows
    included."""


@hookimpl
def clkd_register_memories(register: Register) -> None:
    """The memories that clkd ships."""
    register("none", "clkd.memory.base:Memory", config=Options, summary="keeps nothing")
    register(
        "reservoir",
        "clkd.memory.reservoir:Reservoir",
        config=ReservoirOptions,
        summary="an even sample of all rows seen so far, kept up row by row (Vitter 1985)",
    )
    register(
        "class_balanced",
        "clkd.memory.class_balanced:ClassBalanced",
        config=ClassBalancedOptions,
        summary="the same number of random rows of every class, refilled after each experience",
    )
