"""What every memory shares that is filled after an experience, when all its rows are there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clkd.memory.beside import Beside
from clkd.memory.table import EXTRA, PIECE
from clkd.memory.tabled import Tabled
from clkd.signals import Batch

if TYPE_CHECKING:
    from clkd.context import Context
    from clkd.experience import Experience, Rows
    from clkd.models.student import Student

KEY = "key"
"""The extra column with each row's key: those with the smallest stay."""
KEY_BYTES = 8
NOBODY = -1
"""The group of rows without a label, of which none is kept."""


class Balanced(Tabled):
    """Keeps `size` rows, split evenly over groups, chosen at the end of each experience.

    Every row gets a key once, when its experience ends, and a group keeps its rows with the smallest keys. So making
    room for new groups only drops rows. Override `groups` and `grouped`; keys are random unless `keys` is overridden,
    too. A row that comes again, in the domain and the group that it has, takes its own place: it is kept once.

    With `store`, each row comes back with what the student said about it when its experience ended, as
    `clkd.memory.beside` has it: in eval mode, about the row's first fixed view.
    """

    def __init__(
        self,
        size: int | str = 500,
        seed: int = 0,
        device: torch.device | str = "cpu",
        context: Context | None = None,
        each: int | None = None,
        store: Collection[str] = (),
        class_names: tuple[str, ...] = (),
        student: Student | None = None,
    ) -> None:
        self.beside = Beside(store, class_names, student)
        super().__init__(
            size, seed, device, context, KEY_BYTES + (self.beside.nbytes() if isinstance(size, str) else 0)
        )
        self.each = each

    @property
    def stores(self) -> tuple[str, ...]:
        return self.beside.store

    def groups(self, experience: Experience) -> tuple[int, ...]:
        """The groups that there are after an experience."""
        raise NotImplementedError

    def grouped(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Each row's group, from its `y`, `experience` and `domain`; rows of no known group are not kept."""
        raise NotImplementedError

    def keys(self, experience: Experience, student: Student) -> Tensor:
        """`[n]` float64 on the CPU, for each row of an experience."""
        return torch.rand(len(experience.train), generator=self.draws, dtype=torch.float64)

    def end(self, experience: Experience, student: Student) -> None:
        arriving, count = experience.train, len(self)
        key = self.keys(experience, student)
        y = arriving.y.cpu()
        coming = {"y": y, "experience": torch.full_like(y, arriving.experience)}
        coming["domain"] = torch.full_like(y, arriving.domain)
        own = torch.where(y < 0, NOBODY, self.grouped(coming))
        held = [self._staying(arriving, own)] if count else []
        old = [self._column(EXTRA + KEY)] if count else []
        stays = smallest(torch.cat([*held, own]), torch.cat([*old, key]), self.groups(experience), self.size, self.each)
        self.table.keep(stays[stays < count])
        for some in torch.split(stays[stays >= count] - count, PIECE):
            rows = arriving.gather(some.to(arriving.y.device), self.table.device)
            slots = torch.arange(len(self), len(self) + len(some))
            self.table.write(slots, rows, {KEY: key[some], **self._said(rows, student)})

    def _staying(self, arriving: Rows, own: Tensor) -> Tensor:
        """The groups of the rows that are kept; those that come again, in the groups `own`, make way."""
        held = self.grouped({name: self._column(name) for name in ("y", "experience", "domain")})
        ids, coming = self._column("sample_id"), arriving.sample_id.cpu()
        group = torch.full((int(torch.cat([ids, coming]).max()) + 1,), NOBODY)
        group[coming] = own
        again = (group[ids] == held) & (self._column("domain") == arriving.domain)
        return torch.where(again, NOBODY, held)

    def _said(self, rows: Batch, student: Student) -> dict[str, Tensor]:
        """What is kept beside rows of what the student says now."""
        return self.beside.asked(self.fixed(rows, torch.zeros_like(rows.y)), student) if self.stores else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Also what a memory held that knew fewer classes, or was smaller or larger."""
        super().load_state_dict({**state, "table": self.beside.fitting(state["table"])})

    def staying(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Each group's share of a larger memory's rows."""
        group = self.grouped({name: rows[name].cpu() for name in ("y", "experience", "domain")})
        return smallest(group, rows[EXTRA + KEY].cpu(), tuple(torch.unique(group).tolist()), self.size, self.each)

    def _column(self, name: str) -> Tensor:
        """What is kept, on the CPU."""
        return self.table.columns[name][: len(self)].cpu()


def smallest(group: Tensor, key: Tensor, groups: tuple[int, ...], size: int, each: int | None = None) -> Tensor:
    """Positions of the rows that stay: each group's share of `size`, those with the smallest keys. In row order.

    No group has more than `each`.

    >>> group, key = torch.tensor([0, 0, 0, 1]), torch.tensor([0.3, 0.1, 0.2, 0.9])
    >>> smallest(group, key, groups=(0, 1), size=3)
    tensor([1, 2, 3])
    """
    rows = {own: (group == own).nonzero().squeeze(1) for own in groups}
    share = shares({own: min(len(at), each or len(at)) for own, at in rows.items()}, size)
    return torch.cat([at[key[at].argsort(stable=True)[: share[own]]] for own, at in rows.items()]).sort().values


def shares(available: Mapping[int, int], size: int) -> dict[int, int]:
    """How many rows of each group fit into `size`: equal shares, and what a small group leaves goes to the others.

    >>> shares({0: 100, 1: 2, 2: 100}, 10)
    {1: 2, 0: 4, 2: 4}
    """
    share = {}
    for place, (each, rows) in enumerate(sorted(available.items(), key=lambda item: item[1])):
        share[each] = min(rows, size // (len(available) - place))
        size -= share[each]
    return share
