"""The student: a backbone, a head that grows, and taps on the way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from clkd.frozen import freeze
from clkd.models.dry_run import dry_run
from clkd.models.heads import Grown, Head
from clkd.models.taps import Runner, Taps
from clkd.ranks import ALONE, Ranks
from clkd.signals import Needs, Signals, Spec
from clkd.view import View


class Student(nn.Module):
    """The model that is trained.

    Args:
        backbone: `[B, *shape]` to `[B, D]`, with `out_features` and `stages`.
        head: `[B, D]` to `[B, C]`.
        shape: of one row, `(C, H, W)` or `(D,)`.
        channels_last: lay images and convolutions out channels-last, which is faster and gives the same numbers up to
            rounding.
        view: what it sees of such a row; None for all of it, as it is. The backbone is for rows of that shape.

    Attributes:
        still: whether the backbone stands still: it stays in eval mode even while the head is trained.
        autocast: what the backbone computes in where that is not its weights' own type (`torch.bfloat16`). The head
            always computes in its weights' type, so that close logits stay apart.
        hear: told the domain of each row that it is about to see (None where nobody knows), and the processes that see
            the rest of the same rows, if layers ask for it.
        runner: how the backbone and its taps are run: as they are, or compiled.

    >>> from clkd.models.backbones.mlp import MLP
    >>> from clkd.models.heads import Linear
    >>> student = Student(MLP((4,), hidden=(8,)), Linear(8), (4,))
    >>> _ = student.grow((5, 2), experience=0, generator=torch.Generator())
    >>> said = student.signals(torch.zeros(3, 4), Needs(features=("penultimate",)))
    >>> tuple(said.logits.shape), said.class_ids.tolist(), tuple(said.features["penultimate"].shape)
    ((3, 2), [5, 2], (3, 8))
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: Head,
        shape: tuple[int, ...],
        channels_last: bool = True,
        view: View | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.shape = shape
        self.view = view
        self.channels_last = channels_last and len(shape) == 3
        self.taps = Taps()
        self.runner: Runner = Taps.run
        self.autocast: torch.dtype | None = None
        self.still = False
        self.hear: Callable[[Tensor | None, Ranks], None] | None = None
        self._feature_shapes: dict[str, tuple[int, ...]] = {}
        if self.channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs leave it out

    def signals(self, x: Tensor, needs: Needs, domain: Tensor | None = None, ranks: Ranks = ALONE) -> Signals:
        """What it says about `x` `[B, *shape]`, in one forward pass; every tap must have been requested before.

        `domain` `[B]` is where the rows come from, if that is known, and `ranks` have each a share of the batch. Only
        layers that are made for it look at either.
        """
        if self.hear is not None:
            self.hear(domain, ranks)
        with nullcontext() if self.autocast is None else torch.autocast(x.device.type, self.autocast):
            penultimate, features = self.runner(self.taps, self.backbone, self._laid_out(x), needs.features)
        logits = self.head(penultimate.to(self.head.weight.dtype)) if needs.logits else None
        return Signals(logits=logits, class_ids=self.class_ids_tensor, features=features)

    def train(self, mode: bool = True) -> Student:
        super().train(mode)
        if self.still:
            self.backbone.eval()
        return self

    def forward(self, x: Tensor, domain: Tensor | None = None) -> Tensor:
        """`[B, *shape]` to logits `[B, C]`; `domain` as in `signals`."""
        return self.plain(self._laid_out(x), domain)

    def plain(self, x: Tensor, domain: Tensor | None) -> Tensor:
        """Rows in its own view to logits, module by module: what `torch.func` can follow."""
        if self.hear is not None:
            self.hear(domain, ALONE)
        logits: Tensor = self.head(self.backbone(x))
        return logits

    def _laid_out(self, x: Tensor) -> Tensor:
        x = x if self.view is None else self.view(x)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    def request(self, names: Iterable[str]) -> None:
        """Bind taps, before the model is compiled or used.

        Raises:
            UserError: a name is neither an alias of the backbone nor the path of one of its modules.
        """
        self.taps.bind(self.backbone, names)

    def grow(self, classes: Sequence[int], experience: int, generator: torch.Generator) -> Grown:
        """Make room for the classes of an experience: (old, new) for each parameter that was replaced."""
        if self.head.settled(experience):
            self._stand_still()
        return self.head.grow(classes, experience, generator)

    def _stand_still(self) -> None:
        self.still = True
        self.backbone.requires_grad_(False)

    @property
    def class_ids(self) -> tuple[int, ...]:
        """The global class of each logit column."""
        return self.head.class_ids

    @property
    def class_ids_tensor(self) -> Tensor:
        """`[C]` int64: the same on the student's device."""
        return self.head.class_ids_tensor

    def columns_of(self, classes: Sequence[int]) -> Tensor:
        """`[C]` bool: which columns of the head belong to these classes."""
        wanted, device = set(classes), self.class_ids_tensor.device
        return torch.tensor([c in wanted for c in self.class_ids], dtype=torch.bool, device=device)

    @property
    def born(self) -> tuple[int, ...]:
        """The experience that brought each column; -1 where the class has not come yet."""
        return self.head.born

    @property
    def task_aware(self) -> bool:
        """Whether rows are told their experience."""
        return self.head.task_aware

    def tasks(self) -> Tensor | None:
        """`[C]` int64: the experience that brought each column, where only those of a row's own compete; None where all
        do, as they do in one task."""
        if not self.task_aware or len(set(self.born)) < 2:
            return None
        return torch.tensor(self.born, device=self.class_ids_tensor.device)

    def spec(self, feature: str | None = None) -> Spec:
        """Its columns, and the shape of one feature without the batch.

        Raises:
            UserError: the feature cannot be tapped.
        """
        shape = None if feature is None else self._feature_shape(feature)
        return Spec(self.class_ids, self.born, self.task_aware, feature, shape)

    def _feature_shape(self, feature: str) -> tuple[int, ...]:
        """Found by running one row through a copy, once."""
        if feature not in self._feature_shapes:
            with dry_run(self, self.shape) as (copied, row):
                copied.request((feature,))
                said = copied.signals(row, Needs(logits=False, features=(feature,)))
            self._feature_shapes[feature] = tuple(said.features[feature].shape[1:])
        return self._feature_shapes[feature]

    @contextmanager
    def teaching(self) -> Iterator[None]:
        """In eval mode, and saying what it is trained by, not what its head may have gathered; afterwards as before.

        For those who measure or keep what it says, to compare the student in training with.
        """
        training, taught = self.training, self.head.teaches
        self.eval()
        self.head.teach()
        try:
            yield
        finally:
            self.head.teaches = taught
            self.train(training)

    def layout(self) -> dict[str, Any]:
        """Which class each column stands for, and that the backbone stands still if it does, as plain data."""
        return self.head.layout() | ({"still": True} if self.still else {})

    def lay_out(self, layout: dict[str, Any]) -> None:
        """Take the columns that `layout` gave, so that `load_state_dict` fits, and train what was trained then."""
        self.head.lay_out(layout)
        if layout.get("still"):
            self._stand_still()

    def frozen_copy(self) -> Student:
        """A copy of its own, in eval mode, that asks for no gradients and shares nothing; taps stay bound."""
        copied = freeze(copy.deepcopy(self))
        copied.head.teach()
        return copied
