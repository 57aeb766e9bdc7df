"""Several teachers that speak as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from clkd.errors import UserError
from clkd.signals import Batch, Needs, Signals, Spec
from clkd.teachers.base import Teacher, among

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student

BY_LABEL = ("least_loss", "min_logit")
"""Rules that look at the label."""
NOBODY = -2
"""The class of no row; -1 is that of rows without a label."""


class Ensemble(Teacher):
    """The weighted mean of its members' probabilities (given as their logarithm) or logits.

    Members that are not ready yet stay silent; the ensemble is ready with its first ready member. Member m counts
    `w_m` in every row; with `by: entropy` it counts `w_m · e^(−H)` there, H the entropy of what it says, so that the
    surer it is, the more it counts. All of them speak, over the classes that all of them know. With `by: class` a row
    hears only members that know its class, over the classes that all of *those* know, as `known` of the signals says; a
    row whose class nobody knows is told nothing. A row without a label hears all of them. Where the student is told the
    task, each task's classes are spoken of by themselves, as if there were no others. To know a class is to have
    learned it: the column that a fixed head has for a class to come is none that its member knows.

    Two more rules look at the label y (Guo et al. 2020, "Online Knowledge Distillation via Collaborative Learning"):
    with `by: least_loss` a row hears the one member whose cross-entropy is least (KDCL-Naive there), with
    `by: min_logit` it hears of each class the least `z − z_y` of all members (KDCL-MinLogit). Rows without a label hear
    the mean.

    >>> teacher = Ensemble((), {}, by="min_logit")
    >>> said = torch.tensor([[[3.0, 1.0, 0.0]], [[2.0, 1.0, 1.0]]])  # of two members about one row of class 0
    >>> teacher._by_label(said, torch.tensor([0]), torch.arange(3), torch.zeros(1, 3))
    tensor([[ 0., -2., -3.]])
    """

    needs_boundaries = False
    """Its members may."""

    def __init__(
        self,
        members: tuple[str, ...],
        teachers: Mapping[str, Teacher],
        mean: Literal["probabilities", "logits"] = "probabilities",
        weights: tuple[float, ...] | None = None,
        by: Literal["weight", "entropy", "class", "least_loss", "min_logit"] = "weight",
    ) -> None:
        for name in members:
            if teachers[name].partial:
                raise UserError(f"members: '{name}' does not know all its classes of every row: it cannot be averaged")
        self.members: list[Teacher] = [teachers[name] for name in members]
        self.mean, self.weights, self.by = mean, weights, by
        self.partial = "always" if by == "class" else False
        self._columns: list[tuple[Tensor, Tensor]] = []
        self._class_ids: Tensor | None = None
        self._learned: Tensor = torch.empty(0)
        """`[C]` the same, and `NOBODY` for a class that has not been learned."""
        self._has: Tensor = torch.empty(0)
        """`[members, C]` bool: who has learned which."""
        self._counts: Tensor = torch.empty(0)
        """`[members]` how much each counts."""
        self._born: dict[int, int] = {}
        self._tasks: list[Tensor] = []

    @property
    def ready(self) -> bool:
        return any(member.ready for member in self.members)

    def begin(self, experience: Experience, student: Student) -> None:
        """Who speaks, and with which columns, is settled when the experience's first batch comes."""
        self._columns, self._class_ids = [], None
        self._born = dict(zip(student.class_ids, student.born, strict=True)) if student.task_aware else {}

    def spec(self, feature: str | None = None) -> Spec:
        if feature is not None:
            raise UserError(
                f"an ensemble has no features, so '{feature}' cannot be read of it: name one of its members"
            )
        specs = [member.spec() for member in self._speakers()]
        born = [dict(zip(spec.class_ids, spec.born, strict=True)) for spec in specs]
        ordered = dict.fromkeys(c for spec in specs for c in spec.class_ids)
        said = [c for c in ordered if self.by == "class" or all(c in spec.class_ids for spec in specs)]
        if not said:
            raise UserError("the members of the ensemble share no class: there is nothing they could say together")
        return Spec(class_ids=tuple(said), born=tuple(self._came(c, born) for c in said))

    def _came(self, c: int, born: list[dict[int, int]]) -> int:
        """When a class came; -1 where those who have its column have not learned it, as it is in a fixed head."""
        told = [own[c] for own in born if c in own]
        learned = [came for came in told if came >= 0]
        return learned[0] if learned and (self.by == "class" or len(learned) == len(told)) else -1

    def request(self, features: tuple[str, ...]) -> None:
        for feature in features:
            raise UserError(f"an ensemble has no features: it cannot say '{feature}'; name one of its members")

    def signals(self, batch: Batch, needs: Needs) -> Signals:
        class_ids = self._settle(batch.y.device)
        told = [member.signals(member.seen(batch), Needs()) for member in self._speakers()]
        said = torch.stack([_taken(each, *at) for each, at in zip(told, self._columns, strict=True)])
        weights = self._counts[:, None].expand(said.shape[:2])
        if self.by != "class":
            learned = self._learned
            logits = self._by_task(said, lambda own, at: self._about(own, weights, batch.y, learned[at]))
            return Signals(logits, class_ids, {}, among(batch.y, learned))
        has = self._has  # [members, C]
        knows = torch.stack([_knows(each, batch.y, class_ids, own) for each, own in zip(told, has, strict=True)])
        speaks = knows | (batch.y < 0)
        heard = speaks.any(0)
        known = (has[:, None] | ~speaks[..., None]).all(0) & heard[:, None]
        masked = said.masked_fill(~known, torch.finfo(said.dtype).min / 2)
        weights = torch.where(heard, weights * speaks, weights)
        logits = self._by_task(masked, lambda own, at: self._average(own, weights))
        return Signals(logits.masked_fill(~known, 0.0), class_ids, {}, knows.any(0), known)

    def _settle(self, device: torch.device) -> Tensor:
        """`[C]` our classes. Of each member: how much it counts, which of its columns stands at each, if any does."""
        if self._class_ids is None:
            spec = self.spec()
            own, has = spec.class_ids, []
            self._class_ids = torch.tensor(own, device=device)
            self._counts = self._weights(device)
            learned = [c if born >= 0 else NOBODY for c, born in zip(own, spec.born, strict=True)]
            self._learned = torch.tensor(learned, device=device)
            for each in (member.spec() for member in self._speakers()):
                place = {c: i for i, c in enumerate(each.class_ids)}
                at = torch.tensor([place.get(c, -1) for c in own], device=device)
                self._columns.append((at.clamp(min=0), at >= 0))
                has.append([c in place and each.born[place[c]] >= 0 for c in own])
            self._has = torch.tensor(has, device=device)
            tasks: dict[int, list[int]] = {}
            for i, c in enumerate(own):
                tasks.setdefault(self._born.get(c, -1), []).append(i)
            self._tasks = [torch.tensor(columns, device=device) for columns in tasks.values()]
        return self._class_ids

    def _by_task(self, said: Tensor, speak: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """`[members, B, C]` → `[B, C]`: what `speak` makes of each task's columns, and where these stand."""
        if len(self._tasks) == 1:
            return speak(said, self._tasks[0])
        logits = torch.empty_like(said[0])
        for at in self._tasks:
            logits[:, at] = speak(said[..., at], at)
        return logits

    def _about(self, said: Tensor, weights: Tensor, y: Tensor, class_ids: Tensor) -> Tensor:
        """Of rows with these labels."""
        logits = self._average(said, weights)
        return self._by_label(said, y, class_ids, logits) if self.by in BY_LABEL else logits

    def _weights(self, device: torch.device) -> Tensor:
        """`[members that speak]`."""
        weights = self.weights or (1.0,) * len(self.members)
        speak = [weight for weight, member in zip(weights, self.members, strict=True) if member.ready]
        return torch.tensor(speak, device=device)

    def _average(self, logits: Tensor, weights: Tensor) -> Tensor:
        """`[members, B, C]` and `[members, B]` → `[B, C]`."""
        logp = torch.log_softmax(logits, -1)
        if self.by == "entropy":
            weights = weights * (logp.exp() * logp).sum(-1).exp()
        share = weights / weights.sum(0)
        if self.mean == "logits":
            return (share[..., None] * logits).sum(0)
        return torch.logsumexp(share.log()[..., None] + logp, 0)

    def _by_label(self, logits: Tensor, y: Tensor, class_ids: Tensor, mean: Tensor) -> Tensor:
        """`[members, B, C]` → `[B, C]`; `mean` for rows whose label is none of these classes."""
        label = y[:, None] == class_ids
        own = logits.where(label, 0.0).sum(-1)  # [members, B]
        if self.by == "min_logit":
            chosen = (logits - own[..., None]).amin(0)
        else:
            best = (logits.logsumexp(-1) - own).argmin(0)
            chosen = logits[best, torch.arange(len(best), device=best.device)]
        return chosen.where(label.any(1, keepdim=True), mean)

    def _speakers(self) -> Sequence[Teacher]:
        return [member for member in self.members if member.ready]


def _taken(said: Signals, at: Tensor, there: Tensor) -> Tensor:
    """`[B, C]`: what a member said, in our columns; 0 where it has none."""
    assert said.logits is not None, "logits were asked for"
    return said.logits.float().index_select(1, at).masked_fill(~there, 0.0)


def _knows(said: Signals, y: Tensor, class_ids: Tensor, learned: Tensor) -> Tensor:
    """`[B]` bool: rows whose class a member has learned; of our classes it has `learned` (`[C]` bool) these."""
    return ((y[:, None] == class_ids) & learned).any(1) if said.valid is None else said.valid
