"""Optimizers and learning-rate schedules of torch, by name.

The keywords are listed here so that a scenario is checked without loading torch; a test holds the lists against
torch's own signatures.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, model_validator

from clkd.errors import UserError, did_you_mean
from clkd.options import Opened, Options, Place, mistakes, unknown_key

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

log = logging.getLogger("clkd.optimizers")

REQUIRED = "required"
POSITIVE = ("step_size", "T_max", "div_factor", "final_div_factor", "factor")
NOT_NEGATIVE = ("lr", "max_lr", "momentum", "weight_decay", "eps")
"""torch refuses these only once it trains."""
LENGTH = "length"
"""Stands for a default that is the length of an experience, in epochs or in steps."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What torch calls it and the keywords it takes, with their defaults; `switches` change speed, not numbers."""

    torch_name: str
    keywords: Mapping[str, Any]
    switches: frozenset[str] = frozenset()


SPEED = frozenset({"foreach", "capturable", "differentiable"})
BETAS = [0.9, 0.999]

OPTIMIZERS = {
    "sgd": Signature(
        "SGD",
        {"lr": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False},
        frozenset({"foreach", "differentiable", "fused"}),
    ),
    "adam": Signature(
        "Adam",
        {"lr": 1e-3, "betas": BETAS, "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "maximize": False},
        SPEED | {"fused", "decoupled_weight_decay"},
    ),
    "adamw": Signature(
        "AdamW",
        {"lr": 1e-3, "betas": BETAS, "eps": 1e-8, "weight_decay": 0.01, "amsgrad": False, "maximize": False},
        SPEED | {"fused"},
    ),
    "rmsprop": Signature(
        "RMSprop",
        {
            "lr": 0.01,
            "alpha": 0.99,
            "eps": 1e-8,
            "weight_decay": 0,
            "momentum": 0,
            "centered": False,
            "maximize": False,
        },
        SPEED,
    ),
    "nadam": Signature(
        "NAdam",
        {"lr": 2e-3, "betas": BETAS, "eps": 1e-8, "weight_decay": 0, "momentum_decay": 4e-3, "maximize": False},
        SPEED | {"decoupled_weight_decay"},
    ),
    "radam": Signature(
        "RAdam",
        {"lr": 1e-3, "betas": BETAS, "eps": 1e-8, "weight_decay": 0, "maximize": False},
        SPEED | {"decoupled_weight_decay"},
    ),
    "adagrad": Signature(
        "Adagrad",
        {"lr": 0.01, "lr_decay": 0, "weight_decay": 0, "initial_accumulator_value": 0, "eps": 1e-10, "maximize": False},
        frozenset({"foreach", "differentiable", "fused"}),
    ),
    "adadelta": Signature(
        "Adadelta", {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0, "maximize": False}, SPEED
    ),
    "adafactor": Signature(
        "Adafactor",
        {"lr": 0.01, "beta2_decay": -0.8, "eps": [None, 1e-3], "d": 1.0, "weight_decay": 0.0, "maximize": False},
        frozenset({"foreach"}),
    ),
    "adamax": Signature(
        "Adamax", {"lr": 2e-3, "betas": BETAS, "eps": 1e-8, "weight_decay": 0, "maximize": False}, SPEED
    ),
    "asgd": Signature(
        "ASGD", {"lr": 0.01, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6, "weight_decay": 0, "maximize": False}, SPEED
    ),
    "rprop": Signature("Rprop", {"lr": 0.01, "etas": [0.5, 1.2], "step_sizes": [1e-6, 50], "maximize": False}, SPEED),
}
"""torch's optimizers that take one gradient a step (LBFGS asks for a closure, SparseAdam for sparse gradients)."""

SCHEDULERS = {
    "step": Signature("StepLR", {"step_size": REQUIRED, "gamma": 0.1}),
    "multi_step": Signature("MultiStepLR", {"milestones": REQUIRED, "gamma": 0.1}),
    "cosine": Signature("CosineAnnealingLR", {"T_max": LENGTH, "eta_min": 0.0}),
    "exponential": Signature("ExponentialLR", {"gamma": REQUIRED}),
    "linear": Signature("LinearLR", {"start_factor": 1 / 3, "end_factor": 1.0, "total_iters": 5}),
    "constant": Signature("ConstantLR", {"factor": 1 / 3, "total_iters": 5}),
    "polynomial": Signature("PolynomialLR", {"total_iters": 5, "power": 1.0}),
    "one_cycle": Signature(
        "OneCycleLR",
        {
            "max_lr": REQUIRED, "total_steps": LENGTH, "pct_start": 0.3, "anneal_strategy": "cos",
            "cycle_momentum": True, "base_momentum": 0.85, "max_momentum": 0.95, "div_factor": 25.0,
            "final_div_factor": 1e4, "three_phase": False,
        },
    ),
    "cosine_warm_restarts": Signature("CosineAnnealingWarmRestarts", {"T_0": REQUIRED, "T_mult": 1, "eta_min": 0.0}),
}  # fmt: skip


class OptimizerOptions(Options):
    """An optimizer of torch by name (case and underscores do not matter) and torch's own keywords.

    What is left out is filled in with torch's defaults, so that a resolved scenario shows what ran.

    >>> OptimizerOptions.model_validate({"kind": "SGD", "lr": 0.1}).keywords["momentum"]
    0
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str
    """Its name; every other key is torch's own keyword."""

    if TYPE_CHECKING:

        def __init__(self, *, kind: str, **keywords: Any) -> None: ...

    @property
    def keywords(self) -> dict[str, Any]:
        """What torch is given beside the parameters."""
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _check(cls, raw: Any) -> Any:
        return _fill_in("optimizer", OPTIMIZERS, raw, ())


class SchedulerOptions(Options):
    """A schedule of the learning rate over one experience, by name, and torch's own keywords.

    `T_max` of cosine and `total_steps` of one_cycle are the experience's length unless they are given.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str
    """Its name; every other key is torch's own keyword."""
    every: Literal["epoch", "step"] = "epoch"
    """When it moves: after each epoch, or after each optimiser step."""

    if TYPE_CHECKING:

        def __init__(self, *, kind: str, every: Literal["epoch", "step"] = "epoch", **keywords: Any) -> None: ...

    @property
    def keywords(self) -> dict[str, Any]:
        """What torch is given beside the optimizer; `length` stands for the experience's own."""
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _check(cls, raw: Any) -> Any:
        return _fill_in("scheduler", SCHEDULERS, raw, ("every",))


def build_optimizer(options: OptimizerOptions, parameters: Iterable[nn.Parameter], where: str = "train.") -> Optimizer:
    """The optimizer over `parameters`; `UserError` where torch refuses a value of what the scenario says below `where`.

    Where a device or type has no fused kernel, `foreach` is used instead, which a warning says once.
    """
    import torch
    from torch.optim.optimizer import _device_dtype_check_for_fused

    kind: type[Optimizer] = getattr(torch.optim, OPTIMIZERS[options.kind].torch_name)
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in options.keywords.items()
    }
    trained = list(parameters)
    try:
        try:
            built = kind(trained, **given)
            if given.get("fused"):  # torch itself looks only at the first step
                for parameter in trained:
                    _device_dtype_check_for_fused(parameter, cuda_unsupported=options.kind == "adagrad")
            return built
        except RuntimeError as error:
            if not given.get("fused") or given.get("foreach") or given.get("differentiable"):
                raise
            instead = kind(trained, **{**given, "fused": False, "foreach": True})
            _say_not_fused(where, options.kind, str(error))
            return instead
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"{where}optimizer: {options.kind}: {error}") from error


