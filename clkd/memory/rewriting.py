"""What stored logits say of classes that came in another experience, said again by the present student."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def rewritten(
    kept: Tensor, said: Tensor, y: Tensor, arrived: Tensor, past: Tensor, coming: Tensor, gamma: float
) -> Tensor:
    """`[B, C]` logits by global class id, after an experience: what is stored beside rows from now on.

    Rows of the experience are said anew, and what they say of the past is held below their own class. Rows of earlier
    ones keep all they said until then, bit for bit; what comes to it of the experience's classes, and of those to come,
    is held below their own class, too. Rows without a label stay as they are.

    Args:
        kept: `[B, C]` what is stored.
        said: `[B, C]` the student's answers now.
        y: `[B]` labels.
        arrived: `[B]` bool, the rows of the experience that ended.
        past: `[C]` bool, the columns of classes that came before it and are none of its own.
        coming: `[C]` bool, the columns of classes that it brought, and of those to come.
        gamma: how far below.

    >>> kept, said = torch.tensor([[4.0, 1.0, 9.0]]), torch.tensor([[1.0, 1.0, 8.0]])
    >>> old, coming = torch.tensor([False]), torch.tensor([False, False, True])
    >>> rewritten(kept, said, torch.tensor([0]), old, ~coming, coming, gamma=0.5)
    tensor([[4., 1., 2.]])
    """
    own = torch.where(arrived[:, None], said, kept)
    part = torch.where(arrived[:, None], past, coming)
    lowered = held_below(said, part, own.gather(1, y.clamp(min=0)[:, None]), gamma)
    return torch.where(y[:, None] < 0, kept, torch.where(part, lowered, own))


def held_below(logits: Tensor, part: Tensor, own: Tensor, gamma: float) -> Tensor:
    """`[B, C]`: the logits times `min(γ · own / largest of the part, 1)`, whatever lies outside of the part.

    Where `own` `[B, 1]` is not positive, that would turn the order round, or raise them: there they are shifted such
    that the part's largest is `own` at most.

    >>> part, own = torch.tensor([[True, True, False]]), torch.tensor([[2.0]])
    >>> held_below(torch.tensor([[4.0, -2.0, 6.0]]), part, own, gamma=0.5)[part]
    tensor([ 1.0000, -0.5000])
    >>> held_below(torch.tensor([[4.0, -2.0, 6.0]]), part, -own, gamma=0.5)[part]
    tensor([-2., -8.])
    """
    largest = logits.masked_fill(~part, -torch.inf).amax(1, keepdim=True)
    scaled = logits * (gamma * own / largest).clamp(max=1)
    return torch.where((own > 0) & (largest > 0), scaled, logits - F.relu(largest - own))
