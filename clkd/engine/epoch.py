"""One epoch under way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clkd.engine.meter import Meter
from clkd.seeding import generator


@dataclass(slots=True)
class Epoch:
    """Where an epoch stands: everything that changes from step to step and belongs to no part.

    Attributes:
        order: `[n]` int64 positions of its rows, as they come.
        draws, noise: what replayed rows and views are drawn with.
        meter: the sums of its steps so far.
        lr: the learning rate that it began with.
        done: steps taken.
    """

    order: Tensor
    draws: torch.Generator
    noise: torch.Generator
    meter: Meter
    lr: float
    done: int = 0

    @classmethod
    def drawn(
        cls, rows: int, seed: int, place: tuple[int, int], meter: Meter, lr: float, ordered: bool = False
    ) -> Epoch:
        """The epoch at `place` (experience, epoch) at its start; rows are shuffled unless they come `ordered`."""
        order = torch.arange(rows) if ordered else torch.randperm(rows, generator=generator(seed, "order", *place))
        draws, noise = (generator(seed, purpose, *place) for purpose in ("replay", "augment"))
        return cls(order, draws, noise, meter, lr)

    def state_dict(self) -> dict[str, Any]:
        """All but the order, which the seed gives again, and the meter, which is each rank's own."""
        generators = {"draws": self.draws.get_state(), "noise": self.noise.get_state()}
        return {**generators, "lr": self.lr, "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draws.set_state(state["draws"])
        self.noise.set_state(state["noise"])
        self.lr, self.done = state["lr"], state["done"]
