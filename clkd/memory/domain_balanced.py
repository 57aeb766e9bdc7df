"""The same number of rows of every domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from clkd.memory.balanced import Balanced

if TYPE_CHECKING:
    from clkd.experience import Experience


class DomainBalanced(Balanced):
    """Keeps `size` rows, split evenly over the domains so far, chosen at random at the end of each experience.

    What is kept of a domain is an even sample of its rows, from all the times that it came, and making room for new
    domains drops a random part of it. Unlabelled rows are not kept.
    """

    purpose: ClassVar[str] = "domain_balanced"

    def groups(self, experience: Experience) -> tuple[int, ...]:
        held = self._column("domain").tolist() if len(self) else []
        return tuple(sorted({*held, experience.train.domain}))

    def grouped(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows["domain"]
