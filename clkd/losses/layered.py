"""The base of losses that compare layers of two models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from clkd.errors import UserError
from clkd.losses.aligner import Shape, Taps
from clkd.losses.base import Loss, full_precision
from clkd.signals import Batch, Needs, Signals, Spec


class Layered(Loss):
    """The weighted sum over pairs of layers; a subclass says in `compare` how one pair is compared.

    The layers are those that `between` names (`[student.stage3, external.stage3]`), or the lists `layers` and `against`
    (by default the layers of the same names). Override `bind_pair` to make what shapes decide.
    """

    needs: ClassVar[Needs] = Needs(logits=False)

    def __init__(
        self,
        layers: Sequence[str] | None = None,
        against: Sequence[str] | None = None,
        layer_weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.layers, self.against = tuple(layers or ()), tuple(against or layers or ())
        self.count = max(len(self.layers), 1)
        self.layer_weights = tuple(layer_weights or (1.0,) * self.count)
        self.seed = seed

    @property
    def called(self) -> str:
        """What errors call it."""
        return type(self).__name__.lower()

    def reads(self, side: int) -> Needs:
        return Needs(False, self.against if side else self.layers)

    def bind(self, a: Spec, b: Spec | None) -> None:
        """Look up the layers' shapes.

        Raises:
            UserError: layers are named twice or not at all, or have a shape that cannot be compared.
        """
        assert b is not None, f"{self.called} has two sides"
        self.taps = self._taps(a, b)
        for place, taps in enumerate(self.taps):
            self.bind_pair(place, taps, (self._shape(a, taps[0]), self._shape(b, taps[1])))

    def bind_pair(self, place: int, taps: Taps, shapes: tuple[Shape, Shape]) -> None:
        """Called for each pair, the `place`-th, when the experience begins: `(D,)` or `(D, H, W)` of each side."""

    def _taps(self, a: Spec, b: Spec) -> list[Taps]:
        named = a.feature is not None or b.feature is not None
        if named and self.layers:
            raise UserError(f"{self.called}: layers are named in between and in its option layers: name them once")
        if self.layers:
            return list(zip(self.layers, self.against, strict=True))
        if a.feature is None or b.feature is None:
            raise UserError(
                f"{self.called}: name the layers to compare, like between: [student.stage3, external.stage3], or "
                f"layers: [stage1, stage2, stage3]"
            )
        return [(a.feature, b.feature)]

    def _shape(self, spec: Spec, tap: str) -> Shape:
        shape = spec.shape if tap == spec.feature else spec.shapes[tap]
        if self.maps_only and (shape is None or len(shape) != 3):
            raise UserError(
                f"{self.called}: {tap} gives {shape}, but maps (D, H, W) are needed: name a layer before its map is "
                f"averaged or flattened"
            )
        if shape is None or len(shape) not in (1, 3):
            raise UserError(f"{self.called}: {tap} gives {shape}, but vectors (D) or maps (D, H, W) are needed")
        return shape

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        """`[B]`, or a scalar where `compare` gives one."""
        assert b is not None, f"{self.called} has two sides"
        student = [full_precision(a.features[tap]) for tap, _ in self.taps]
        return self.total(student, [full_precision(b.features[tap]).detach() for _, tap in self.taps])

    def total(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """All layers together: by default the weighted sum over pairs."""
        first, *rest = [self.compare(place, *pair) for place, pair in enumerate(zip(student, teacher, strict=True))]
        weights = self.layer_weights
        value = first if weights[0] == 1.0 else weights[0] * first
        for weight, other in zip(weights[1:], rest, strict=True):
            value = value + weight * other
        return value

    def compare(self, place: int, f: Tensor, g: Tensor) -> Tensor:
        """`[B]` (or a scalar): the `place`-th layer of the student and of the teacher, `[B, D]` or `[B, D, H, W]`."""
        raise NotImplementedError
