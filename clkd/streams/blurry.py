"""Boundaries that are not sharp: rows that come in other experiences than their class's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from clkd.streams.base import Chunk, labels_in, positions


def blurred(
    chunks: Sequence[Chunk], y: Tensor, blur: float, disjoint: float, fuzzy: float, draw: torch.Generator
) -> list[Chunk]:
    """The chunks with their training rows moved: first spread by `blur`, then mixed along the boundaries by `fuzzy`.

    `blur` is in percent of each class's rows, `disjoint` in percent of the classes (those that are not spread), `fuzzy`
    in percent of an experience's length. Together with `disjoint` this is the stream of Koh et al. 2022, "Online
    Continual Learning on Class Incremental Blurry Task Configuration with Anytime Inference" (i-Blurry-N-M); with
    random sizes, too, nearly that of Moon et al. 2023, "Online Class Incremental Learning on Stochastic Blurry Task
    Boundary via Mask and Visual Prompt Tuning" (Si-Blurry), whose code deals the spread rows to all experiences, their
    own among them.
    """
    rows = torch.cat([chunk.train for chunk in chunks])
    home = torch.cat([torch.full_like(chunk.train, i) for i, chunk in enumerate(chunks)])
    if blur:
        classes = labels_in(y[rows])
        apart = torch.randperm(len(classes), generator=draw)[round(disjoint * len(classes) / 100) :]
        home = spread(y[rows], home, len(chunks), blur, [classes[i] for i in sorted(apart.tolist())], draw)
    order = torch.arange(len(rows))
    if fuzzy:
        time = mixed(home, len(chunks), fuzzy / 100, draw)
        order = time.argsort()
        home = time.long().clamp(max=len(chunks) - 1)
    else:
        order = rows.argsort()
    return [_moved(chunk, rows[order[home[order] == i]], y, bool(fuzzy)) for i, chunk in enumerate(chunks)]


def _moved(chunk: Chunk, rows: Tensor, y: Tensor, ordered: bool) -> Chunk:
    """The classes dealt to an experience come first, then those that only some rows come of."""
    own = chunk.classes or ()
    guests = [c for c in labels_in(y[rows]) if c not in own]
    name = f"{chunk.name} + rows of {len(guests)} others" if guests else chunk.name
    return replace(chunk, name=name, train=rows, classes=(*own, *guests), ordered=ordered)


def spread(
    y: Tensor, home: Tensor, experiences: int, percent: float, classes: Sequence[int], draw: torch.Generator
) -> Tensor:
    """`[n]` the experience of each row, where `percent` of each of `classes`, rounded down, leave their own.

    They go to the others, as many to each; which ones get one more where that does not come out even is random. Bang et
    al. 2021, "Rainbow Memory: Continual Learning with a Memory of Diverse Samples" (blurry-M).

    Args:
        y, home: `[n]` each row's class, and the experience it would be in.
    """
    moved = home.clone()
    for c in classes:
        own = positions(y == c)
        own = own[torch.randperm(len(own), generator=draw)][: int(percent * len(own) / 100)]
        turn = int(torch.randint(experiences - 1, (), generator=draw))
        step = 1 + (turn + torch.arange(len(own))) % (experiences - 1)
        moved[own] = (home[own] + step) % experiences
    return moved


def mixed(home: Tensor, experiences: int, width: float, draw: torch.Generator) -> Tensor:
    """`[n]` float64, when each row arrives; experience i lasts from i to i + 1.

    Within `width` around each boundary, the share of the later experience's rows grows linearly from 0 to 1. (Each has
    a density that falls or grows linearly there, and their sum stays what it was.) The gradual change of tasks in Zeno
    et al. 2018, "Task Agnostic Continual Learning Using Online Variational Bayes", with each row exactly once.

    >>> home = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    >>> time = mixed(home, 2, 0.5, torch.Generator().manual_seed(0))
    >>> bool((time[:4].sort().values[:3] < 0.75).all()), bool((time[4:] > 0.75).all())
    (True, True)
    """
    time = torch.empty(len(home), dtype=torch.float64)
    half = width / 2
    for i in range(experiences):
        rows = positions(home == i)
        rows = rows[torch.randperm(len(rows), generator=draw)]
        even = (torch.arange(len(rows)) + torch.rand(len(rows), generator=draw, dtype=torch.float64)) / max(
            len(rows), 1
        )
        if i > 0:
            even = torch.where(even < half, width * (even / half).sqrt() - half, even)
        if i < experiences - 1:
            left = ((1 - even) / half).clamp(max=1)
            even = torch.where(even > 1 - half, 1 + half - width * left.sqrt(), even)
        time[rows] = i + even
    return time
