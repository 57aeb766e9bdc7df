"""From a batch to its loss: what the student and its teachers say about it, and what the terms make of that."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from clkd.engine.parts import Parts
from clkd.engine.term import STUDENT
from clkd.errors import UserError
from clkd.ranks import Ranks
from clkd.schedules.base import Progress, value_of
from clkd.signals import Batch, Signals


class Objective(nn.Module):
    """The weighted sum of an experience's terms; its parameters are those that the sum depends on."""

    def __init__(self, parts: Parts, progress: Progress, ranks: Ranks) -> None:
        super().__init__()
        # What cannot change within an experience is looked up once, not per batch.
        self.parts, self.progress, self.ranks = parts, progress, ranks
        self.needs = {name: parts.needs(name) for name in (STUDENT, *parts.teachers)}
        self.student, self.transfer = parts.student, parts.transfer
        self.terms = parts.active()
        self.losses = nn.ModuleList(self.terms)  # which registers their parameters
        self.speakers = {term.teacher: parts.teachers[term.teacher] for term in self.terms if term.teacher}

    def forward(self, batch: Batch, whole: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], Signals]:
        """The loss, the terms unweighted and weighted, and what the student said. `batch` is this rank's share.

        What it said goes without its gradient: DistributedDataParallel waits for one from all that is put out.
        """
        student = self.student.signals(batch.x, self.needs[STUDENT])
        said = {name: t.signals(t.seen(batch), self.needs[name]) for name, t in self.speakers.items()}
        said[STUDENT] = student

        values: dict[str, Tensor] = {}
        weighted: dict[str, Tensor] = {}
        for term in self.terms:
            if (value := term(batch, said, self.progress)) is not None:
                values[term.name] = value = self.ranks.part(value, *term.counts(batch, whole))
                weighted[term.name] = term.weighted(value, self.progress, student)
        if (shift := self.transfer(batch, student)) is not None:
            values["transfer"] = shift = self.ranks.part(shift, len(batch), len(whole))
            weighted["transfer"] = value_of(self.parts.transfer_weight, self.progress, student) * shift
        return _sum(list(weighted.values())), values, weighted, student.detached()

    def spread(self) -> nn.Module:
        """Itself, with gradients averaged over the ranks if there are several."""
        if self.ranks.alone:
            return self
        from torch.nn.parallel import DistributedDataParallel  # not for who trains alone: it takes a while to load

        # Parameters that no gradient reaches in some steps must be looked for in each of them.
        steady = [term for term in self.terms if term.a.rows in (None, "new")]
        fickle = [*(term for term in self.terms if term not in steady), self.transfer]
        headless = not any(term.loss.reads(0).logits for term in steady)
        unused = headless or any(part.requires_grad for module in fickle for part in module.parameters())
        # Buffers are settled at the experience's end instead. Newer versions of torch call this option otherwise.
        known = inspect.signature(DistributedDataParallel).parameters
        synced = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in known)
        options: dict[str, Any] = {"find_unused_parameters": unused, synced: False}
        return DistributedDataParallel(self, **options)


def _sum(terms: list[Tensor]) -> Tensor:
    """In the scenario's order, starting from the first term itself, so that a single term stays what it is."""
    if not terms:
        raise UserError(
            "no loss has anything to say about this batch (all wait for a teacher or for replayed rows): add one "
            "about new rows, such as cross_entropy"
        )
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
