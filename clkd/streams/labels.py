"""Taking labels away: rows without one have the class id -1, and teach by distillation only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clkd.errors import UserError
from clkd.experience import Rows
from clkd.seeding import generator
from clkd.streams.base import Stream

if TYPE_CHECKING:
    from clkd.data.store import Store


def hide(
    stream: Stream,
    store: Store,
    fraction: float | Sequence[float],
    seed: int,
    offset: int = 0,
    known: Collection[str] = (),
) -> Stream:
    """The stream with the labels of all but `fraction` of each experience's training rows gone.

    It is a fraction of each class, rounded, and at least one row; or one fraction for each experience, of which 0 means
    no label at all. Each row of the data set draws one number, whatever the split, and those with the smallest keep
    their label: so a larger fraction keeps those of a smaller one, and a domain stream the same rows in every domain.
    Validation and test rows keep theirs.

    Where the stream follows another one, `offset` is how many experiences that has (nothing is drawn as it was there),
    and `known` names the classes that came in it.

    Raises:
        UserError: there are not as many fractions as experiences, or a class would come without any label.
    """
    fractions = [fraction] * len(stream) if isinstance(fraction, int | float) else fraction
    if len(fractions) != len(stream):
        raise UserError(f"labelled: give one share for each of the {len(stream)} experiences, not {len(fractions)}")
    for each, share in zip(stream, fractions, strict=True):
        if not share and not {stream.class_names[c] for c in each.new_classes} <= {*known}:
            raise UserError(
                f"labelled: experience {offset + each.index} ({each.name}) brings new classes, of which some rows need "
                f"a label"
            )
    key = torch.rand(len(store.train), generator=generator(seed, "labelled", offset), dtype=torch.float64)
    hidden = [
        replace(each, train=_hidden(each.train, key, share) if share < 1 else each.train)
        for each, share in zip(stream, fractions, strict=True)
    ]
    return stream.changed(hidden, store)


def _hidden(rows: Rows, key: Tensor, fraction: float) -> Rows:
    y = rows.y.clone()
    for c in torch.unique(rows.y).tolist():
        own = (rows.y == c).nonzero().flatten()
        keep = max(1, round(fraction * len(own))) if fraction else 0
        y[own[key[rows.sample_id[own]].argsort()[keep:]]] = -1
    return replace(rows, y=y)
