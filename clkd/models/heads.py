"""Heads: from penultimate features to one logit per class, and how they grow when classes arrive."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clkd.errors import UserError

if TYPE_CHECKING:
    from clkd.experience import Experience

Said = Callable[[Literal["new", "past", "kept"]], Iterator[tuple[Tensor, Tensor]]]
"""Penultimate features `[n, D]` and labels `[n]` of all labelled rows of one kind, so many at a time: the experience's
`new` training rows, rows in memory from `past` experiences, or all that is `kept` in memory. As they are, not
augmented, seen by the student in eval mode."""
Grown = list[tuple[nn.Parameter, nn.Parameter]]
"""(old, new) for each parameter that growth replaced, so that an optimizer can carry its state over."""


class Head(nn.Module):
    """One linear layer whose columns are classes. Growing keeps what was there, bit for bit.

    Attributes:
        class_ids: the global class of each column, in the order of arrival.
        born: the experience that brought each column; -1 for a class that has not come yet.
        task_aware: whether rows are told their experience, so that only its columns compete.
        teaches: whether what it says is compared with a student in training, and not evaluated.
        per_class: names of buffers with a row for each class: they grow with the columns, by rows of 0.
        weight: `[C, D]`, class by feature.
        bias: `[C]`, or None where a head has none.
        class_ids_tensor: `[C]` int64, `class_ids` on the head's device.
    """

    task_aware = False
    teaches = False
    per_class: tuple[str, ...] = ()
    weight: nn.Parameter
    bias: nn.Parameter | None
    class_ids_tensor: Tensor

    def __init__(self, in_features: int, bias: bool = True) -> None:
        super().__init__()
        self.born: tuple[int, ...] = ()
        self.class_ids: tuple[int, ...] = ()
        self.weight = nn.Parameter(torch.empty(0, in_features))
        self.register_parameter("bias", nn.Parameter(torch.empty(0)) if bias else None)
        self.register_buffer("class_ids_tensor", torch.empty(0, dtype=torch.int64), persistent=False)

    @property
    def needs_boundaries(self) -> bool:
        """Whether it has to be told where experiences begin and end, so that a stream without boundaries refuses it.

        A class that overrides `end` does, unless it says here that it does not: then `end` is called as
        ever, and means no more than that new classes may have come. A class attribute will do.
        """
        return False

    def forward(self, features: Tensor) -> Tensor:
        """`[B, D]` to `[B, C]`."""
        return F.linear(features, self.weight, self.bias)

    @property
    def is_linear(self) -> bool:
        """Whether it is a linear layer and nothing else."""
        return type(self).forward is Head.forward

    def grow(self, classes: Sequence[int], experience: int, generator: torch.Generator) -> Grown:
        """Add a column for each class that has none yet, initialised as `nn.Linear` does, from a CPU generator."""
        new = [c for c in dict.fromkeys(classes) if c not in self.class_ids]
        if not new:
            return []
        rows, bias = self._drawn(len(new), generator)
        self._name((*self.class_ids, *new), (*self.born, *[experience] * len(new)))
        old = self.weight
        self.weight = _extended(old, rows)
        grown = [(old, self.weight)]
        if self.bias is not None:
            old_bias, self.bias = self.bias, _extended(self.bias, bias)
            grown.append((old_bias, self.bias))
        for name in self.per_class:
            rows = self.get_buffer(name)
            setattr(self, name, torch.cat([rows, rows.new_zeros(len(new), *rows.shape[1:])]))
        return grown

    def _drawn(self, columns: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Weight and bias of new columns."""
        return _fresh(columns, self.weight.shape[-1], generator)

    def begin(self, experience: Experience, said: Said) -> None:
        """Before an experience, once it has grown: the student is as the last one left it."""

    def after_step(self) -> None:
        """After each optimiser step."""

    def end(self, experience: Experience, said: Said) -> None:
        """After all training of an experience, before teachers look at the student."""

    def teach(self) -> None:
        """Told to the head of a frozen copy: what it says is what a student in training is compared with."""
        self.teaches = True

    def follow(self, before: Head) -> None:
        """Told to the grown head of a moving average, once it has the values of `before`: the average as it was."""

    def settled(self, experience: int) -> bool:
        """Whether it counts on a backbone that stands still in this experience."""
        return False

    def forget(self) -> None:
        """Its weights were made anew: what it gathered by the old ones counts no more."""

    def corrections(self) -> list[nn.Parameter]:
        """Parameters that ordinary training leaves alone, since they have a phase of their own (`trains: bias`)."""
        return []

    def layout(self) -> dict[str, Any]:
        """Which class each column stands for, as plain data: a checkpoint's half that is not tensors."""
        return {"class_ids": list(self.class_ids), "born": list(self.born)}

    def lay_out(self, layout: dict[str, Any]) -> None:
        """Take the columns that `layout` gave, all zero, so that `load_state_dict` then fits."""
        self._name(tuple(layout["class_ids"]), tuple(layout["born"]))
        columns = len(self.class_ids)
        self.weight = _resized(self.weight, columns)
        if self.bias is not None:
            self.bias = _resized(self.bias, columns)
        for name in self.per_class:
            rows = self.get_buffer(name)
            setattr(self, name, rows.new_zeros(columns, *rows.shape[1:]))

    def _name(self, class_ids: tuple[int, ...], born: tuple[int, ...]) -> None:
        self.class_ids, self.born = class_ids, born
        self.class_ids_tensor = torch.tensor(class_ids, dtype=torch.int64, device=self.weight.device)


