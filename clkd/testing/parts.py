"""A registered part under its laws, built as a run builds it: from what a scenario says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from clkd.errors import UserError
from clkd.options import Part
from clkd.registry import NOTHING, OFFERS, Registry, noun
from clkd.testing import material
from clkd.testing.contract import LAWS, Verdict, check, examine
from clkd.testing.tiny import Tiny, store, stream

SIZE = 10
"""Rows that a memory is asked to keep, unless its options say another example."""


def check_part(tiny: Tiny, kind: str, said: str | dict[str, Any]) -> None:
    """Check every law of its kind on a registered part, `said` as in a scenario: `"kd"`, `{"kind": "kd", …}`.

    Args:
        tiny: the fixture `clkd_tiny`.
        kind: as in `clkd list KIND`: `losses`, `memories`, …

    Raises:
        AssertionError: a law is broken, and the note says which.
    """
    part = tiny.registry.parse(kind, said)
    make, about = _made(tiny, part)
    check(make, LAWS[kind], **about)


def examine_part(tiny: Tiny, kind: str, said: str | dict[str, Any]) -> Iterator[Verdict]:
    """As `check_part`, but tells of every law what it says."""
    part = tiny.registry.parse(kind, said)
    make, about = _made(tiny, part)
    yield from examine(make, LAWS[kind], **about)


def example(registry: Registry, kind: str, name: str) -> dict[str, Any]:
    """What a scenario would say of a part: its name, and for options without a default an example of theirs.

    `Annotated[str, Field(examples=["mine.npz"])]` gives one.

    Raises:
        UserError: an option has neither.
    """
    said: dict[str, Any] = {"kind": name} if kind not in ("datasets", "streams") else {}
    said |= {"datasets": {"name": name}, "streams": {"by": name}}.get(kind, {})
    for key, field in registry.get(kind, name).options.model_fields.items():
        if field.examples:
            said[key] = field.examples[0]
        elif field.is_required() and (kind, key) == ("memories", "size"):
            said[key] = SIZE
        elif field.is_required():
            raise UserError(
                f"{noun(kind)} '{name}': option '{key}' has no default and no example, so it cannot be tried: "
                f"declare it as Annotated[…, Field(examples=[…])]"
            )
    return said


def _made(tiny: Tiny, part: Part) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What makes a fresh one, and what its laws have to be told about it."""
    factory = tiny.registry.get(part.kind, part.name).load
    offers = _offers(tiny, part.kind)
    # A function has no opt-outs of its own: those of what it makes count.
    says = hasattr(factory, "contract_optouts") or part.kind in ("models", "streams")
    about: dict[str, Any] = {"part": factory if says else type(tiny.registry.build(part, **offers))}
    if part.kind == "memories":
        about["size"] = getattr(part.options, "size", SIZE)
    if part.kind == "datasets":
        about["base"] = tiny.folder
    if part.kind == "models":
        about["shape"] = (3, 32, 32)
        return lambda shape: tiny.registry.build(part, **{**offers, "shape": shape}), about
    if part.kind == "streams":
        return lambda **asked: tiny.registry.build(_validated(part, asked["validation"]), **{**offers, **asked}), about
    return lambda: tiny.registry.build(part, **offers), about


def _validated(part: Part, validation: float) -> Part:
    """The same stream with another share of validation rows, which is an option that every stream has."""
    return replace(part, options=part.options.model_copy(update={"validation": validation}))


def _offers(tiny: Tiny, kind: str) -> dict[str, Any]:
    """What a factory of this kind is offered in a run."""
    context, experiences = tiny.context, tuple(stream())
    if kind in ("losses", "memories", "transfers", "metrics"):
        names = tuple(map(str, range(len(material.CLASSES))))
        context, experiences = replace(context, class_names=names, shape=material.SHAPE), tuple(material.experiences())
    everything = {
        "context": context,
        "class_names": context.class_names,
        "shape": context.shape,
        "device": context.device,
        "seed": 0,
        "offset": 0,
        "student": material.student(),
        "store": store(),
        "teachers": {},
        "base": Path(tiny.folder),
        "experiences": experiences,
        "task_labels": False,
    }
    return {name: value for name, value in everything.items() if name in OFFERS.get(kind, NOTHING)}
