"""Fitting an external teacher: one experience of everything, with the same loop and losses as the student."""

from __future__ import annotations

from collections.abc import Callable

from clkd.data.augment import Augment
from clkd.engine.loop import Loop
from clkd.engine.parts import Parts
from clkd.engine.term import STUDENT, Side, Term
from clkd.experience import Experience, Rows
from clkd.losses.classification import CrossEntropy
from clkd.losses.response import KD
from clkd.models.student import Student
from clkd.scenario.train import TrainOptions
from clkd.schedules.base import Progress
from clkd.teachers import Recipe
from clkd.teachers.base import Teacher

ABOVE = "teacher"
"""What the teacher of a teacher is called in its terms."""


def fit(
    network: Student,
    options: Recipe,
    train: Rows,
    augment: Augment,
    on_step: Callable[[Progress], None],
    teacher: Teacher | None = None,
) -> None:
    """Train `network` in place on all of `train`: cross-entropy, and `kd` from a `teacher` where there is one."""
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
    terms = [Term("cross_entropy", CrossEntropy(), (Side(STUDENT),))]
    if teacher is not None:
        terms.append(Term(f"kd_{ABOVE}", KD(options.temperature), (Side(STUDENT), Side(ABOVE)), options.weight))
    parts = Parts(network, augment, terms, {} if teacher is None else {ABOVE: teacher})
    Loop(parts, recipe, options.seed, on_step=on_step, section="").train(
        everything, parts.begin(everything, options.seed)
    )
    parts.end(everything)
