"""What was found of the shift between domains, one file an experience: its numbers, and what a figure shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

FOLDER = "shift"
"""In the run's directory, and among MLflow's artifacts."""

Shift = dict[str, Any]
CHANGES = ("gain_new_domain", "loss_old_domains")
"""What training did to accuracy."""
PARTS = frozenset({"experience", "name", "domain", "drift", "before", "after"})


def points(shift: Shift) -> dict[str, float]:
    """The numbers that are metrics: distances as means over the other domains."""
    told = {name: shift[name] for name in CHANGES if not _missing(shift.get(name))}
    told |= {f"accuracy/domain_{int(domain):02d}": share for domain, share in accuracy(shift).items()}
    if shift["drift"]:
        told |= {"alarm": float(shift["drift"]["alarm"]), "p": shift["drift"]["p"]}
    for when in ("before", "after"):
        for layer, kinds in shift[when].items():
            told |= {f"{layer}/{kind}_{when}": sum(each.values()) / len(each) for kind, each in kinds.items() if each}
    return {f"shift/{name}": value for name, value in told.items()}


def accuracy(shift: Shift) -> dict[int, float]:
    """On each domain so far, after the experience; of domains that could be asked about."""
    return {int(domain): share for domain, share in shift.get("accuracy", {}).items() if not _missing(share)}


def _missing(value: float | None) -> bool:
    return value is None or math.isnan(value)


def over_time(shifts: Sequence[Shift], kind: str) -> dict[str, dict[int, float]]:
    """One curve for each layer and moment: the mean distance of the new domain from the others, by experience."""
    found: dict[str, dict[int, float]] = {}
    for each in shifts:
        for name, value in points(each).items():
            layer, _, which = name.removeprefix("shift/").rpartition("/")
            if which.startswith(f"{kind}_"):
                found.setdefault(f"{layer} {which.removeprefix(f'{kind}_')}", {})[each["experience"]] = value
    return found
