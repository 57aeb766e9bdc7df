"""How far one model's answer to a row is from another's."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.signals import confined

Variant = Literal["kl", "ce", "mse", "l2"]


def kd_rows(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor = 2.0,
    variant: Variant = "kl",
    t2: bool = True,
    known: Tensor | None = None,
    top_k: int | None = None,
) -> Tensor:
    """Distillation of each row.

    Args:
        student_logits, teacher_logits: `[B, K]`, columns already matched.
        temperature: T, a number or a scalar tensor.
        variant: `kl` is `Σ p_v (log p_v − log p_z)`; `ce` is `−Σ p_v log p_z`; `mse` is `mean (z − v)²`, which knows
            no temperature (and is, up to the factor 2 and the rows' means, the limit of T²·KL at high T); `l2` is
            `‖p_z − p_v‖`, Benjamin et al. 2019, "Measuring and regularizing networks in function space".
        t2: multiply all but `mse` by T².
        known: `[B, K]` bool, the columns that take part in each row; None for all. A row without any gets 0.
        top_k: compare the k columns of which the teacher is surest, and all others as one (`mse`: not at all).

    Returns:
        `[B]`.

    >>> kd_rows(torch.zeros(1, 3), torch.tensor([[2.0, 0.0, 9.0]]), known=torch.tensor([[True, True, False]]))
    tensor([0.4438])
    >>> z, v = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    >>> kd_rows(z, v, temperature=2.0), kd_rows(z, v, temperature=2.0, t2=False)
    (tensor([0.4438]), tensor([0.1109]))
    """
    if variant == "mse":
        return _mean((student_logits - teacher_logits).square(), _surest(teacher_logits, known, top_k))
    log_p = log_softmax(student_logits / temperature, known)
    log_q = log_softmax(teacher_logits / temperature, known)
    if top_k is not None and top_k < log_q.shape[1]:
        best = log_q.topk(top_k, dim=1).indices
        log_p, log_q = lumped(log_p, best), lumped(log_q, best)
        known = None if known is None else torch.cat([known.gather(1, best), known.any(1, keepdim=True)], 1)
    if variant == "l2":
        apart = log_p.exp() - log_q.exp()
        apart = apart if known is None else apart.masked_fill(~known, 0.0)
        distance: Tensor = torch.linalg.vector_norm(apart, dim=1)
        return distance * (temperature * temperature if t2 else 1.0)
    rows = log_q.exp() * (log_q - log_p if variant == "kl" else -log_p)
    rows = rows if known is None else rows.masked_fill(~known, 0.0)
    return rows.sum(1) * (temperature * temperature if t2 else 1.0)


def log_softmax(logits: Tensor, known: Tensor | None = None) -> Tensor:
    """Over the columns that are known.

    >>> log_softmax(torch.tensor([[1.0, 1.0, 9.0]]), torch.tensor([[True, True, False]]))[:, :2]
    tensor([[-0.6931, -0.6931]])
    """
    return F.log_softmax(confined(logits, known), dim=1)


def lumped(log_p: Tensor, best: Tensor) -> Tensor:
    """`[B, k + 1]`: of log-probabilities `[B, K]`, those of the columns `best` `[B, k]`, and of all others together.

    >>> lumped(torch.tensor([[0.5, 0.2, 0.3]]).log(), torch.tensor([[0]])).exp()
    tensor([[0.5000, 0.5000]])
    """
    rest = log_p.scatter(1, best, lowest(log_p)).logsumexp(1, keepdim=True)
    return torch.cat([log_p.gather(1, best), rest], 1)


def standardized(logits: Tensor, known: Tensor | None = None) -> Tensor:
    """Each row with mean 0 and standard deviation 1 over its columns (those that it knows).

    Sun et al. 2024, "Logit Standardization in Knowledge Distillation", alg. 1: `(z − mean) / (std + 1e-7)`, with the
    standard deviation over K − 1, as in the authors' code. Two columns always become ±0.7071.

    >>> standardized(torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]))
    tensor([[-1.,  0.,  1.],
            [-1.,  0.,  1.]])
    """
    if known is None:
        centred, count = logits - logits.mean(1, keepdim=True), float(logits.shape[1])
        return centred / (_root(centred.square().sum(1, keepdim=True) / max(count - 1, 1)) + 1e-7)
    counts = known.sum(1, keepdim=True)
    mean = logits.where(known, 0.0).sum(1, keepdim=True) / counts.clamp(min=1)
    centred = (logits - mean).where(known, 0.0)
    return centred / (_root(centred.square().sum(1, keepdim=True) / (counts - 1).clamp(min=1)) + 1e-7)


def lowest(like: Tensor) -> float:
    """What stands for -inf where a gradient must stay finite."""
    return torch.finfo(like.dtype).min


def _root(square: Tensor) -> Tensor:
    """The square root, with the gradient 0 at 0 (a row of equal logits)."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def _surest(teacher_logits: Tensor, known: Tensor | None, top_k: int | None) -> Tensor | None:
    """`[B, K]`: the columns that are known and among the teacher's k highest; None if these are all."""
    if top_k is None or top_k >= teacher_logits.shape[1]:
        return known
    shown = confined(teacher_logits, known)
    best = torch.zeros_like(shown, dtype=torch.bool).scatter(1, shown.topk(top_k, dim=1).indices, True)
    return best if known is None else best & known


def _mean(columns: Tensor, known: Tensor | None) -> Tensor:
    """`[B]`: over the columns that are known."""
    if known is None:
        return columns.mean(1)
    return columns.masked_fill(~known, 0.0).sum(1) / known.sum(1).clamp(min=1)
