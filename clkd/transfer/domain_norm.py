"""Batch norm with statistics for each domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from clkd.errors import UserError
from clkd.ranks import ALONE, Ranks
from clkd.transfer.base import Transfer

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student


class Choice:
    """What all norms of one student know of the rows that are passing. A copy of the student has a copy of it."""

    def __init__(self, by: Literal["nearest", "domain"]) -> None:
        self.by = by
        self.domain: Tensor | None = None
        """`[B]` the rows' domains, where they were told."""
        self.ranks = ALONE
        """Who have each a share of the batch."""
        self.place: Tensor | None = None
        """`[B]` which statistics the first norm of the pass has chosen."""

    def hear(self, domain: Tensor | None, ranks: Ranks = ALONE) -> None:
        """Of the next pass."""
        self.domain, self.ranks, self.place = domain, ranks, None

    def __deepcopy__(self, memo: dict[int, Any]) -> Choice:
        """Of no rows: those that passed may be gone, as `vmap`'s are."""
        return Choice(self.by)


class DomainNorm(nn.Module):
    """Batch norm that keeps a mean and a variance for each domain; scale and shift are everybody's.

    In training, rows are normalised with the batch's statistics of their own domain (those of all ranks' shares), or
    with its kept ones where the batch has a single number of it, which has no variance; in evaluation with kept ones:
    those of their domain (`by: domain`), or those under which the inputs of the first norm are likeliest, row by row:
    `mean log σ_d² + (x − μ_d)² / σ_d²` at its least. So are rows whose domain is not known.

    Args:
        norm: what it takes the place of; its statistics become those of the first domain.
        first: whether it is the one that chooses.
    """

    running_mean: Tensor
    running_var: Tensor
    known: Tensor

    def __init__(self, norm: BatchNorm, choice: Choice, first: bool) -> None:
        super().__init__()
        assert norm.running_mean is not None, "asked of layers that keep statistics"
        assert norm.running_var is not None, "the same"
        self.weight, self.bias = norm.weight, norm.bias
        self.momentum, self.eps = norm.momentum or 0.1, norm.eps
        self.choice, self.first = choice, first
        self.register_buffer("running_mean", norm.running_mean.clone()[None])
        self.register_buffer("running_var", norm.running_var.clone()[None])
        self.register_buffer("known", torch.full((1,), -1, device=norm.running_mean.device))
        """`[K]` int64, the domain of each row of the statistics; -1 for one that nobody has."""

    def add(self, domain: int) -> None:
        """Make room for a domain: it starts from the statistics of the one before."""
        if domain in self.known.tolist():
            return
        if self.known[-1] < 0:
            self.known[-1] = domain
            return
        self.known = torch.cat([self.known, self.known.new_tensor([domain])])
        self.running_mean = torch.cat([self.running_mean, self.running_mean[-1:]])
        self.running_var = torch.cat([self.running_var, self.running_var[-1:]])

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, …]`."""
        place = self._place(x)
        if self.training:
            mean, variance = self._learned(x.float(), place)
        else:
            mean, variance = self.running_mean[place], self.running_var[place]
        shape = (*mean.shape, *[1] * (x.dim() - 2))
        scale = (variance + self.eps).rsqrt() * self.weight
        return x * scale.view(shape).to(x.dtype) + (self.bias - mean * scale).view(shape).to(x.dtype)

    def _learned(self, x: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C]` each: the batch's statistics of every row's domain, which move the kept ones."""
        mine, ranks = F.one_hot(place, len(self.known)).to(x.dtype), self.choice.ranks
        rows = ranks.sum_of_layers(mine.sum(0))
        mean = ranks.sum_of_layers(mine.T @ _over_positions(x)) / rows.clamp(min=1)[:, None]
        centre = (mine @ mean).view(*x.shape[:2], *[1] * (x.dim() - 2))
        scatter = ranks.sum_of_layers(mine.T @ _over_positions((x - centre).square()))
        variance, numbers = scatter / rows.clamp(min=1)[:, None], rows * x[0, 0].numel()
        self._follow(mean.detach(), variance.detach(), numbers)
        several = numbers[:, None] > 1
        mean, variance = torch.where(several, mean, self.running_mean), torch.where(several, variance, self.running_var)
        return mine @ mean, mine @ variance

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, numbers: Tensor) -> None:
        """Kept variances are unbiased, as torch's. A domain without two numbers in the batch stays as it was."""
        moved = torch.where(numbers > 1, self.momentum, 0.0)[:, None]
        unbiased = variance * (numbers / (numbers - 1).clamp(min=1))[:, None]
        self.running_mean.copy_(torch.lerp(self.running_mean, mean, moved))
        self.running_var.copy_(torch.lerp(self.running_var, unbiased, moved))

    def _place(self, x: Tensor) -> Tensor:
        """`[B]` int64: which statistics each row has to do with."""
        choice = self.choice
        if not self.first and choice.place is not None and choice.place.shape[0] == x.shape[0]:
            return choice.place
        place = self._nearest(x.detach().float())
        domain = choice.domain if self.training or choice.by == "domain" else None
        if domain is not None and domain.shape[0] == x.shape[0]:
            own = domain[:, None] == self.known
            place = torch.where(own.any(1), own.long().argmax(1), place)
        choice.place = place
        return place

    def _nearest(self, x: Tensor) -> Tensor:
        variance = self.running_var + self.eps
        axes = tuple(range(2, x.dim()))
        misfit = []
        for mean, var in zip(self.running_mean, variance, strict=True):
            shape = (1, -1, *[1] * len(axes))
            far = ((x - mean.view(shape)).square() / var.view(shape)).flatten(1).mean(1)
            misfit.append(far + var.log().mean())
        return torch.stack(misfit, 1).argmin(1)

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Takes as many domains as were saved."""
        if (known := state.get(f"{prefix}known")) is not None and known.shape != self.known.shape:
            count = len(known)
            self.known = self.known.new_full((count,), -1)
            self.running_mean = self.running_mean[:1].repeat(count, 1)
            self.running_var = self.running_var[:1].repeat(count, 1)
        super()._load_from_state_dict(state, prefix, *rest)


class DSBN(Transfer):
    """Every domain has batch-norm statistics of its own, so that no experience takes another domain's away.

    Chang et al. 2019, "Domain-Specific Batch Normalization for Unsupervised Domain Adaptation", with scale and shift
    shared, so that a domain costs two numbers a channel. See `DomainNorm` for what happens at test time.
    """

    source_free: ClassVar[bool] = True

    def __init__(self, by: Literal["nearest", "domain"] = "nearest") -> None:
        super().__init__()
        self.by = by

    def prepare(self, student: Student) -> None:
        choice, found = Choice(self.by), False
        for module in list(student.backbone.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, BatchNorm) and child.running_mean is not None and child.affine:
                    setattr(module, name, DomainNorm(child, choice, first=not found))
                    found = True
        if not found:
            raise UserError(
                "transfer: dsbn is about batch norm, and the student's model has none: use another model, such as "
                "resnet8"
            )
        student.hear = choice.hear

    def begin(self, experience: Experience, student: Student) -> None:
        for norm in norms_of(student):
            norm.add(experience.train.domain)


def _over_positions(x: Tensor) -> Tensor:
    """`[B, C]`: the mean over all else."""
    return x if x.dim() == 2 else x.flatten(2).mean(2)


def norms_of(student: nn.Module) -> list[DomainNorm]:
    """Its norms with statistics of each domain."""
    return [each for each in student.modules() if isinstance(each, DomainNorm)]
