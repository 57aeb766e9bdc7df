"""Where each value of a resolved scenario comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from clkd.options import Place
from clkd.scenario.model import Scenario
from clkd.scenario.resolve import resolved

Origin = Literal["file", "--set", "default", "method"]


def leaves(value: Any, place: Place = ()) -> Iterator[Place]:
    """The place of everything that has no parts (an empty list or mapping has none).

    >>> list(leaves({"a": [1, {"b": 2}], "c": {}}))
    [('a', 0), ('a', 1, 'b'), ('c',)]
    """
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, Mapping):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    if not inner:
        yield place
    for key, below in inner:
        yield from leaves(below, (*place, key))


def origins(scenario: Scenario, given: Mapping[Place, Origin]) -> dict[Place, Origin]:
    """For every leaf of the resolved scenario: who gave it; `default` where nobody did.

    A part given by its bare name (`memory: none`) gave the leaf that names it (`memory.kind`).
    """
    found: dict[Place, Origin] = {}
    begun: set[Place] = set()
    for place in leaves(resolved(scenario)):
        names = place[-1] in ("kind", "name", "by") and place[:-1] not in begun  # it stands before its options
        begun.add(place[:-1])
        found[place] = given.get(place) or given.get(place[:-1] if names else place) or "default"
    return found
