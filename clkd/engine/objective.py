"""From a batch to its loss: what students and teachers say about it, and what the terms make of that."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from clkd.engine.parts import Parts
from clkd.engine.term import STUDENT, span
from clkd.errors import UserError
from clkd.models.statistics import Statistics
from clkd.ranks import ALONE, Ranks
from clkd.schedules.base import Progress
from clkd.signals import Batch, Signals


class Objective(nn.Module):
    """The weighted sum of an experience's terms about rows; its parameters are those that the sum depends on."""

    def __init__(self, parts: Parts, progress: Progress, ranks: Ranks) -> None:
        super().__init__()
        # What cannot change within an experience is looked up once, not per batch.
        self.parts, self.progress, self.ranks = parts, progress, ranks
        self.students = parts.students
        self.terms = [term for term in parts.active() if not term.loss.regularises]
        self.needs = {name: parts.needs(name) for name in (*self.students, *parts.teachers)}
        self.views = {name: parts.views(name) for name in self.students}
        self.tasks = {name: student.tasks() for name, student in self.students.items()}
        self.statistics = {name: Statistics(student) for name, student in self.students.items()}
        self.networks = nn.ModuleList(self.students.values())  # which registers their parameters
        self.transfer, self.losses = parts.transfer, nn.ModuleList(self.terms)
        asked = [term.teacher for term in self.terms]
        self.speakers = {name: parts.teachers[name] for name in asked if name in parts.teachers}
        self.compared = {name: parts.compared(name) for name in self.speakers}

    def forward(
        self, batch: Batch, whole: Batch, views: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], Signals]:
        """The loss, the terms unweighted and weighted, and what the student said.

        What it said goes without its gradient: DistributedDataParallel waits for one from all that is put out. All
        speak with the weights from before the step, whoever learns from whom.

        Args:
            batch: this rank's share of the `whole` one.
            views: the rows as they are seen by those who do not see `batch.x`, by name; and further views of them, by
                `further`. Where one is missing, all that can be seen of a row is what was seen already.
        """
        ranks = self.ranks if len(batch) < len(whole) else ALONE
        said = {name: self._said(name, batch, views, ranks) for name in self.students}
        spans = {name: span(sides, batch) for name, sides in self.compared.items()}
        said |= {name: self._heard(name, batch, said, part) for name, part in spans.items() if part[0] < part[1]}
        student = said[STUDENT]

        values: dict[str, Tensor] = {}
        weighted: dict[str, Tensor] = {}
        for term in self.terms:
            if (value := term(batch, said, self.progress, spans)) is not None:
                counts = term.counts(batch, whole)
                values[term.name] = self.ranks.part(value, *counts)
                # Weighed before: what a weight adds of its own is shared as the term's rows are.
                weighted[term.name] = self.ranks.part(term.weighted(value, self.progress, said[term.a.model]), *counts)
        self.transfer.progress = self.progress
        if (shift := self.transfer(batch, student)) is not None:
            counts = len(batch), len(whole)
            values["transfer"] = self.ranks.part(shift, *counts)
            for name, value in self.transfer.told.items():
                values[f"transfer/{name}"] = self.ranks.part(value, *counts)
            weighted["transfer"] = self.ranks.part(
                self.transfer.weighed(self.parts.transfer_weight, shift, student), *counts
            )
        return _sum(list(weighted.values())), values, weighted, student.detached()

    def _said(self, name: str, batch: Batch, views: Mapping[str, Tensor], ranks: Ranks) -> Signals:
        """What a student says, about further views, too, if a loss asks for them: statistics are of the first one."""
        student, needs = self.students[name], self.needs[name]
        first = student.signals(views.get(name, batch.x), needs, batch.domain, ranks)
        if (tasks := self.tasks[name]) is not None:
            first = replace(first, competes=tasks == batch.experience[:, None])
        if self.views[name] == 1:
            return first
        seen = [views.get(further(place)) for place in range(1, self.views[name])]
        with self.statistics[name].held():
            said = (first if x is None else student.signals(x, needs, batch.domain, ranks) for x in seen)
            return replace(first, views=tuple(said))

    def _heard(self, name: str, batch: Batch, said: Mapping[str, Signals], part: tuple[int, int]) -> Signals:
        """What a teacher says about a part of the batch; its members that are trained say again what they `said`."""
        teacher, members = self.speakers[name], self.parts.members
        own = {peer: said[peer] for peer in members}
        if part != (0, len(batch)):
            batch, own = batch.rows(*part), {peer: signals.rows(*part) for peer, signals in own.items()}
        for peer, member in members.items():
            member.hear(batch, own[peer])
        return teacher.signals(teacher.seen(batch), self.needs[name])

    def spread(self) -> nn.Module:
        """Itself, with gradients averaged over the ranks if there are several."""
        if self.ranks.alone:
            return self
        from torch.nn.parallel import DistributedDataParallel  # not for who trains alone: it takes a while to load

        # Parameters that no gradient reaches in some steps must be looked for in each of them.
        # A policy sees new and replayed rows apart, and where memory is mixed in, a batch may have no new ones.
        always = (None,) if self.parts.gradient or self.parts.mixes else (None, "new")
        steady = [term for term in self.terms if term.a.rows in always]
        fickle = [*(term for term in self.terms if term not in steady), self.transfer]
        reached = {term.a.model for term in steady if term.loss.reads(0).logits}
        headless = reached != self.students.keys()
        unused = headless or any(part.requires_grad for module in fickle for part in module.parameters())
        # Buffers are settled at the experience's end instead. Newer versions of torch call this option otherwise.
        known = inspect.signature(DistributedDataParallel).parameters
        synced = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in known)
        options: dict[str, Any] = {"find_unused_parameters": unused, synced: False}
        return DistributedDataParallel(self, **options)


def further(place: int) -> str:
    """What a further view of the rows is called, from 1: no name of a student has a space."""
    return f"view {place}"


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
