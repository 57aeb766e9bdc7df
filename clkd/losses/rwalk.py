"""Riemannian walk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from clkd.losses.path import Path, Which
from clkd.losses.regulariser import Vectors, copied, zeros

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student


class RWalk(Path):
    """`Σ_i (F_i + s_i) (θ_i − θ_i*)²`, F and s each divided by their greatest value; the term's weight is λ.

    Chaudhry et al. 2018, "Riemannian Walk for Incremental Learning", eq. 6-8. F is a moving average over steps of the
    squared gradient, `F ← α g² + (1 − α) F` (EWC++). s sums, over stretches of `every` steps, how far the loss fell by
    each parameter for the distance that the model moved: `−Σ g · δ / (½ F Δ² + ε)`. What is negative in the end is 0,
    and the mean with the s of before is taken.
    """

    def __init__(self, alpha: float = 0.9, every: int = 10, damping: float = 1e-7, gradient: Which = "task") -> None:
        super().__init__(gradient)
        self.alpha, self.every, self.damping = alpha, every, damping
        self.steps = 0
        """Taken in this experience."""

    def begin(self, experience: Experience, student: Student) -> None:
        super().begin(experience, student)
        for what in ("fall", "score"):
            self.kept[what] = zeros(self.parameters_now)
        self.kept["stop"] = copied(self.parameters_now)
        self.steps = 0

    def moved(self, gradient: Vectors, change: Vectors) -> None:
        first = "fisher" not in self.kept
        fisher = self.kept.setdefault("fisher", zeros(self.parameters_now))
        for name, g in gradient.items():
            fisher[name] = g.square() if first else self.alpha * g.square() + (1 - self.alpha) * fisher[name]
            self.kept["fall"][name] -= g * change[name]
        self.steps += 1
        if self.steps % self.every == 0:
            self._score()

    def _score(self) -> None:
        """Close a stretch of steps."""
        fisher, fall, stop, last = (self.kept[what] for what in ("fisher", "fall", "stop", "last"))
        for name, now in last.items():
            moved = (now - stop[name]).square()
            self.kept["score"][name] += fall[name] / (0.5 * fisher[name] * moved + self.damping)
        self.kept["fall"], self.kept["stop"] = zeros(fall), copied(last)

    @torch.no_grad()
    def end(self, experience: Experience, student: Student) -> None:
        if not self.steps:
            return
        if self.steps % self.every:
            self._score()
        score = {name: raw.clamp(min=0) for name, raw in self.kept.pop("score").items()}
        if "scores" in self.kept:
            score = {name: 0.5 * (before + score[name]) for name, before in self.kept["scores"].items()}
        self.kept["scores"] = score
        fisher, s = _scaled(self.kept["fisher"]), _scaled(score)
        self.consolidate({name: fisher[name] + s[name] for name in fisher}, gamma=0)
        for what in ("fall", "stop", "last"):
            del self.kept[what]

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "steps": self.steps}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.steps = state["steps"]


def _scaled(vectors: Vectors) -> Vectors:
    """Divided by the greatest of all their numbers; zeros stay zeros."""
    most = torch.stack([tensor.max() for tensor in vectors.values()]).max()
    return {name: tensor / most.clamp(min=torch.finfo(most.dtype).tiny) for name, tensor in vectors.items()}
