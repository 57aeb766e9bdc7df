"""Which one layer of each model a loss reads that is content with the penultimate one."""

from __future__ import annotations

from clkd.errors import UserError
from clkd.signals import Spec

TAP = "penultimate"


def taps_of(a: Spec, b: Spec) -> tuple[str, str]:
    """The layers that `between` names; where it names none, the penultimate one."""
    return a.feature or TAP, b.feature or TAP


def width_of(owner: str, spec: Spec, tap: str) -> int:
    """How wide a layer is, averaged over positions if it is a map.

    Raises:
        UserError: it is neither a vector nor a map.
    """
    shape = spec.shape if tap == spec.feature else spec.shapes[tap]
    if shape is None or len(shape) not in (1, 3):
        raise UserError(f"{owner}: {tap} gives {shape}, but vectors (D) or maps (D, H, W) are needed")
    return shape[0]
