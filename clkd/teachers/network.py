"""Teachers that are a network: what it says, frozen, about the very view that the student sees."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

from clkd.frozen import state_hash
from clkd.signals import Batch, Needs, Signals, Spec
from clkd.teachers.base import Teacher, among
from clkd.teachers.cached import Cached
from clkd.teachers.recall import Recall
from clkd.teachers.shelf import Copy
from clkd.view import View

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student


class Network(Protocol):
    """What a teacher needs of a model; a student has it."""

    @property
    def class_ids(self) -> tuple[int, ...]: ...
    def signals(self, x: Tensor, needs: Needs) -> Signals: ...
    def spec(self, feature: str | None = None) -> Spec: ...
    def request(self, names: tuple[str, ...]) -> None: ...
    def layout(self) -> dict[str, Any]: ...
    def state_dict(self) -> dict[str, Any]: ...


class NetworkTeacher(Teacher):
    """A frozen network. `network` is None until there is one.

    Args:
        network: it may change the rows it sees by itself (a student's `view`).
        view: what it is shown of the student's rows; None for all.
        copy: how a copy in the run's directory is known, if there is to be one.
    """

    needs_boundaries = False
    """Only what it answered ahead is let go."""

    def __init__(self, network: Network | None = None, view: View | None = None, copy: Copy | None = None) -> None:
        self.network = network
        self.view = view
        self.copy = copy
        self._known: tuple[Network | None, Tensor] = (None, torch.empty(0))
        self._answers: Recall | Cached | None = None

    @property
    def ready(self) -> bool:
        return self.network is not None

    def spec(self, feature: str | None = None) -> Spec:
        return self._speaker().spec(feature)

    def begin(self, experience: Experience, student: Student) -> None:
        self._answers = None

    def foresee(self, rows: Iterable[Batch], needs: Needs) -> None:
        self._answers = Recall((batch, self._say_together(batch, needs)) for batch in rows)

    def _say_together(self, batch: Batch, needs: Needs) -> Signals:
        """Each rank is asked about its share of the rows, and all hear everything."""
        return self.ranks.whole(self._say(self.ranks.share(batch), needs), len(batch), needs)

    def recall_from(self, answers: Cached) -> None:
        self._answers = answers

    def end(self, experience: Experience, student: Student) -> None:
        if self._answers is not None:
            self._answers.check()
            self._answers = None

    def signals(self, batch: Batch, needs: Needs) -> Signals:
        if self._answers is not None and batch.view is not None and self._answers.covers(needs):
            return self._answers(batch, self._valid(batch.y))
        return self._say(batch, needs)

    @torch.no_grad()
    def _say(self, batch: Batch, needs: Needs) -> Signals:
        said = self._ask(batch.x if self.view is None else self.view(batch.x), needs, batch.domain)
        return Signals(said.logits, said.class_ids, said.features, self._valid(batch.y))

    def _ask(self, x: Tensor, needs: Needs, domain: Tensor) -> Signals:
        """Domains are numbered by the stream, of which a network from elsewhere knows nothing."""
        return self._speaker().signals(x, needs)

    def request(self, features: tuple[str, ...]) -> None:
        if self.network is not None:
            self.network.request(features)

    def module(self) -> nn.Module | None:
        return self.network  # type: ignore[return-value]  # every network is a module

    def classifier(self) -> nn.Module | None:
        return getattr(self.network, "head", None)

    def fingerprint(self) -> str:
        return "" if self.network is None else state_hash(self.network)  # type: ignore[arg-type]  # every network is a module

    def views(self) -> list[View]:
        """What becomes of the student's rows before its layers see them, step by step."""
        return [view for view in (self.view, getattr(self.network, "view", None)) if view is not None]

    def keep(self, folder: Path) -> dict[str, Any] | None:
        if self.copy is None or self.network is None:
            return None
        self.copy.write(self.network, folder)  # type: ignore[arg-type]  # every network is a module
        return {"file": self.copy.name, **self.copy.about}

    def identity(self) -> dict[str, Any] | None:
        """Weights alone do not decide what a network says: its layers' options count too."""
        if self.network is None:
            return None
        views = [view.facts() for view in self.views()]
        return {
            "weights": self.fingerprint(),
            "network": hashlib.sha256(str(self.network).encode()).hexdigest(),
            "classes": list(self.spec().class_ids),
            "channels_last": getattr(self.network, "channels_last", False),
            "view": views[0] if len(views) == 1 else views or None,
        }

    def _speaker(self) -> Network:
        assert self.network is not None, "asked before it was ready"
        return self.network

    def _valid(self, y: Tensor) -> Tensor:
        """`[B]` bool: rows of a class this network has learned."""
        network = self._speaker()
        if self._known[0] is not network:
            spec = network.spec()
            learned = [c for c, born in zip(spec.class_ids, spec.born, strict=True) if born >= 0]
            self._known = network, torch.tensor(learned, dtype=torch.long, device=y.device)
        return among(y, self._known[1])


class Snapshot(NetworkTeacher):
    """A teacher made from the student, whose weights therefore travel with a checkpoint."""

    needs_boundaries = False
    """Only a resumed run fills it."""

    def __init__(self) -> None:
        super().__init__()
        self._saved: dict[str, Any] = {}

    def _ask(self, x: Tensor, needs: Needs, domain: Tensor) -> Signals:
        return cast("Student", self._speaker()).signals(x, needs, domain)

    def identity(self) -> None:
        """It follows the student, so nothing it says is worth keeping for another run."""

    def begin(self, experience: Experience, student: Student) -> None:
        """After a resume: the saved weights go into a copy of the student, laid out as it was when they were saved."""
        super().begin(experience, student)
        if self._saved:
            copy = student.frozen_copy()
            self._fill(copy, self._saved)
            self.network, self._saved = copy, {}

    def state_dict(self) -> dict[str, Any]:
        if self._saved or self.network is None:
            return self._saved
        return {"layout": self.network.layout(), "state": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Where there is a network, within an experience, it takes the weights at once."""
        if self.network is None or not state:
            self._saved = state
        else:
            self._fill(self.network, state)

    def _fill(self, network: Any, state: dict[str, Any]) -> None:
        network.lay_out(state["layout"])
        network.load_state_dict(state["state"])