class Linear(Head):
    """Grows by the classes that each experience brings; all of them compete.

    >>> head = Linear(in_features=4)
    >>> grown = head.grow((3, 7), 0, torch.Generator()) + head.grow((7, 1), 1, torch.Generator())
    >>> head.class_ids, head.born
    ((3, 7, 1), (0, 0, 1))

    With `align`, at each experience's end from the second on, the weights of its new classes are scaled such that
    their norms are on average those of the old classes: `w ← w · mean ‖w_old‖ / mean ‖w_new‖`. Biases stay. Zhao et al.
    2020, "Maintaining Discrimination and Fairness in Class Incremental Learning" (WA), eq. 6-7. With `positive`, they
    are set to 0 after each step where they fell below, so that longer ones mean larger logits, as in the paper.
    """

    def __init__(self, in_features: int, align: bool = False, positive: bool = False) -> None:
        super().__init__(in_features)
        self.align, self.positive = align, positive

    @property
    def needs_boundaries(self) -> bool:
        return self.align

    @torch.no_grad()
    def after_step(self) -> None:
        if self.positive:
            self.weight.clamp_(min=0)

    @torch.no_grad()
    def end(self, experience: Experience, said: Said) -> None:
        new = torch.tensor([born == experience.index for born in self.born], device=self.weight.device)
        if self.align and new.any() and not new.all():
            norms = self.weight.norm(dim=1)
            scale = norms[~new].mean() / norms[new].mean().clamp(min=torch.finfo(norms.dtype).tiny)
            self.weight[new] *= scale


class Multi(Head):
    """A head for every experience: columns as in `Linear`, but rows are told their experience.

    Raises:
        UserError: on growth, a class comes again; it would belong to two heads.
    """

    task_aware = True
    needs_boundaries = True

    def __init__(self, in_features: int) -> None:
        super().__init__(in_features)

    def grow(self, classes: Sequence[int], experience: int, generator: torch.Generator) -> Grown:
        born = dict(zip(self.class_ids, self.born, strict=True))
        again = [c for c in classes if born.get(c, experience) < experience]
        if again:
            raise UserError(
                f"the head 'multi' has one head per experience, but experience {experience} brings class "
                f"{', '.join(map(str, again))} again: use the head 'linear', or split the stream by disjoint classes"
            )
        return super().grow(classes, experience, generator)


class Fixed(Head):
    """All classes have their column from the start, initialised from torch's global generator; nothing ever grows.

    `born` tells which classes have come: -1 until then.

    Args:
        in_features: D.
        class_names: of the data set; there are as many columns unless `classes` says otherwise.
        classes: how many columns, for the global classes 0 … classes - 1.

    Raises:
        UserError: on growth, a class comes that has no column.
    """

    def __init__(
        self,
        in_features: int,
        class_names: tuple[str, ...],
        classes: int | None = None,
        init: Literal["torch", "xavier"] = "torch",
    ) -> None:
        super().__init__(in_features)
        count = len(class_names) if classes is None else classes
        super().grow(range(count), -1, torch.default_generator)
        if init == "xavier" and self.bias is not None:
            nn.init.xavier_uniform_(self.weight)
            nn.init.zeros_(self.bias)

    def grow(self, classes: Sequence[int], experience: int, generator: torch.Generator) -> Grown:
        """Only notes the experience in which each class came first."""
        missing = [c for c in classes if c not in self.class_ids]
        if missing:
            raise UserError(
                f"the head 'fixed' has {len(self.class_ids)} classes from 0, but class {max(missing)} came: "
                f"set 'classes' to at least {max(missing) + 1}"
            )
        came = set(classes)
        pairs = zip(self.class_ids, self.born, strict=True)
        self.born = tuple(experience if born < 0 and c in came else born for c, born in pairs)
        return []


class Cosine(Head):
    """Logits are `scale · cos(feature, weight)`, so that old and new classes have the same magnitude; no bias.

    Hou et al. 2019, "Learning a Unified Classifier Incrementally via Rebalancing" (LUCIR), §3.2, eq. 4. The scale (η
    there) is learned; it bounds every logit.

    >>> head = Cosine(in_features=2, scale=10.0)
    >>> _ = head.grow((0,), 0, torch.Generator())
    >>> head.weight.data = torch.tensor([[0.0, 5.0]])
    >>> round(head(torch.tensor([[3.0, 4.0]])).item(), 4)
    8.0
    """

    def __init__(self, in_features: int, scale: float = 1.0) -> None:
        super().__init__(in_features, bias=False)
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))


def _fresh(columns: int, in_features: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weight and bias of `nn.Linear(in_features, columns)`, drawn in its order from `generator`."""
    weight = nn.init.kaiming_uniform_(torch.empty(columns, in_features), a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(in_features)
    return weight, nn.init.uniform_(torch.empty(columns), -bound, bound, generator=generator)


def _extended(old: nn.Parameter, rows: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.cat([old.detach(), rows.to(old)]), requires_grad=old.requires_grad)


def _resized(old: nn.Parameter, columns: int) -> nn.Parameter:
    return nn.Parameter(old.new_zeros(columns, *old.shape[1:]), requires_grad=old.requires_grad)
