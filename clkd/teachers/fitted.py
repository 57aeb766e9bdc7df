"""Teachers that are fitted here, once, and kept: from labels alone, or taught by others in their turn."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from clkd.cache import clear
from clkd.context import Context
from clkd.errors import UserError
from clkd.frozen import freeze
from clkd.locks import alone, beside
from clkd.optimizers import OptimizerOptions, SchedulerOptions
from clkd.options import Part, TeacherOptions, ViewOptions
from clkd.teachers import BornAgainOptions, FitOptions, Recipe
from clkd.teachers.averaged import Averaged
from clkd.teachers.base import Teacher
from clkd.teachers.network import NetworkTeacher
from clkd.teachers.shelf import Copy, DamagedError, copied, load, save

log = logging.getLogger("clkd.teachers")

FIT_VERSION = 1
"""Part of a fitted teacher's fingerprint: raised when fitting changes, so that old files are not taken for new ones."""
OPTIMIZER: OptimizerOptions = Recipe.model_fields["optimizer"].default
SCHEDULER: SchedulerOptions | None = Recipe.model_fields["scheduler"].default
TAUGHT = ("teacher", "temperature", "weight")
"""Options that count only where somebody teaches."""


def fit(
    model: Part,
    context: Context,
    epochs: int = 10,
    batch_size: int = 128,
    optimizer: OptimizerOptions = OPTIMIZER,
    scheduler: SchedulerOptions | None = SCHEDULER,
    seed: int = 0,
    temperature: float = 2.0,
    weight: float = 1.0,
    view: ViewOptions | None = None,
    domains: tuple[str | int, ...] | None = None,
    teacher: Part | None = None,
) -> NetworkTeacher:
    """A network trained on all of the stream's training rows, all classes at once; perhaps taught by a `teacher`.

    With `domains`, on the rows of some of the data's own domains: an expert of them.

    It is fitted once and kept in the cache under a fingerprint of everything that determines it: data, augmentation,
    model, recipe, seed, device kind, torch's version and who teaches it. With a `teacher`, itself fitted by another, it
    is a teacher assistant: Mirzadeh et al. 2020, "Improved Knowledge Distillation via Teacher Assistant", §3.

    The loss is `CE + weight · kd`. (The paper's, `(1 − λ) · CE + λ · T² · KL`, has weight λ / (1 − λ), up to a factor.)
    """
    given: dict[str, Any] = {name: value for name, value in locals().items() if name != "context"}
    options = FitOptions(**given)
    copy = _copy("fit", options, context)
    network = copied(copy.said, context, lambda about: _fresh(options, context))
    if network is not None:
        return _speaker(network, context, copy)
    above = None if teacher is None else _above(teacher, context)
    return _speaker(_fitted(options, context, above), context, copy)


def born_again(
    model: Part,
    context: Context,
    epochs: int = 10,
    batch_size: int = 128,
    optimizer: OptimizerOptions = OPTIMIZER,
    scheduler: SchedulerOptions | None = SCHEDULER,
    seed: int = 0,
    temperature: float = 1.0,
    weight: float = 1.0,
    view: ViewOptions | None = None,
    domains: tuple[str | int, ...] | None = None,
    generations: int = 3,
    speak: Literal["last", "all"] = "last",
) -> NetworkTeacher:
    """Networks of one kind: the first learns from labels, each later one from labels and from the one before it.

    Furlanello et al. 2018, "Born-Again Neural Networks", §3.1: a chain of `fit` teachers that differ only in seed. With
    `speak: all` the generations teach together, by the mean of their probabilities (the paper's BAN ensemble).

    The loss is `CE + weight · kd`; by default both count the same and T is 1, as in the paper.
    """
    given: dict[str, Any] = {name: value for name, value in locals().items() if name != "context"}
    options = BornAgainOptions(**given)
    copy = _copy("born_again", options, context)
    recipes = [_generation(options, i) for i in range(generations)]
    network = copied(copy.said, context, lambda about: _together([_fresh(each, context) for each in recipes], speak))
    if network is not None:
        return _speaker(network, context, copy)
    born: list[Any] = []
    for recipe in recipes:
        born.append(_fitted(recipe, context, _speaker(born[-1], context) if born else None))
    return _speaker(_together(born, speak), context, copy)


