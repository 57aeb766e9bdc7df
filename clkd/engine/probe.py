"""Whether a bound loss has anything to teach: it is tried on a few rows of the stream, with made-up signals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from clkd.engine.parts import Parts
from clkd.engine.term import Term
from clkd.experience import Experience, Rows
from clkd.schedules.base import Progress
from clkd.seeding import generator
from clkd.signals import Batch, Signals
from clkd.streams.base import labels_in
from clkd.teachers.stored import Stored

ROWS = 16
"""Rows of each kind that a loss is tried on."""
EPOCHS = 1000
SPREADS = (1.0, 1.0, 5.0, 50.0)
"""Standard deviations of the signals that it is tried with, until one gives a gradient."""


class Probe:
    """Tries terms in the last of the `experiences` that have come: made-up signals, in the shapes that were bound.

    A comparison that gives no gradient whatever both sides say is a silent zero: found without knowing the loss.
    """

    def __init__(self, parts: Parts, experiences: Sequence[Experience], replays: bool) -> None:
        self.parts, self.experiences, self.replays = parts, experiences, replays
        self.moments = _ends(experiences[-1])

    def __call__(self, term: Term) -> str | None:
        """Why the term has nothing to teach; None where it has, or where there are no rows to tell by."""
        if term.a.rows not in (None, "new") and not self.replays:
            return f"it is about replayed rows ({term.a}), and there is no memory: declare one"
        if term.teacher is None or not len(self.experiences[-1].train):
            return None  # of one model alone, a zero may be right: cross-entropy where a single class has come
        batch = self._batch(term)
        if any(self._teaches(term, batch, spread, when) for when in self.moments for spread in SPREADS):
            return None
        classes = ", ".join(map(str, labels_in(batch.rows(*term.a.cut(batch)).y)))
        return (
            f"it is 0 whatever the models say: the rows it is about are of class {classes or '(none)'} and "
            f"'{term.teacher}' knows {_known(term)}; give it rows or a teacher that it can learn from"
        )

    def _batch(self, term: Term) -> Batch:
        """New rows, and as many in each draw of what came before, in the first experience of its own."""
        new = _some(self.experiences[-1].train, self.parts.device)
        draws = int((term.a.rows or "").removeprefix("replay") or 1) if term.a.rows not in (None, "new") else 1
        past = [rows for each in self.experiences[:-1] if len(rows := each.train)] or [self.experiences[-1].train]
        old = [_some(rows, self.parts.device) for rows in past[-ROWS:]] if self.replays else []
        if old:
            one = old[0].joined(*old[1:])
            one = Batch(one.x, one.y, one.sample_id, one.domain, one.experience, new=len(one))
            new = new.joined(*[one] * draws)
        return new.seen_as(self.parts.augment.plain(new.x))

    def _teaches(self, term: Term, batch: Batch, spread: float, when: Progress) -> bool:
        draws = generator(0, "probe", int(spread))
        said = {side.model: self._made_up(term, side.model, batch, spread, draws) for side in (term.a, term.b) if side}
        learner = said[term.a.model]
        value = term(batch, said, when)
        if value is None or not value.requires_grad:
            return False
        leaves = [tensor for tensor in (learner.logits, *learner.features.values()) if tensor is not None]
        gradients = torch.autograd.grad(value, leaves, allow_unused=True)
        return any(bool(gradient.any()) for gradient in gradients if gradient is not None)

    def _made_up(self, term: Term, model: str, batch: Batch, spread: float, draws: torch.Generator) -> Signals:
        parts, needs = self.parts, term.needs(model)
        teacher = parts.teachers.get(model)
        source = teacher or parts.students[model]
        spec = source.spec()

        def drawn(*shape: int) -> Tensor:
            made = spread * torch.randn(len(batch), *shape, generator=draws)
            return made.to(parts.device).requires_grad_(model == term.a.model)

        learned = [c for c, born in zip(spec.class_ids, spec.born, strict=True) if born >= 0]
        valid = torch.isin(batch.y, torch.tensor(learned, dtype=torch.long, device=batch.y.device))
        if isinstance(teacher, Stored):
            valid = batch.is_replay & (batch.y >= 0)
        tasks = None if teacher else parts.students[model].tasks()
        return Signals(
            logits=drawn(len(spec.class_ids)) if needs.logits else None,
            class_ids=torch.tensor(spec.class_ids, dtype=torch.long, device=parts.device),
            features={name: drawn(*(source.spec(name).shape or ())) for name in needs.features},
            valid=valid if teacher else None,
            competes=None if tasks is None else tasks == batch.experience[:, None],
        )


def _some(rows: Rows, device: torch.device) -> Batch:
    """Rows from the beginning to the end, evenly; where some have no label, as many of either kind."""
    known = rows.labelled()
    kinds = (
        [torch.arange(len(rows))] if known is None else [(known == each).nonzero().flatten() for each in (True, False)]
    )
    at = torch.cat([kind[torch.linspace(0, len(kind) - 1, min(ROWS, len(kind))).long()] for kind in kinds])
    return rows.gather(at.to(rows.y.device), device)


def _known(term: Term) -> str:
    spec = term.specs[1] if term.specs else None
    return ", ".join(map(str, spec.class_ids)) if spec else "nothing"


def _ends(experience: Experience) -> tuple[Progress, Progress]:
    """The experience's first step, and one after many epochs: options that follow a schedule may start from 0."""
    first = Progress(
        experience=experience.index,
        experiences=experience.count,
        old_classes=len(experience.old_classes),
        seen_classes=len(experience.seen),
    )
    return first, replace(first, epoch=EPOCHS - 1, epochs=EPOCHS)
