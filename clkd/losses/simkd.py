"""Distillation with the teacher's classifier reused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clkd.errors import UserError
from clkd.losses.classified import Classified
from clkd.signals import Batch, Signals, Spec

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student


class SimKD(Classified):
    """`mean (r(f) − g)²` alone; the student then answers with the teacher's classifier W behind its projector r.

    Chen et al. 2022, "Knowledge Distillation with the Reused Teacher Classifier", eq. 3, on pooled features. r is
    linear, so that W(r(f)) is one linear layer: at each experience's end it is written into the student's own head, for
    all classes that have come. The student stays what it is, with no layer more to run, save or export (the paper keeps
    a projector of three convolutions, which maps may pass that a linear one does not).

    Give it no `cross_entropy` beside it that should train the head: what that learns there is overwritten. It takes a
    teacher that knows every class of the stream and has a linear classifier to lend (`fit`, `checkpoint`), and a
    student whose head is `linear`, `fixed` or `multi`.

    >>> weight, bias = torch.tensor([[2.0]]), torch.tensor([1.0])
    >>> projector = nn.Linear(1, 1)
    >>> _ = projector.load_state_dict({"weight": torch.tensor([[3.0]]), "bias": torch.tensor([0.5])})
    >>> folded(weight, bias, projector)
    (tensor([[6.]]), tensor([2.]))
    """

    writes_head = True

    def __init__(self, align: Literal["auto", "linear"] = "auto", seed: int = 0) -> None:
        super().__init__(align, seed)
        self.known: tuple[int, ...] = ()

    def bind(self, a: Spec, b: Spec | None) -> None:
        super().bind(a, b)
        self.known = b.class_ids if b else ()

    def begin(self, experience: Experience, student: Student) -> None:
        """Refuse what could not be written into the student's head at the end.

        Raises:
            UserError: the teacher does not know a class, or one of the two classifiers is not linear.
        """
        missing = set(_come(student)) - set(self.known)
        if missing:
            raise UserError(
                f"simkd: the teacher does not know class {', '.join(map(str, sorted(missing)))}, so its classifier "
                f"cannot serve the student: use a teacher that was trained on all classes of the stream"
            )
        # A head that answers by something else later is as linear as any other while nothing was gathered.
        head = student.head
        plain = head.is_linear and not getattr(head, "align", False) and not getattr(head, "positive", False)
        for whose, serves in (("student", plain and is_linear(head)), ("teacher", is_linear(self.classifier()))):
            if not serves:
                kind = type(head if whose == "student" else self.classifier()).__name__
                raise UserError(
                    f"simkd: the {whose}'s classifier ({kind}) is not a linear layer with a bias that stays as it is: "
                    f"use the head linear (without align and positive), fixed or multi"
                )

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        """`[B]`."""
        f, g = self.aligned(a, b)
        return (f - g).square().mean(1)

    @torch.no_grad()
    def end(self, experience: Experience, student: Student) -> None:
        """Write the teacher's classifier, projector included, into the student's head."""
        weight, bias = folded(*_linear(self.classifier()), self.aligner.projector)
        come = _come(student)
        at_student = torch.tensor([student.class_ids.index(c) for c in come], device=weight.device)
        at_teacher = torch.tensor([self.known.index(c) for c in come], device=weight.device)
        ours, our_bias = _linear(student.head)
        ours[at_student] = weight[at_teacher].to(ours)
        our_bias[at_student] = bias[at_teacher].to(our_bias)


def folded(weight: Tensor, bias: Tensor, projector: nn.Module | None) -> tuple[Tensor, Tensor]:
    """A classifier `[C, D]`, `[C]` behind a linear projector from E to D as one layer: `[C, E]`, `[C]`."""
    if projector is None:
        return weight, bias
    ours, shift = _linear(projector)
    with torch.no_grad():
        return weight @ ours, bias + weight @ shift


def is_linear(classifier: nn.Module) -> bool:
    """Whether a layer is `x Wᵀ + b` with its own `weight` and `bias`; asked of the layer itself, by trying."""
    weight, bias = (getattr(classifier, name, None) for name in ("weight", "bias"))
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor):
        return False
    probe = torch.linspace(-1, 1, 3 * weight.shape[1], dtype=weight.dtype, device=weight.device).reshape(3, -1)
    with torch.no_grad():
        return torch.allclose(classifier(probe), F.linear(probe, weight, bias), rtol=1e-4, atol=1e-5)


def _linear(layer: nn.Module) -> tuple[Tensor, Tensor]:
    return layer.get_parameter("weight"), layer.get_parameter("bias")


def _come(student: Student) -> list[int]:
    """The classes that an experience has brought."""
    return [c for c, born in zip(student.class_ids, student.born, strict=True) if born >= 0]
