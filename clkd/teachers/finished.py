"""The student of a finished run as a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from clkd.context import Context
from clkd.errors import UserError
from clkd.frozen import freeze
from clkd.options import ViewOptions
from clkd.teachers.external import class_id, columns
from clkd.teachers.network import NetworkTeacher
from clkd.teachers.shelf import Copy, copied
from clkd.view import View, view_of


def run(
    run: str,
    context: Context,
    classes: Mapping[str, int | str | None] = {},  # it is only read
    view: ViewOptions | None = None,
) -> NetworkTeacher:
    """The student as it was after an experience of its run, with the model, head and normalization that it had there.

    Classes are matched by name, unless `classes` says otherwise; those that only one of the two streams has take no
    part. Rows are brought to what that run's were: their size, channels and statistics.
    """
    said = {"kind": "run", "run": run, "base": str(context.base)}
    about: dict[str, Any] = {}

    def made(told: dict[str, Any]) -> nn.Module:
        about.update(told)
        network: nn.Module = context.rebuilt(told, matched(told, classes, context))
        return network

    network: Any = copied(said, context, made)
    if network is None:
        told, state = context.finished(run)
        network = made(told)
        network.load_state_dict(state)
    return NetworkTeacher(freeze(network.to(context.device)), _view(about, view, context), Copy(said, about))


def matched(about: Mapping[str, Any], classes: Mapping[str, int | str | None], context: Context) -> tuple[int, ...]:
    """The stream's class of each column; a column whose class had not come yet is none of them.

    Raises:
        UserError: a class is not known to the run or the stream, is named twice, or there is no common one.
    """
    theirs, ours = about["class_names"], context.class_names
    told = {class_id(_id_or_name(its, theirs), theirs, "that run"): own for its, own in classes.items()}
    layout = about["layout"]
    found = []
    for c, born in zip(layout["class_ids"], layout["born"], strict=True):
        name = theirs[c] if c < len(theirs) else None
        own = told.get(c, name if name in ours else None)
        found.append(None if own is None or born < 0 else class_id(own, ours))
    if all(one is None for one in found):
        raise UserError(
            f"that run's classes ({_some(theirs)}) and the stream's ({_some(ours)}) have no name in common: say which "
            f"is which, as in classes: {{{theirs[0]}: {ours[0]}}}"
        )
    return columns(found, ours)


def _id_or_name(word: str, names: Sequence[str]) -> int | str:
    """YAML's keys are words, so that an id comes as one."""
    return int(word) if word.isdecimal() and word not in names else word


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _view(about: Mapping[str, Any], asked: ViewOptions | None, context: Context) -> View | None:
    """From the stream's rows to that run's; what the scenario asks for goes first."""
    theirs, ours = tuple(about["shape"]), context.shape
    wanted = {} if asked is None else asked.model_dump(exclude_none=True)
    derived = {**_shaped(theirs, ours), **wanted}
    shaped(theirs, wanted, context, "that run")
    mean, std = torch.tensor(about["mean"]), torch.tensor(about["std"])
    same = torch.equal(mean, context.mean.cpu()) and torch.equal(std, context.std.cpu())
    if not derived and same:
        return None  # not even a bit is changed
    return view_of(
        ViewOptions(**{"mean": about["mean"], "std": about["std"], **derived}), context.mean, context.std, ours
    )


def shaped(theirs: tuple[int, ...], wanted: Mapping[str, Any], context: Context, whose: str) -> View | None:
    """From the stream's rows to those of `theirs`: by size and channels that can be derived, and what is `wanted`.

    Raises:
        UserError: that does not lead there.
    """
    ours = context.shape
    view = view_of(ViewOptions(**{**_shaped(theirs, ours), **wanted}), context.mean, context.std, ours)
    seen = ours if view is None else view.shape(ours)
    if seen != theirs:
        raise UserError(
            f"view: {whose}'s rows are {_by(theirs)}, and these would be {_by(seen)} of {_by(ours)}: say what it sees "
            "of them, as in view: {channels: [0], size: 32}"
        )
    return view


def _shaped(theirs: tuple[int, ...], ours: tuple[int, ...]) -> dict[str, Any]:
    """Channels and size, where these images are of others."""
    if len(theirs) != 3 or len(ours) != 3:
        return {}
    change = {(3, 1): "gray", (1, 3): "rgb"}.get((ours[0], theirs[0]))
    size = theirs[1] if theirs[1] == theirs[2] and theirs[1:] != ours[1:] else None
    return {key: value for key, value in (("channels", change), ("size", size)) if value is not None}


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
