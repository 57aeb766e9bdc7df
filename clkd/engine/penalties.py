"""The terms about the student's parameters, which are added to a step's gradient after all others."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from clkd.engine.parts import Parts
from clkd.engine.term import STUDENT, Term
from clkd.errors import UserError
from clkd.ranks import Ranks
from clkd.schedules.base import Progress, Schedule
from clkd.signals import Batch, Signals


@dataclass(slots=True)
class Penalties:
    """Added apart from the terms about rows, so that a loss that follows the path of learning sees their gradient alone
    without a second pass, each process adds the same, and they count once where rows are looked at in two batches.
    """

    parts: Parts
    progress: Progress
    terms: list[Term]
    weighted: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Parts, progress: Progress, ranks: Ranks) -> Penalties | None:
        """Those of an experience, if there are any.

        Raises:
            UserError: several processes would weigh one by different answers.
        """
        terms = [term for term in parts.active() if term.loss.regularises]
        for term in terms:
            if not ranks.alone and isinstance(term.weight, Schedule) and term.weight.reads_signals:
                raise UserError(
                    f"losses: the weight of {term.name} depends on what the student says, which differs between "
                    "processes: give it a weight that does not, or train in one process"
                )
        return cls(parts, progress, terms) if terms else None

    def weigh(self, batch: Batch, said: Signals, values: dict[str, Tensor], weighted: dict[str, Tensor]) -> None:
        """Add what they are worth to the terms of a step, as it is and as it counts."""
        for term in self.terms:
            value = term(batch, {STUDENT: said}, self.progress)
            values[term.name] = value
            self.weighted[term.name] = term.weighted(value, self.progress, said)
        weighted.update(self.weighted)

    def backward(self, loss: Tensor, retain_graph: bool) -> Tensor:
        """Let them see the gradient so far, and then add theirs; returns the loss with them."""
        for term in self.terms:
            term.loss.after_backward(self.parts.student)
        for value in self.weighted.values():
            if value.requires_grad:
                torch.autograd.backward(value, retain_graph=retain_graph)
            loss = loss.detach() + value.detach()
        return loss
