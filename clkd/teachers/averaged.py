"""Several networks that speak as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clkd.errors import UserError
from clkd.signals import Needs, Signals, Spec
from clkd.view import View

if TYPE_CHECKING:
    from clkd.models.student import Student


class Averaged(nn.Module):
    """The logarithm of the mean of the probabilities of several networks with the same classes. It has no features."""

    def __init__(self, networks: Sequence[Student]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)  # which registers what is in them
        self.members = tuple(networks)

    @property
    def class_ids(self) -> tuple[int, ...]:
        return self.members[0].class_ids

    @property
    def view(self) -> View | None:
        return self.members[0].view

    def signals(self, x: Tensor, needs: Needs) -> Signals:
        said = [network.signals(x, Needs()).logits for network in self.members]
        return Signals(self._mean([each for each in said if each is not None]), self.members[0].class_ids_tensor)

    def forward(self, x: Tensor) -> Tensor:
        return self._mean([network(x) for network in self.members])

    def _mean(self, logits: list[Tensor]) -> Tensor:
        log_p = torch.stack([each.float().log_softmax(-1) for each in logits])
        return log_p.logsumexp(0) - math.log(len(logits))

    def spec(self, feature: str | None = None) -> Spec:
        self.request(() if feature is None else (feature,))
        return self.members[0].spec()

    def request(self, names: tuple[str, ...]) -> None:
        for name in names:
            raise UserError(f"a mean of networks has no features, so '{name}' cannot be read of it: use speak: last")

    def layout(self) -> dict[str, Any]:
        return {}
