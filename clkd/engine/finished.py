"""The student of a finished run, for a run that learns from it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from clkd.engine.directory import MANIFEST
from clkd.engine.material import Facts
from clkd.engine.origin import open_fork, split
from clkd.engine.provenance import RESOLVED, check_scenario
from clkd.errors import UserError
from clkd.scenario.document import parse, read_text


def finished(wanted: str, cache: Path, base: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the student of `RUN` or `RUN@EXPERIENCE` is, as plain data, and its weights.

    Args:
        wanted: a run's directory, relative to `base`, or its id.

    Raises:
        UserError: there is no such run, it is not finished and no experience is named, or it was altered.
    """
    name, index = split(wanted, base)
    place = base / os.path.expanduser(name)
    here = str(place) if (place / MANIFEST).exists() else name
    origin = open_fork(here if index is None else f"{here}@{index}", cache, "run", "or its id")
    check_scenario(origin.directory, origin.manifest)
    stream: list[Facts] = origin.manifest["stream"]
    count = sum(len(facts["experiences"]) for facts in stream)
    if index is None and origin.experience + 1 < count:
        raise UserError(
            f"run {wanted}: only {origin.experience + 1} of {count} experiences are trained: finish it, or say which "
            f"one is to teach, as in run: {wanted}@{origin.experience}"
        )
    plain = parse(read_text(origin.directory.path / RESOLVED)).data
    about = {
        "run": origin.manifest["id"],
        "experience": origin.experience,
        "student": plain["student"],
        "transfer": plain["transfer"],
        "base": origin.manifest["base"],
        "task_labels": stream[0]["task_labels"],
        "channels_last": plain["train"]["channels_last"],
        "layout": origin.state["student"]["layout"],
        "class_names": class_names(stream),
        **{key: stream[0][key] for key in ("shape", "mean", "std")},
    }
    return about, origin.state["student"]["state"]


def class_names(stream: Sequence[Facts]) -> list[str]:
    """By class id: those of the first data set, and those that later ones brought (`clkd.streams.joined`)."""
    names = list(stream[0]["class_names"])
    for facts in stream[1:]:
        came = {c for each in facts["experiences"] for c in each["classes"]}
        names += [name for c, name in enumerate(facts["class_names"]) if c in came and name not in names]
    return names