@cache
def _say_not_fused(where: str, kind: str, reason: str) -> None:
    """Once, though an optimizer is built in every experience."""
    log.warning("%soptimizer: %s: foreach instead of fused: %s", where, kind, reason)


def drop_subnormals(optimizer: Optimizer) -> None:
    """Set to 0 what an optimizer remembers on the CPU of numbers below the smallest normal one (float32: 1.2e-38).

    The running mean of a gradient that has become 0, as a dead unit's is, dwindles until it is subnormal, and there it
    stays: 0.9 of the smallest number is rounded to the number itself. Processors take many times as long for such
    numbers, and more units die with each experience (`benchmarks/savings.py`). No weight moves by what is lost: at most
    1.2e-38 of a gradient, which Adam divides by no less than its `eps`.

    >>> import torch
    >>> weight = torch.zeros(3, requires_grad=True)
    >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    >>> optimizer.state[weight]["momentum_buffer"] = torch.tensor([1e-39, -1e-37, 1.0])
    >>> drop_subnormals(optimizer)
    >>> optimizer.state[weight]["momentum_buffer"]
    tensor([ 0.0000e+00, -1.0000e-37,  1.0000e+00])
    """
    import torch

    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor) and value.device.type == "cpu" and value.is_floating_point():
                # In half precision, subnormal numbers are large enough to matter.
                smallest = min(torch.finfo(each).tiny for each in (value.dtype, torch.float32))
                value.masked_fill_(value.abs() < smallest, 0)


