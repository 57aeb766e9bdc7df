"""Streams without boundaries: who could not work there, since it does something where an experience ends."""

from __future__ import annotations

from collections.abc import Iterator

from clkd.engine.parts import Parts
from clkd.errors import UserError
from clkd.schedules.base import Schedule
from clkd.transfer.several import Several

MOMENTS = ("begin", "review", "end")


def refuse_boundaries(parts: Parts) -> None:
    """Raises `UserError` that names all parts which need boundaries."""
    found = list(dict.fromkeys(_needing(parts)))
    if found:
        raise UserError(
            f"stream.boundaries: nobody is told where an experience ends, but {', '.join(found)} "
            f"{'needs' if len(found) == 1 else 'need'} to know: use what follows every step (a teacher ema or stored, "
            "a memory reservoir, ring or gss, the head linear or fixed, constant weights), or set boundaries: true"
        )


def needs_boundaries(part: object) -> bool:
    """Whether a part has to be told: the class nearest to it that says so, or that overrides one of the moments.

    So a class that says it does not need them cannot speak for those made of it, which may do more at an end.
    """
    for kind in type(part).__mro__:
        if "needs_boundaries" in vars(kind):
            said = vars(kind)["needs_boundaries"]
            return bool(said.__get__(part) if isinstance(said, property) else said)
        if any(moment in vars(kind) for moment in MOMENTS):
            return True
    return False


def _needing(parts: Parts) -> Iterator[str]:
    for name, student in parts.students.items():
        if needs_boundaries(student.head):
            yield f"{name}.head ({_called(student.head)})"
    for name, teacher in parts.teachers.items():
        if needs_boundaries(teacher):
            yield f"teachers.{name} ({_called(teacher)})"
    for term in parts.terms:
        if needs_boundaries(term.loss):
            yield f"the loss {term.name} ({_called(term.loss)})"
        own = (term.weight, *vars(term.loss).values(), *term.loss.children())
        yield from (f"a schedule of {term.name} ({_called(each)})" for each in own if _moves(each))
    beside: dict[str, object] = {"memory": parts.memory, "train.gradient": parts.gradient}
    yield from (f"{name} ({_called(part)})" for name, part in beside.items() if needs_boundaries(part))
    several = parts.transfer if isinstance(parts.transfer, Several) else None
    for strategy in several.each() if several else [parts.transfer]:
        if needs_boundaries(strategy):
            yield f"transfer ({_called(strategy)})"
        yield from (f"a schedule of transfer ({_called(each)})" for each in vars(strategy).values() if _moves(each))
    weights = several.weights.values() if several else [parts.transfer_weight]
    yield from (f"a schedule of transfer ({_called(each)})" for each in weights if _moves(each))


def _moves(value: object) -> bool:
    return isinstance(value, Schedule) and needs_boundaries(value)


def _called(part: object) -> str:
    return type(part).__name__
