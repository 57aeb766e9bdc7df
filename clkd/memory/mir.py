"""Rows that the coming step would hurt most."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from clkd.memory.base import Memory
from clkd.memory.retrieval import Moment, Retrieval
from clkd.signals import Batch, Signals

Weights = dict[str, Tensor]


class Mir(Retrieval):
    """Maximally interfered retrieval: of some candidates, the rows whose loss a step on the new rows would raise most.

    Aljundi et al. 2019, "Online Continual Learning with Maximally Interfered Retrieval", §3.1, criterion MI-1. The step
    is looked ahead at: plain SGD, at the current learning rate, on the cross-entropy of the new rows. Each candidate's
    score is its cross-entropy after that step minus that before. The student looks as in evaluation (no dropout,
    running statistics), un-augmented, so that a row's score does not depend on the rows beside it. Neither its weights
    nor its buffers are touched, and nothing waits for the device.

    Args:
        candidates: how many rows are drawn evenly, of which the first are replayed. Where the memory holds no more than
            a step replays, all are.
    """

    def __init__(self, candidates: int = 50) -> None:
        self.candidates = candidates

    def __call__(
        self, memory: Memory, n: int, times: int, generator: torch.Generator, moment: Moment
    ) -> list[Batch | None]:
        found = [memory.sample(max(n, self.candidates), generator) for _ in range(times)]
        if all(rows is None or len(rows) <= n for rows in found):
            return found
        with moment.student.teaching():
            ahead = looked_ahead(moment)
            return [None if rows is None else most_interfered(rows, n, ahead, moment) for rows in found]


def looked_ahead(moment: Moment) -> Weights:
    """The student's weights after one step of SGD on the new rows."""
    weights = {name: weight for name, weight in moment.student.named_parameters() if weight.requires_grad}
    loss = _losses(moment, moment.new, {}).mean()
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    moved = zip(weights.items(), gradients, strict=True)
    return {name: weight.detach() - moment.lr * gradient for (name, weight), gradient in moved if gradient is not None}


@torch.no_grad()
def most_interfered(rows: Batch, n: int, ahead: Weights, moment: Moment) -> Batch:
    """The `n` rows whose loss is raised most by going to the weights `ahead`, the most first."""
    raised = _losses(moment, rows, ahead) - _losses(moment, rows, {})
    # Processes may differ in their batch-norm statistics, but not in the rows that they replay.
    worst = moment.ranks.first_told(raised.topk(n).indices)
    return rows.pick(worst[:0], worst)


def _losses(moment: Moment, rows: Batch, weights: Weights) -> Tensor:
    """`[B]`, with these weights in place of the student's own."""
    logits: Tensor = functional_call(moment.student, weights, (moment.plain(rows.x), rows.domain))
    return moment.losses(rows, Signals(logits, moment.student.class_ids_tensor))
