"""New and replayed rows apart: each past's own gradient, and what a gradient policy makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clkd.engine.parts import Parts
from clkd.gradients.base import GradientPolicy
from clkd.ranks import Ranks
from clkd.schedules.base import Progress
from clkd.signals import Batch


@dataclass(slots=True)
class Projection:
    """Applies a gradient policy to a step.

    New and replayed rows take a forward pass each, as two batches: so every term is a mean over one kind of rows, batch
    norm sees one kind at a time (as in the papers), and a graph is freed before the next one is made. A term about
    replayed rows alone counts in references only. What was replayed of the experience under way is left out, where
    anybody is told which that is.
    """

    policy: GradientPolicy
    objective: nn.Module
    optimizer: Optimizer
    progress: Progress
    ranks: Ranks
    parameters: list[nn.Parameter]
    """The student's: what losses have of their own answers to no reference."""
    boundaries: bool = True
    """Whether anybody is told where experiences end."""
    references: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(
        cls, parts: Parts, objective: nn.Module, optimizer: Optimizer, progress: Progress, ranks: Ranks
    ) -> Projection | None:
        """None without a policy."""
        if parts.gradient is None:
            return None
        trained = [parameter for parameter in parts.student.parameters() if parameter.requires_grad]
        return cls(parts.gradient, objective, optimizer, progress, ranks, trained, parts.boundaries)

    def refer(self, batch: Batch) -> Batch:
        """Take the gradients of a batch's replayed rows; returns its new rows."""
        self.references, self.losses = [], []
        for at in self._past(batch):
            rows = batch.pick(at[:0], at)
            loss = self.objective(self.ranks.share(rows), rows, {})[0]
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            self.references.append(self._gradient())
            self.losses.append(loss.detach())
        return batch.rows(0, batch.new)

    @torch.no_grad()
    def project(self) -> dict[str, Tensor]:
        """Let the policy change the parameters' gradient; returns what is logged, by name."""
        if not self.references:
            return {}
        gradient = self._gradient()
        changed = self.policy(gradient, torch.stack(self.references))
        pieces = torch.split(changed, [parameter.numel() for parameter in self.parameters])
        for parameter, piece in zip(self.parameters, pieces, strict=True):
            if parameter.grad is None:  # new rows say nothing of it, but references may
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.copy_(piece.view_as(parameter))
        projected = (changed != gradient).any().to(gradient.dtype)
        return {"gradient/reference": torch.stack(self.losses).mean(), "gradient/projected": projected}

    def _past(self, batch: Batch) -> Iterator[Tensor]:
        """Positions of the replayed rows of the past, all together or by experience. This waits for the device."""
        came = batch.experience[batch.new :].cpu()
        past = came[came < self.progress.experience] if self.boundaries else came
        wanted = torch.unique(past).tolist()
        groups = [[e] for e in wanted] if self.policy.per_experience else [wanted] * bool(wanted)
        for group in groups:
            at = torch.isin(came, torch.tensor(group)).nonzero().squeeze(1) + batch.new
            yield at.to(batch.y.device)

    def _gradient(self) -> Tensor:
        """`[P]`, 0 where there is none."""
        return torch.cat(
            [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in self.parameters]
        )
