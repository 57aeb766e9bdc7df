"""Fitting an external teacher: one experience of everything, cross-entropy only, with the same loop as the student."""

from __future__ import annotations

from collections.abc import Callable

from clkd.data.augment import Augment
from clkd.engine.loop import Loop
from clkd.engine.parts import Parts
from clkd.engine.term import Side, Term
from clkd.experience import Experience, Rows
from clkd.losses.classification import CrossEntropy
from clkd.models.student import Student
from clkd.scenario.model import TrainOptions
from clkd.schedules.base import Progress
from clkd.teachers import FitOptions


def fit(
    network: Student, options: FitOptions, train: Rows, augment: Augment, on_step: Callable[[Progress], None]
) -> None:
    """Train `network` in place on all of `train`."""
    classes = network.class_ids
    recipe = TrainOptions(
        epochs=options.epochs,
        batch_size=options.batch_size,
        optimizer=options.optimizer,
        scheduler=options.scheduler,
    )
    everything = Experience(
        index=0, classes=classes, seen=classes, train=train, validation=train, test=train, name="everything", count=1
    )
    parts = Parts(network, augment, [Term("cross_entropy", CrossEntropy(), (Side("student"),))])
    Loop(parts, recipe, options.seed, on_step=on_step).train(everything, parts.begin(everything, options.seed))
