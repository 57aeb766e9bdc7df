"""Batch-norm statistics: taking them anew from rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from clkd.errors import UserError
from clkd.signals import Batch, Needs
from clkd.transfer.base import Seen, Transfer
from clkd.transfer.domain_norm import DomainNorm
from clkd.transfer.options import Renewal

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student

Norm = BatchNorm | DomainNorm


class AdaBN(Transfer):
    """After an experience, batch-norm statistics become those of its training rows, whatever was replayed beside them.

    Li et al. 2016, "Revisiting Batch Normalization for Practical Domain Adaptation". With a `share` below 1 they move
    that far from where training left them. It reads no label and no row of the source. What the student knew of the
    source it knows with other statistics now: `dsbn` keeps those.
    """

    source_free: ClassVar[bool] = True

    def __init__(self, share: float = 1.0) -> None:
        super().__init__()
        self.share = share

    def prepare(self, student: Student) -> None:
        if not layers(student):
            raise UserError(
                "transfer: adabn is about batch norm, and the student's model has none: use another model, such as "
                "resnet8"
            )

    def review(self, seen: Seen, experience: Experience, student: Student) -> None:
        if not layers(student):
            return
        before = [(layer, statistics(layer)) for layer in layers(student)]
        reestimate(student, seen("new"))
        with torch.no_grad():
            for layer, old in before:
                for now, then in zip(statistics(layer, copy=False), old, strict=True):
                    now.copy_(torch.lerp(then, now, self.share))


def layers(student: nn.Module) -> list[Norm]:
    """Those batch-norm layers that keep statistics."""
    return [each for each in student.modules() if isinstance(each, Norm) and each.running_mean is not None]


def statistics(layer: Norm, copy: bool = True) -> list[Tensor]:
    """Mean and variance of a layer."""
    assert layer.running_mean is not None, "asked of layers that keep statistics"
    assert layer.running_var is not None, "the same"
    both = [layer.running_mean, layer.running_var]
    return [each.clone() for each in both] if copy else both


def renew(student: Student, how: Renewal, seen: Seen, experience: Experience) -> None:
    """Take statistics anew from the experience's rows, alone or `balanced` with those kept of earlier ones."""
    if how:
        reestimate(student, balanced(seen, experience) if how == "balanced" else seen("new"))


def balanced(seen: Seen, experience: Experience) -> Iterator[Batch]:
    """Its training rows, each batch with as many that memory keeps of earlier experiences, as in training; these come
    round as often as they must. Where nothing is kept of these, its rows alone."""
    old = _around(seen, experience.index)
    for new in seen("new"):
        start = 0
        while start < len(new):
            beside = next(old, None)
            stop = min(start + len(beside), len(new)) if beside is not None else len(new)
            part = new.rows(start, stop)
            yield part if beside is None else part.joined(beside.rows(0, len(part)))
            start = stop


def _around(seen: Seen, experience: int) -> Iterator[Batch]:
    """What memory keeps of experiences before this one, over and over; nothing if it keeps nothing."""
    while True:
        nothing = True
        for batch in seen("kept"):
            at = (batch.experience < experience).nonzero()[:, 0]
            if len(at):
                nothing = False
                yield batch.pick(at[:0], at)
        if nothing:
            return


@torch.no_grad()
def reestimate(student: Student, rows: Iterable[Batch]) -> None:
    """Give all batch-norm layers the mean of each batch's statistics, larger batches counting more; nothing else moves.

    All other layers are in eval mode. Of a backbone that stands still, nothing moves. A batch of a single row has no
    variance, and is left out. Of statistics of each domain's own, those of the rows' domain are taken anew.
    """
    if student.still:  # all that was gathered is about the statistics that there are
        return
    kept, runner = layers(student), student.runner
    modes, momenta = {module: module.training for module in student.modules()}, [layer.momentum for layer in kept]
    student.eval()
    student.runner = type(student.taps).run  # what is compiled would be compiled anew for each momentum
    for layer in kept:
        layer.train()
    count = 0
    for batch in rows if kept else ():
        if len(batch) > 1:
            count += len(batch)
            for layer in kept:
                layer.momentum = len(batch) / count
            student.signals(batch.x, Needs(logits=False), batch.domain)
    student.runner = runner
    for layer, momentum in zip(kept, momenta, strict=True):
        layer.momentum = momentum
    for module, training in modes.items():
        module.training = training