def build_scheduler(
    options: SchedulerOptions, optimizer: Optimizer, epochs: int, steps: int, where: str = "train."
) -> LRScheduler:
    """The schedule over one experience of `epochs` epochs with `steps` optimiser steps each; `UserError` where torch
    refuses a value, of what the scenario says below `where`, or would once it has moved on."""
    import torch

    length = epochs if options.every == "epoch" else epochs * steps
    kind: type[LRScheduler] = getattr(torch.optim.lr_scheduler, SCHEDULERS[options.kind].torch_name)
    given = {name: length if value == LENGTH else value for name, value in options.keywords.items()}
    try:
        if options.kind == "one_cycle":
            _check_cycle(given, length)
        return kind(optimizer, **given)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}scheduler: {options.kind}: {error}") from error


def _check_cycle(given: Mapping[str, Any], length: int) -> None:
    """What torch divides by 0 for, or refuses after training for a while."""
    total, rise = given["total_steps"], given["pct_start"]
    if isinstance(total, int) and 0 < total < length:
        raise ValueError(f"total_steps {total} are over before the {length} moves of the learning rate: leave it out")
    ends = [rise * total - 1, *([2 * rise * total - 2] if given["three_phase"] else []), total - 1]
    if ends[0] == 0 or (total == length and ends[-1] == ends[-2]):
        raise ValueError(
            f"with pct_start {rise:g} of {total} moves a part of the cycle has no length: change it a little"
        )


def _fill_in(what: str, table: Mapping[str, Signature], raw: Any, own: tuple[str, ...]) -> Any:
    """Check kind and keywords against the table and add the defaults."""
    if isinstance(raw, Opened):
        raw = {"kind": raw.name, **raw}
    given = {"kind": raw} if isinstance(raw, str) else raw
    if not isinstance(given, Mapping):
        raise ValueError(f"give the {what}'s name, or a mapping with 'kind'; got {type(raw).__name__}")
    if "kind" not in given:
        raise ValueError(f"the {what}'s 'kind' is missing")
    kind = _find(table, str(given["kind"]))
    if kind is None:
        where: Place = () if isinstance(raw, str) else ("kind",)
        raise mistakes([(where, f"{what} '{given['kind']}' is not known ({did_you_mean(str(given['kind']), table)})")])
    signature = table[kind]
    keywords = {name: value for name, value in given.items() if name not in ("kind", *own)}
    found = [
        ((name,), problem) for name, value in keywords.items() if (problem := _problem(signature, name, value, own))
    ]
    needed = [name for name, default in signature.keywords.items() if default is REQUIRED and name not in keywords]
    found += [((name,), f"is missing: {what} '{kind}' needs it") for name in needed]
    if found:
        raise mistakes(found)
    told = {name: _as_listed(signature.keywords.get(name), value) for name, value in keywords.items()}
    return {**signature.keywords, **given, **told, "kind": kind}


def _as_listed(default: Any, value: Any) -> Any:
    """The same number in the type that the table has it in, so that one value is known by one text."""
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in (default, value)):
        return value
    if value == default:
        return default
    return float(value) if isinstance(default, float) and abs(value) <= sys.float_info.max else value


def _find(table: Mapping[str, Signature], name: str) -> str | None:
    """The table's name for what the user or torch calls it: `AdamW`, `adam_w`, `CosineAnnealingLR`."""
    wanted = _plain(name)
    return next((kind for kind, known in table.items() if wanted in (_plain(kind), _plain(known.torch_name))), None)


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _problem(signature: Signature, name: str, value: Any, own: tuple[str, ...]) -> str | None:
    """What is wrong with one keyword, as far as it can be told without torch."""
    if name in signature.switches:
        return None if isinstance(value, bool) or value is None else f"give true or false; got {value!r}"
    if name not in signature.keywords:
        return unknown_key(name, ("kind", *own, *signature.keywords, *signature.switches))
    default = signature.keywords[name]
    if isinstance(default, bool):
        return None if isinstance(value, bool) else f"give true or false; got {value!r}"
    if name == "milestones":
        return None if isinstance(value, list | tuple) else f"give a list of numbers; got {value!r}"
    if isinstance(default, list):
        fits = isinstance(value, list | tuple) and len(value) == len(default)
        return None if fits else f"give a list of {len(default)} numbers; got {value!r}"
    if name == "anneal_strategy":
        return None if value in ("cos", "linear") else f"give cos or linear; got {value!r}"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number:
        return None if value == default else f"give a number; got {value!r}"
    if name in POSITIVE and value <= 0:
        return f"give more than 0; got {value!r}"
    return None if value >= 0 or name not in NOT_NEGATIVE else f"give 0 or more; got {value!r}"
