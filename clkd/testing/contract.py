"""The contract of parts: laws that every part of a kind keeps, to be called from any test.

    from clkd.testing.contract import check_loss

    def test_contract() -> None:
        check_loss(lambda: MyLoss(sharpness=2))

Each law is a function whose docstring is one sentence. A part to which a law cannot apply says so on its class (or on
the function that makes it), with the reason: `contract_optouts = {"agreement": "rewards disagreement on purpose"}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from clkd.data.source import Source
from clkd.errors import did_you_mean, one_line
from clkd.losses.base import Loss
from clkd.memory.base import Memory
from clkd.metrics.base import Metric
from clkd.streams.base import Stream
from clkd.teachers.base import Teacher
from clkd.testing.dataset_laws import DATASET_LAWS
from clkd.testing.loss_laws import LOSS_LAWS
from clkd.testing.memory_laws import MEMORY_LAWS
from clkd.testing.metric_laws import METRIC_LAWS
from clkd.testing.model_laws import MODEL_LAWS
from clkd.testing.stream_laws import STREAM_LAWS
from clkd.testing.teacher_laws import TEACHER_LAWS
from clkd.testing.tracker_laws import TRACKER_LAWS
from clkd.testing.transfer_laws import TRANSFER_LAWS
from clkd.tracking.base import Tracker
from clkd.transfer.base import Transfer

Laws = Mapping[str, Callable[..., None]]
LAWS: dict[str, Laws] = {
    "losses": LOSS_LAWS,
    "memories": MEMORY_LAWS,
    "transfers": TRANSFER_LAWS,
    "teachers": TEACHER_LAWS,
    "models": MODEL_LAWS,
    "datasets": DATASET_LAWS,
    "streams": STREAM_LAWS,
    "metrics": METRIC_LAWS,
    "trackers": TRACKER_LAWS,
}
"""The laws of each kind that has some."""


def check_loss(make: Callable[[], Loss]) -> None:
    """Check every law of losses; `make` gives a fresh loss, set up as it would be from a scenario.

    >>> from clkd.losses.response import KD
    >>> check_loss(KD)
    """
    check(make, LOSS_LAWS)


def check_memory(make: Callable[[], Memory], size: int = 0) -> None:
    """Check every law of memories; `make` gives a fresh memory that declares to keep at most `size` rows.

    >>> from clkd.memory.reservoir import Reservoir
    >>> check_memory(lambda: Reservoir(size=10), size=10)
    """
    check(make, MEMORY_LAWS, size=size)


def check_transfer(make: Callable[[], Transfer]) -> None:
    """Check every law of transfer strategies; `make` gives a fresh one.

    >>> from clkd.transfer.coral import Coral
    >>> check_transfer(Coral)
    """
    check(make, TRANSFER_LAWS)


def check_teacher(make: Callable[[], Teacher]) -> None:
    """Check every law of teachers; `make` gives a fresh one for rows of `clkd.testing.tiny` (1 × 8 × 8).

    >>> from clkd.teachers.previous import Previous
    >>> check_teacher(Previous)
    """
    check(make, TEACHER_LAWS)


def check_model(make: Callable[[tuple[int, ...]], nn.Module], shape: tuple[int, ...] = (3, 32, 32)) -> None:
    """Check every law of models; `make` gives a fresh backbone for rows of a shape, drawn from torch's global seed.

    >>> from clkd.models.backbones.mlp import MLP
    >>> check_model(MLP, shape=(1, 8, 8))
    """
    check(make, MODEL_LAWS, type(make(shape)), shape=shape)


def check_dataset(make: Callable[[], Source], base: Path = Path()) -> None:
    """Check every law of data sets; `make` gives a fresh source, whose relative paths start at `base`.

    >>> from clkd.data.digits import Digits
    >>> check_dataset(Digits)
    """
    check(make, DATASET_LAWS, base=base)


def check_stream(make: Callable[..., Stream]) -> None:
    """Check every law of streams; `make(store=…, seed=…, validation=…)` cuts a data set into experiences.

    >>> from functools import partial
    >>> from clkd.streams.shares import by_data
    >>> check_stream(partial(by_data, experiences=2))
    """
    check(make, STREAM_LAWS, getattr(make, "func", make))


def check_metric(make: Callable[[], Metric]) -> None:
    """Check every law of metrics; `make` gives a fresh one.

    >>> from clkd.metrics.average import AverageAccuracy
    >>> check_metric(AverageAccuracy)
    """
    check(make, METRIC_LAWS)


def check_tracker(make: Callable[[], Tracker]) -> None:
    """Check every law of trackers; `make` gives a fresh one.

    >>> from clkd.tracking.jsonl import JsonlTracker
    >>> check_tracker(JsonlTracker)
    """
    check(make, TRACKER_LAWS)


def check(make: Callable[..., Any], laws: Laws, part: Any = None, **about: Any) -> None:
    """Check `laws` one by one, leaving out those that the part opts out of.

    Args:
        make: gives a fresh part.
        part: the class or function that errors name and that may opt out; by default the class of what `make` gives.
        about: told to every law.

    Raises:
        AssertionError: a law is broken, and the note says which; or an opt-out names no law or gives no reason.
    """
    part = part or type(make())
    optouts = _optouts(part, laws)
    for name, law in laws.items():
        if name in optouts:
            continue
        try:
            law(make, **about)
        except Exception as error:
            error.add_note(f"while checking the law '{name}' of {_name(part)}")
            raise


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a law says of a part: `ok`, `broken` (with the reason), or left `out` (with the part's own reason)."""

    law: str
    meaning: str
    status: Literal["ok", "broken", "out"]
    reason: str = ""


def examine(make: Callable[..., Any], laws: Laws, part: Any = None, **about: Any) -> Iterator[Verdict]:
    """As `check`, but tells of every law what it says, instead of stopping at the first that is broken."""
    optouts = _optouts(part or type(make()), laws)
    for name, law in laws.items():
        meaning = " ".join((law.__doc__ or "").split())
        if name in optouts:
            yield Verdict(name, meaning, "out", optouts[name])
            continue
        try:
            law(make, **about)
        except Exception as error:  # a stranger's part may raise anything; it is told, with the law
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            yield Verdict(name, meaning, "broken", f"{kind}{one_line(' '.join(str(error).split()))}")
        else:
            yield Verdict(name, meaning, "ok")


def _optouts(part: Any, laws: Laws) -> dict[str, str]:
    optouts: dict[str, str] = getattr(part, "contract_optouts", {})
    for name, reason in optouts.items():
        assert name in laws, f"{_name(part)}.contract_optouts: no law '{name}', {did_you_mean(name, laws)}"
        assert reason, f"{_name(part)}.contract_optouts: '{name}' needs a reason"
    return optouts


def _name(part: Any) -> str:
    return str(getattr(part, "__name__", part))
