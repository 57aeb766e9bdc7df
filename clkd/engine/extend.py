"""Data that comes after a run is finished, as the run's scenario will name it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clkd.cache import cache_directory
from clkd.engine.origin import Fork, open_fork
from clkd.errors import UserError, did_you_mean
from clkd.registry import Registry
from clkd.scenario.document import DocumentError, parse

PATHS = ("path", "root")
"""Options of data sets that name a place: relative to where the command is given."""


def extension(
    run: str,
    data: str,
    registry: Registry,
    by: str | None = None,
    experiences: int | None = None,
    classes: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """All extensions of `run`'s stream, with `data` as the last one: what `stream.extensions` is to be.

    Args:
        run: a finished run, as `--resume` names it.
        data: a folder of images, an npz file, or a data set's name, perhaps with options (`name:key=value,…`).
        by: `class`, `data`, `domain` or `given`; by default what the run's own stream is cut by, and `class` where that
            is none of these.
        experiences: how many the data is split into.
        classes: instead of a number, the classes of each: names with commas between.

    Raises:
        UserError: there is no such run, it is not finished, or there is no such data.
    """
    fork = open_fork(run, cache_directory(), "RUN")
    plain = parse((fork.directory.path / "resolved.yaml").read_text(encoding="utf-8")).data["stream"]
    _refuse_unfinished(run, fork)
    own = plain["split"]["by"]
    split = _split(by, own, experiences, classes)
    if split["by"] == "class" and by is None and plain["split"].get("labels") == "place":
        split["labels"] = "place"  # else its classes would be new ones beside the run's places
    new = {
        "dataset": shaped(dataset(data, registry), registry, fork),
        "split": split,
        "new_domain": by == "domain" or (by is None and own == "domain"),
    }
    return [*plain.get("extensions", []), new]


def _refuse_unfinished(run: str, fork: Fork) -> None:
    count = sum(len(facts["experiences"]) for facts in fork.manifest["stream"])
    if fork.experience + 1 < count:
        raise UserError(
            f"RUN {run}: only {fork.experience + 1} of {count} experiences are trained, and the new data comes after "
            f"all of them: finish it by clkd run --resume {run}"
        )


def _split(by: str | None, own: str, experiences: int | None, classes: Sequence[str]) -> dict[str, Any]:
    """How the new data is cut. New classes come as tasks where the run tells them apart at test time."""
    if by == "given" or (by is None and own == "given" and not classes):
        if experiences:
            raise UserError(
                f"--experiences {experiences}: the data's own `experience` column says it: leave this out, or name "
                "--by class or --by data"
            )
        return {"by": "given"}
    if by in ("data", "domain") or (by is None and own in ("data", "domain") and not classes):
        return {"by": "data", "experiences": experiences or 1}
    kind = "task" if own == "task" else "class"
    if classes:
        return {"by": kind, "classes": [[name.strip() for name in group.split(",")] for group in classes]}
    return {"by": kind, "experiences": experiences or 1}


def dataset(data: str, registry: Registry) -> dict[str, Any]:
    """A folder, a file or a name, as a scenario says it. A registered name goes before a folder of that name."""
    name, colon, rest = data.partition(":")
    names = registry.names("datasets")
    if name in names:
        return {"name": name, **(_options(rest, data) if colon else {})}
    path = Path(os.path.expanduser(data))  # unlike Path's own, it leaves a `~` that is no home as it is
    if path.is_dir():
        return {"name": "image_folder", "path": str(path.absolute())}
    if path.is_file():
        if path.suffix != ".npz":
            raise UserError(f"NEW_DATA {data}: give a folder of images, an .npz file, or a data set's name")
        return {"name": "arrays", "path": str(path.absolute())}
    raise UserError(
        f"NEW_DATA {data}: neither a folder, an .npz file nor a data set's name ({did_you_mean(name, names)})"
    )


def _options(text: str, data: str) -> dict[str, Any]:
    """`key=value,key=value`; values are YAML, and places start where the command is given."""
    found: dict[str, Any] = {}
    for each in text.split(","):
        key, equals, value = each.partition("=")
        if not equals or not key.strip():
            raise UserError(f"NEW_DATA {data}: write NAME:key=value,key=value")
        try:
            found[key.strip()] = parse(value).data
        except DocumentError as error:
            raise UserError(f"NEW_DATA {data}: {error.reason}") from error
    places = {key: str(Path(os.path.expanduser(str(found[key]))).absolute()) for key in PATHS if key in found}
    return {**found, **places}


def shaped(raw: dict[str, Any], registry: Registry, fork: Fork) -> dict[str, Any]:
    """With the size and channels of the images that the run was trained on, where nothing else is said."""
    shape = fork.manifest["stream"][0]["shape"]
    known = registry.get("datasets", raw["name"]).options.model_fields
    if len(shape) != 3:
        return raw
    wanted = {"channels": shape[0], **({"size": shape[1]} if shape[1] == shape[2] else {})}
    return {**{key: value for key, value in wanted.items() if key in known}, **raw}
