"""Transfer strategies: what makes old and new domains comparable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clkd.hooks import hookimpl
from clkd.options import Options
from clkd.transfer.options import STRATEGIES

if TYPE_CHECKING:
    from clkd.registry import Register


@hookimpl
def clkd_register_transfers(register: Register) -> None:
    """The transfer strategies that clkd ships; of those that need no source rows, the summary says so."""
    register("none", "clkd.transfer.base:Transfer", config=Options, summary="does nothing")
    for name, factory, config, summary in STRATEGIES:
        free = getattr(config, "source_free", False)
        register(name, f"clkd.transfer.{factory}", config=config, summary=summary + ("; source-free" if free else ""))
