"""The base of losses that work with the teacher's own classifier."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from clkd.errors import UserError
from clkd.losses.aligner import Aligner
from clkd.losses.base import Loss, full_precision
from clkd.losses.taps import TAP, taps_of, width_of
from clkd.signals import Needs, Signals, Spec


class Classified(Loss):
    """Brings the student's features to the width of the teacher's penultimate ones, which its classifier reads."""

    needs: ClassVar[Needs] = Needs(logits=False, features=(TAP,))
    wants_classifier: ClassVar[bool] = True

    def __init__(self, align: Literal["auto", "linear", "mlp"] = "auto", seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.aligner = Aligner(align)
        self._borrowed: tuple[nn.Module, ...] = ()  # a tuple, for a submodule would be saved and moved

    @property
    def called(self) -> str:
        """What errors call it."""
        return type(self).__name__.lower()

    def bind(self, a: Spec, b: Spec | None) -> None:
        """Look up both widths, and make the projector or keep the one there is.

        Raises:
            UserError: a layer is named that is not what a classifier reads.
        """
        assert b is not None, f"{self.called} has two sides"
        taps = taps_of(a, b)
        if taps != (TAP, TAP):
            raise UserError(f"{self.called}: a classifier reads penultimate features: name no layer in between")
        shapes = (width_of(self.called, a, TAP),), (width_of(self.called, b, TAP),)
        self.aligner.bind(self.called, taps, shapes, self.seed)

    def borrow(self, classifier: nn.Module) -> None:
        self._borrowed = (classifier,)

    def classifier(self) -> nn.Module:
        """The teacher's."""
        assert self._borrowed, "whoever binds this loss also lends it the teacher's classifier"
        return self._borrowed[0]

    def aligned(self, a: Signals, b: Signals | None) -> tuple[Tensor, Tensor]:
        """`[B, D]` each, as wide as the teacher's."""
        assert b is not None, f"{self.called} has two sides"
        f, g = full_precision(a.features[TAP]), full_precision(b.features[TAP]).detach()
        aligned: tuple[Tensor, Tensor] = self.aligner(f, g)
        return aligned
