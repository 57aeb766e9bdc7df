"""Which rows of a batch are the source domain's, and which the target's: decided here for all strategies."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from clkd.signals import Batch, Needs, Signals, confined
from clkd.transfer.base import Transfer

Target = Literal["new", "unlabelled", "domain"]
LOGITS = "logits"
"""Among layers: what the head says, not a tap."""


def apart(batch: Batch, a: Signals, target: Target) -> tuple[Signals, Signals]:
    """What was said about the source's rows, and about the target's.

    By `new`, new rows are the target and replayed ones the source. By `unlabelled`, rows without a label are the
    target. By `domain`, rows of the new rows' domain are, wherever they come from; without new rows, none. The last two
    look at numbers of the batch, for which a GPU has to be waited for.

    >>> i = torch.arange(3)
    >>> batch = Batch(x=i, y=torch.tensor([4, -1, 4]), sample_id=i, domain=torch.tensor([1, 1, 0]), experience=i, new=2)
    >>> said = Signals(i, i)
    >>> {how: [side.logits.tolist() for side in apart(batch, said, how)] for how in ("new", "unlabelled", "domain")}
    {'new': [[2], [0, 1]], 'unlabelled': [[0, 2], [1]], 'domain': [[2], [0, 1]]}
    """
    source, own = (a.rows(at.start, at.stop) if isinstance(at, slice) else a.pick(at) for at in places(batch, target))
    return source, own


def places(batch: Batch, target: Target) -> tuple[slice | Tensor, slice | Tensor]:
    """Where in the batch the source's rows are, and the target's: what `apart` goes by."""
    if target == "new":
        return slice(batch.new, len(batch)), slice(0, batch.new)
    ours = batch.y < 0 if target == "unlabelled" else (batch.domain == batch.domain[:1]) & (batch.new > 0)
    return (~ours).nonzero().squeeze(1), ours.nonzero().squeeze(1)


def read(said: Signals, layer: str, others: float | None = 0.0) -> Tensor:
    """`[n, D]` in full precision: the layer's vectors, maps averaged over positions; or logits.

    Those of columns that do not compete for a row are `others`; None for what a softmax gives nothing.
    """
    if layer == LOGITS:
        assert said.logits is not None, "`reads` asks for logits"
        return confined(full_precision(said.logits), said.competes, others)
    features = full_precision(said.features[layer])
    return features if features.dim() == 2 else features.flatten(2).mean(2)


def needs_of(layers: tuple[str, ...]) -> Needs:
    """What has to be asked of the student for `layers`."""
    return Needs(LOGITS in layers, tuple(name for name in layers if name != LOGITS))


def full_precision(x: Tensor) -> Tensor:
    """Strategies compute in float32, whatever the student ran in; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


class Between(Transfer):
    """A strategy that compares the source's rows with the target's, if there are `least` of each."""

    least = 1
    others: ClassVar[float | None] = 0.0
    """What it reads for logits of columns that do not compete, as in `read`."""

    def __init__(self, layers: tuple[str, ...], target: Target = "new") -> None:
        super().__init__()
        self.layers, self.target = layers, target

    def reads(self) -> Needs:
        return needs_of(self.layers)

    def forward(self, batch: Batch, a: Signals) -> Tensor | None:
        source, target = apart(batch, a, self.target)
        sides = [[read(said, layer, self.others) for layer in self.layers] for said in (source, target)]
        if min(len(side[0]) for side in sides) < self.least:
            return None
        return self.compare(sides[0], sides[1])

    def compare(self, source: list[Tensor], target: list[Tensor]) -> Tensor:
        """The value, a scalar, of `[n, D]` and `[m, D]` for each layer."""
        raise NotImplementedError
