"""How alike the layers of student and teachers are on test rows (CKA)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from clkd.engine.parts import Parts
from clkd.engine.term import STUDENT
from clkd.errors import UserError
from clkd.experience import Experience, Rows
from clkd.metrics.cka import CKA, FEWEST
from clkd.ranks import Ranks
from clkd.scenario.measures import ReportOptions
from clkd.seeding import generator
from clkd.signals import Batch, Needs
from clkd.teachers.base import Teacher
from clkd.teachers.network import Snapshot

MINIBATCH = 256
"""Rows whose inner products are held at once."""


def layers_of(model: str, named: Iterable[str], models: Iterable[str]) -> dict[str, bool]:
    """The taps of a model among those named, and whether each was named of this model alone.

    >>> layers_of("external", ["stage3", "external.stage2", "student.stage1", "layer1.0"], ["student", "external"])
    {'stage3': False, 'stage2': True, 'layer1.0': False}
    """
    found: dict[str, bool] = {}
    for name in named:
        owner, _, tap = name.partition(".")
        if owner == model and tap:
            found[tap] = True
        elif owner not in models or not tap:
            found[name] = False
    return found


def request_layers(parts: Parts, options: ReportOptions) -> None:
    """Bind what will be tapped, before anything is compiled.

    A layer that is named of all models may be missing in a teacher: the report then says so.

    Raises:
        UserError: the student has no such layer, or the one teacher that it is named of.
    """
    models = (STUDENT, *parts.teachers)
    try:
        parts.student.request(layers_of(STUDENT, options.cka, models))
        for name, teacher in parts.teachers.items():
            for tap, alone in layers_of(name, options.cka, models).items():
                if alone or not teacher.partial:  # which knows nothing of test rows
                    _request(parts, teacher, tap, alone)
    except UserError as error:
        raise UserError(f"report.cka: {error}") from error


def _request(parts: Parts, teacher: Teacher, tap: str, alone: bool) -> None:
    if isinstance(teacher, Snapshot):  # a copy of a student, with that one's taps
        parts.students[teacher.of].request((tap,))
    try:
        teacher.request((tap,))
    except UserError:
        if alone:
            raise


def alignment(
    parts: Parts, options: ReportOptions, experiences: Sequence[Experience], seed: int, ranks: Ranks
) -> dict[str, Any] | None:
    """CKA of all layers named, over a sample of these experiences' test rows; None where nothing can be compared.

    `layers` are `[model, tap]`, `values` the matrix of all with all; `skipped` says why a teacher is left out.
    """
    models = (STUDENT, *parts.teachers)
    taps = {STUDENT: tuple(layers_of(STUDENT, options.cka, models))}
    skipped: dict[str, str] = {}
    for name, teacher in parts.teachers.items():
        named = tuple(layers_of(name, options.cka, models))
        if reason := _silence(teacher, named):
            skipped[name] = reason
        else:
            taps[name] = named
    pieces = sample([each.test for each in experiences], options.rows, seed)
    if not taps[STUDENT] or len(taps) < 2 or not pieces:
        return None
    layers = [(name, tap) for name, each in taps.items() for tap in each]
    cka = CKA(len(layers), options.estimator == "debiased", parts.device)
    ready = [each.test.ready(parts.device) for each in experiences]
    for at in pieces[ranks.rank :: ranks.world]:
        cka.add(_features(parts, _gathered(ready, at, parts), taps))
    cka.sums = ranks.sum(cka.sums)
    return {
        "estimator": options.estimator,
        "rows": sum(map(len, pieces)),
        "minibatches": len(pieces),
        "layers": [list(layer) for layer in layers],
        "values": cka.values().tolist(),
        "skipped": skipped,
    }


def _silence(teacher: Teacher, taps: tuple[str, ...]) -> str | None:
    """Why a teacher's layers cannot be compared; None where they can."""
    if not taps:
        return "no layer of it is named"
    if not teacher.ready:
        return "it has nothing to say yet"
    try:
        missing = [tap for tap in taps if teacher.spec(tap).shape is None]
    except UserError as error:
        return str(error)
    if missing:
        return f"it has no layer '{missing[0]}'"
    return "it says nothing of these rows" if teacher.partial else None


def _features(parts: Parts, batch: Batch, taps: dict[str, tuple[str, ...]]) -> list[Tensor]:
    """What each layer puts out, model by model."""
    found: list[Tensor] = []
    for name, own in taps.items():
        needs = Needs(logits=False, features=own)
        student, teacher = parts.student, parts.teachers.get(name)
        said = teacher.signals(batch, needs) if teacher else student.signals(batch.x, needs, batch.domain)
        found += [said.features[tap] for tap in own]
    return found


def sample(selections: Sequence[Rows], most: int, seed: int) -> list[Tensor]:
    """Minibatches of at most `most` rows in all: `[n, 2]` int64 each, which selection and which row of it.

    Of each class of each selection as many, as far as it has them. The draw depends on the seed, the selection's
    experience and the class, so what comes later takes rows away, but never exchanges one. Empty where there are too
    few rows for a minibatch.
    """
    groups: list[tuple[int, int, Tensor]] = []
    for place, rows in enumerate(selections):
        y = rows.y.cpu()
        groups += [(place, c, (y == c).nonzero().flatten()) for c in torch.unique(y).tolist()]
    share = max(1, most // max(1, len(groups)))
    picked = [torch.empty(0, 2, dtype=torch.int64)]
    for place, c, at in groups:
        draw = generator(seed, "report", selections[place].experience, c)
        own = at[torch.randperm(len(at), generator=draw)[:share]]
        picked.append(torch.stack([torch.full_like(own, place), own], 1))
    chosen = torch.cat(picked)
    chosen = chosen[torch.randperm(len(chosen), generator=generator(seed, "report"))][:most]
    return list(torch.tensor_split(chosen, math.ceil(len(chosen) / MINIBATCH))) if len(chosen) >= FEWEST else []


def _gathered(selections: Sequence[Rows], at: Tensor, parts: Parts) -> Batch:
    """A minibatch's rows, as models see them in evaluation."""
    own = [(rows, at[at[:, 0] == place, 1]) for place, rows in enumerate(selections)]
    first, *more = [rows.gather(each.to(rows.index.device), parts.device) for rows, each in own if len(each)]
    whole = first.joined(*more)
    return replace(whole, new=len(whole), draws=()).seen_as(parts.augment.plain(whole.x))
