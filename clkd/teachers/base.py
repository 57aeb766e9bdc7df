"""The base of every teacher."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from clkd.ranks import ALONE, Ranks
from clkd.signals import Batch, Needs, Signals, Spec

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student
    from clkd.teachers.cached import Cached


def among(y: Tensor, classes: Tensor) -> Tensor:
    """`[B]` bool: rows of one of the `classes` (`[K]`). `isin` would wait for a GPU where there are many."""
    return (y[:, None] == classes).any(1)


class Teacher:
    """Says something about a batch that the student can learn from. Never trained, always in eval mode."""

    contract_optouts: ClassVar[dict[str, str]] = {}
    """Laws of `clkd.testing.contract` that do not hold for this teacher, each with the reason."""

    frozen = True
    """Whether its parameters and buffers must stay what they are while it teaches (an `ema` follows the student)."""

    partial: bool | Literal["always"] = False
    """Whether a row may know fewer columns than its `spec` names, as `Signals.known` then says, once classes come later
    than in the first experience (or "always"). Only losses that read that are compared with it."""

    of: str = "student"
    """Which of those that are trained it is made from, if it is: the student or one of its peers. `begin`, `after_step`
    and `end` are handed that one."""

    untrained = False
    """Whether it only stands in for one that has yet to be fitted, before anything is trained."""

    recall: bool | Literal["memory"] = True
    """Whether it may answer about each row once and recall the answers, where rows come in fixed views: on disk if it
    stays the same from run to run, else (or where this is "memory") in memory."""

    sees: Literal["student", "weak"] = "student"
    """Which view it is shown where the student's is a strong one: the same, or the weak one that this was made of."""

    ranks: Ranks = ALONE
    """The processes that share its work."""

    @property
    def needs_boundaries(self) -> bool:
        """Whether it has to be told where experiences begin and end, so that a stream without boundaries refuses it.

        A class that overrides `begin` or `end` does, unless it says here that it does not: then `begin` and `end` are
        called as ever, and mean no more than that new classes may have come. A class attribute will do.
        """
        return False

    @property
    def ready(self) -> bool:
        """Whether it has anything to say yet: the previous self has nothing in the first experience."""
        return True

    def spec(self, feature: str | None = None) -> Spec:
        """Its classes, and the shape of the feature it is asked for."""
        raise NotImplementedError

    def seen(self, batch: Batch) -> Batch:
        """The batch in the view that this teacher is shown."""
        return batch if self.sees == "student" or batch.weak is None else batch.weak

    def signals(self, batch: Batch, needs: Needs) -> Signals:
        """What it says about these very rows and views. No gradient."""
        raise NotImplementedError

    def request(self, features: tuple[str, ...]) -> None:
        """Called once, before training: the features that will be asked for. Raises `UserError` for one it lacks."""

    def begin(self, experience: Experience, student: Student) -> None:
        """Before an experience, after the student has grown."""

    def foresee(self, rows: Iterable[Batch], needs: Needs) -> None:
        """Told, before an experience is trained, of every row and view that will be asked about, if that is known.

        Only a frozen teacher with `recall` set is told: it may answer now and recall its answers later.
        """

    def identity(self) -> dict[str, Any] | None:
        """What decides its answers, as plain data, if it stays the same from run to run; None for one that changes.

        The answers of one that does are kept in the cache, and handed to it by `recall_from`.
        """
        return None

    def keep(self, folder: Path) -> dict[str, Any] | None:
        """Copy into `folder`, in the run's directory, what may be gone when the run goes on; what it was, for people.

        None for one that can always be had again, or that travels with checkpoints.
        """
        return None

    def recall_from(self, answers: Cached) -> None:
        """Before an experience is trained: where its answers to every row and view that is coming can be read."""

    def begin_phase(self, student: Student) -> None:
        """Before a further training at the experience's end (`phases`)."""

    def end_phase(self) -> None:
        """After it."""

    def after_step(self, student: Student) -> None:
        """After each optimiser step."""

    def end(self, experience: Experience, student: Student) -> None:
        """After an experience."""

    def fingerprint(self) -> str:
        """A hash of every parameter and buffer: it must not move while the teacher teaches."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        """What resume needs and cannot be made again from the scenario: tensors, numbers, strings, lists, dicts."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave: before the first `begin`; and a state from within an experience once more
        after the `begin` of that experience, which is called as it was then."""

    def classifier(self) -> nn.Module | None:
        """Its frozen last layer, from penultimate features `[B, D]` to its logits; None where it has none to lend."""
        return None

    def module(self) -> nn.Module | None:
        """Its network, for counting parameters and multiply-accumulates; None where it has none of its own."""
        return None
