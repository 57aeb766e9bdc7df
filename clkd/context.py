"""What a part may know of the run that builds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clkd.experience import Rows


@dataclass(frozen=True, slots=True)
class Context:
    """Handed to every factory that has a parameter named `context`.

    Attributes:
        seed, device: of the run.
        cache: the cache directory; it exists and is writable.
        base: the directory that relative paths of the scenario start from (the scenario file's own).
        shape: one row of the stream, `(C, H, W)` or `(D,)`.
        class_names: one name per global class id.
        mean, std: `[C]` the statistics that the student's rows are normalised with, on the [0, 1] scale.
        train: all training rows of the stream, for a teacher that is fitted on them.
        rows: how many training rows all experiences have together; one that comes in several counts in each.
        data_fingerprint: a hash of everything that determines those rows and how they are augmented.
        build: builds another part by what the scenario says of it: `context.build(part, **offers)`.
        network: an untrained network of clkd's own: `context.network(model_part, class_ids, seed, view=None)` is a
            backbone with a fixed head over those classes, and speaks `Signals` (a `clkd.models.student.Student`);
            `view` (`clkd.options.ViewOptions`) is what it sees of a row.
        fit: trains such a network on `train` in place: `context.fit(network, options, teacher=None)`, where `options`
            has `epochs`, `batch_size`, `optimizer`, `scheduler` and `seed`; with cross-entropy and, where a `teacher`
            is given, `options.weight` times `kd` at `options.temperature`. With `options.domains`, on their rows alone.
        labelled: the rows of `train` that have a label, which such a network is fitted on: `context.labelled(domains)`
            are those of some of the data's own domains. Raises `UserError` for a domain that it does not have.
        finished: `context.finished("RUN@EXPERIENCE")` is what a finished run's student is, as plain data, and its
            weights: see `clkd.engine.finished`.
        fetched: `context.fetched("models:/NAME@ALIAS", folder)` brings a model out of the MLflow store that tracking
            would choose into a folder: the one with its `MLmodel`.
        rebuilt: `context.rebuilt(about, class_ids)` is such a student without its weights, its columns named anew.
        extended: how many classes, the last ones, came by an extension of the stream: what was there before knows
            nothing of them.
        kept: folders with copies of what teachers weigh: the run's own, and that of the run it goes on from.
        untrained: whether a stand-in will do for a teacher that takes long to fit: its classes and shapes are all that
            will be looked at.
    """

    seed: int
    device: torch.device
    cache: Path
    base: Path
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    mean: Tensor
    std: Tensor
    train: Rows
    rows: int
    data_fingerprint: str
    build: Callable[..., Any]
    network: Callable[..., Any]
    fit: Callable[..., None]
    labelled: Callable[..., Rows]
    finished: Callable[[str], tuple[dict[str, Any], dict[str, Tensor]]]
    fetched: Callable[[str, Path], Path]
    rebuilt: Callable[[dict[str, Any], tuple[int, ...]], Any]
    extended: int = 0
    kept: tuple[Path, ...] = ()
    untrained: bool = False
