"""The base of losses that hold the student's parameters near where they were, each as much as it mattered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from clkd.losses.base import Loss
from clkd.signals import Batch, Needs, Signals

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student

Vectors = dict[str, Tensor]
"""One tensor for each parameter that is trained, by its name and in its shape."""
NO_SIGNALS = "it reads the student's parameters, and neither rows nor signals"


class Regulariser(Loss):
    """`scale · Σ Ω (θ − θ*)²`, a scalar: Ω how much each parameter mattered so far, θ* where it is held.

    It is exactly 0, without a gradient, until something was consolidated. Override `review` or `end` to measure an
    experience, and call `consolidate`. What is in `kept`, one tensor for each parameter, is saved, moved, and carried
    when the head grows: rows follow their class, and those of a new class are 0.

    >>> from clkd.testing.material import batch, experiences, student
    >>> loss, trained, first = Regulariser(), student(), next(experiences())
    >>> loss.begin(first, trained)
    >>> loss.consolidate({name: torch.full_like(p, 2.0) for name, p in loss.parameters_now.items()})
    >>> said = Signals(None, trained.class_ids_tensor)
    >>> loss(batch(), said).item()
    0.0
    >>> _ = trained.head.bias.data.add_(0.5)
    >>> loss(batch(), said).item()  # two classes, each 2 · 0.5²
    1.0
    """

    needs: ClassVar[Needs] = Needs(logits=False)
    sides: ClassVar[int] = 1
    regularises: ClassVar[bool] = True
    scale: ClassVar[float] = 1.0
    contract_optouts: ClassVar[dict[str, str]] = {
        "one_direction": NO_SIGNALS,
        "gradient": NO_SIGNALS,
        "two_classes": NO_SIGNALS,
    }

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Vectors] = {}
        self.class_ids: tuple[int, ...] = ()
        """The classes of the head's rows in what is kept."""
        self.parameters_now: dict[str, nn.Parameter] = {}
        """What is trained in this experience, by name."""

    def begin(self, experience: Experience, student: Student) -> None:
        self.parameters_now = trained(student)
        self._fit(student.class_ids)

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        if "importance" not in self.kept:
            return torch.zeros((), device=batch.x.device)
        importance, anchor = self.kept["importance"], self.kept["anchor"]
        terms = [(importance[name] * (p - anchor[name]).square()).sum() for name, p in self.parameters_now.items()]
        return self.scale * torch.stack(terms).sum()

    @torch.no_grad()
    def consolidate(self, importance: Vectors, gamma: float = 1.0) -> None:
        """Ω ← γ · Ω + `importance`, and θ* where the parameters are now."""
        before = self.kept.get("importance")
        if before is not None:
            importance = {name: gamma * before[name] + new for name, new in importance.items()}
        self.kept["importance"] = importance
        self.kept["anchor"] = copied(self.parameters_now)

    def formula(self, sides: str) -> str:
        return f"{'½' if self.scale == 0.5 else ''}Σ Ω·(θ − θ*)²"

    def get_extra_state(self) -> dict[str, Any]:
        """No buffers: what is kept has the shapes of the student's parameters, which no `Spec` tells."""
        return {"class_ids": list(self.class_ids), "kept": self.kept}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.class_ids = tuple(state["class_ids"])
        self.kept = {what: copied(vectors) for what, vectors in state["kept"].items()}
        if self.parameters_now:  # an experience is under way
            self._fit(self.class_ids)

    def _fit(self, class_ids: tuple[int, ...]) -> None:
        """Bring all that is kept into the shapes, the memory order and onto the device of the parameters."""
        self.kept = {
            what: by_class(vectors, self.class_ids, self.parameters_now, class_ids)
            for what, vectors in self.kept.items()
        }
        self.class_ids = class_ids


def trained(student: Student) -> dict[str, nn.Parameter]:
    """The student's parameters that ask for a gradient, by name."""
    return {name: parameter for name, parameter in student.named_parameters() if parameter.requires_grad}


def copied(vectors: Mapping[str, Tensor]) -> Vectors:
    """Copies of their own, without a gradient."""
    return {name: tensor.detach().clone() for name, tensor in vectors.items()}


def zeros(like: Mapping[str, Tensor]) -> Vectors:
    """A 0 for each number."""
    return {name: torch.zeros_like(tensor, requires_grad=False) for name, tensor in like.items()}


def by_class(
    vectors: Vectors, class_ids: tuple[int, ...], parameters: Mapping[str, Tensor], now: tuple[int, ...]
) -> Vectors:
    """Each in its parameter's present shape: the head's rows of `class_ids` where those are among the classes `now`.

    >>> grown = by_class({"head.bias": torch.tensor([7.0, 8.0])}, (4, 2), {"head.bias": torch.zeros(3)}, (2, 4, 9))
    >>> grown["head.bias"]
    tensor([8., 7., 0.])
    """
    place = {c: row for row, c in enumerate(now)}
    rows = [place[c] for c in class_ids]
    fitted = zeros(parameters)
    for name, new in fitted.items():
        old = vectors.get(name)
        if old is None:
            continue
        if name.startswith("head.") and new.dim() and (len(old), len(new)) == (len(class_ids), len(now)):
            new[rows] = old.to(new)
        else:
            new.copy_(old)
    return fitted
