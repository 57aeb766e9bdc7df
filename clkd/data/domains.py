"""Several data sets as one, each a domain: the same classes, drawn or photographed elsewhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clkd.data.source import Found, Lazy, Places, Raw, Source, Split
from clkd.errors import UserError
from clkd.options import Part

if TYPE_CHECKING:
    from clkd.data.store import Store


@dataclass(kw_only=True)
class Domains(Source):
    """The rows of all data sets in `of`, whose domain is their place there. Classes are the same where their names are.

    Each is brought to the `size` and `channels` given here. Options are those of `clkd.data.DomainsOptions`.
    """

    of: tuple[Part, ...]

    def find(self, places: Places) -> Found:
        """Raises `UserError` where rows differ in shape."""
        stores = [places.prepare(self._converted(part)) for part in self.of]
        for part, store in zip(self.of, stores, strict=True):
            if store.shape != stores[0].shape:
                raise UserError(
                    f"domains: rows of {part.name} are {store.shape}, those of {self.of[0].name} {stores[0].shape}: "
                    "set size and channels for all"
                )
        stand_ins = [store.stand_in for store in stores if store.stand_in]
        names = tuple(dict.fromkeys(name for store in stores for name in store.class_names))
        return Found(
            (),
            lambda scratch: Raw(
                _joined([store.train for store in stores], stores, names),
                _joined([store.test for store in stores], stores, names),
                names,
                domain_names=_named(self.of),
            ),
            content=tuple(store.fingerprint for store in stores),
            stand_in=", ".join(dict.fromkeys(stand_ins)) or None,
        )

    def _converted(self, part: Part) -> Part:
        wanted = {key: value for key in ("size", "channels") if (value := getattr(self, key)) is not None}
        return replace(part, options=part.options.model_copy(update=wanted))


def _joined(splits: list[Split], stores: list[Store], names: tuple[str, ...]) -> Split:
    ids = [torch.tensor([*(names.index(name) for name in store.class_names), -1]) for store in stores]
    counts = torch.tensor([len(split) for split in splits])
    y = torch.cat([own[split.y] for own, split in zip(ids, splits, strict=True)])
    return Split(_rows([split.x for split in splits]), y, domain=torch.arange(len(splits)).repeat_interleave(counts))


def _rows(parts: list[Tensor]) -> Tensor | Lazy:
    """One after another; images are copied when they are asked for."""
    shape, ends = tuple(parts[0].shape[1:]), torch.tensor([len(part) for part in parts]).cumsum(0)
    if parts[0].dtype != torch.uint8:
        return torch.cat(parts)

    def make(at: Tensor) -> Tensor:
        out, owner = torch.empty(len(at), *shape, dtype=torch.uint8), torch.bucketize(at, ends, right=True)
        for i, part in enumerate(parts):
            own = owner == i
            out[own] = part[at[own] - (ends[i] - len(part))]
        return out

    return Lazy((int(ends[-1]), *shape), make)


def _named(parts: tuple[Part, ...]) -> tuple[str, ...]:
    """What each domain is called: its folder or file, or its data set; numbered where that says the same twice."""
    names = [Path(path).stem if (path := getattr(part.options, "path", None)) else part.name for part in parts]
    count, seen = Counter(names), Counter[str]()
    for i, name in enumerate(names):
        seen[name] += 1
        names[i] = f"{name} {seen[name]}" if count[name] > 1 else name
    return tuple(names)