def _generation(options: BornAgainOptions, place: int) -> Recipe:
    own: dict[str, Any] = {name: getattr(options, name) for name in Recipe.model_fields}
    return Recipe(**{**own, "seed": options.seed + place})


def _together(born: list[Any], speak: str) -> nn.Module:
    last: nn.Module = born[-1]
    return last if speak == "last" else Averaged(born)


def _above(part: Part, context: Context) -> Teacher:
    """The teacher of a teacher."""
    try:
        teacher: Teacher = context.build(part, context=context, teachers={})
    except UserError as error:
        raise UserError(f"teacher: {error}") from error
    if teacher.identity() is None:
        raise UserError(f"teacher: '{part.name}' changes with a run's student, so it cannot teach before there is one")
    assert isinstance(part.shared, TeacherOptions), "the registry gives every teacher its shared keys"
    teacher.recall = part.shared.recall
    return teacher


def _speaker(network: Any, context: Context, copy: Copy | None = None) -> NetworkTeacher:
    teacher = NetworkTeacher(freeze(network.to(context.device)), copy=copy)
    teacher.untrained = _is_stand_in(network)
    return teacher


def _is_stand_in(network: nn.Module) -> bool:
    return any(getattr(module, "stand_in", False) for module in network.modules())


def _fresh(options: Recipe, context: Context) -> Any:
    """It knows nothing of classes that came by an extension of the stream."""
    classes = tuple(range(len(context.class_names) - context.extended))
    return context.network(options.model, classes, options.seed, options.view)


def _fitted(options: Recipe, context: Context, above: Teacher | None) -> Any:
    """The network out of the cache, or fitted now."""
    rows = len(context.labelled(options.domains))
    if context.untrained:
        stand_in = _fresh(options, context)
        stand_in.stand_in = True
        return stand_in
    name = options.model.name
    path = context.cache / "teachers" / f"{name}-{_fingerprint(options, context, above)}.safetensors"
    with alone(beside(path), f"fitting teacher {name}"):
        network = _cached(options, context, path)
        if network is not None:
            log.info("teacher: %s from the cache (%s)", name, path.name)
            return network
        if not rows:
            raise UserError(f"it was fitted on data that is not here, and neither is {path}: bring one of them")
        log.info("teacher: fitting %s for %d epochs on %d rows, once", name, options.epochs, rows)
        network = _fresh(options, context)
        context.fit(network, options, above)
        save(network, path, {}, "the next run fits it again")
    return network


def _fingerprint(options: Recipe, context: Context, above: Teacher | None) -> str:
    """Of all that determines the weights; who teaches counts by its own weights, and so by all who taught it."""
    recipe = _plain(options, *TAUGHT)
    if recipe["view"] is None:
        del recipe["view"]
    facts: dict[str, Any] = {
        "version": FIT_VERSION,
        "options": recipe,
        "data": context.data_fingerprint,
        "device": context.device.type,
        "torch": str(torch.__version__),
    }
    if above is not None:
        facts["taught"] = {"by": above.identity(), "temperature": options.temperature, "weight": options.weight}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _plain(options: Recipe, *without: str) -> dict[str, Any]:
    """As plain data; what came later than the first files is there only if it was asked for."""
    return options.model_dump(mode="json", exclude={*without, *(["domains"] if options.domains is None else [])})


def _cached(options: Recipe, context: Context, path: Path) -> nn.Module | None:
    """What is damaged is set aside."""
    try:
        return load(path, lambda about: _fresh(options, context))
    except DamagedError as error:
        aside = path.with_suffix(".damaged")
        clear(aside)
        path.rename(aside)
        log.warning("teacher: %s is damaged (%s): it is set aside as %s and fitted again", path, error, aside.name)
        return None


def _copy(kind: str, options: Recipe, context: Context) -> Copy:
    """Paths of who teaches it start from the base."""
    base = str(context.base) if getattr(options, "teacher", None) else None
    recipe = _plain(options)
    return Copy({"kind": kind, "options": recipe, "data": context.data_fingerprint, "base": base}, {})
