"""The contract of parts: laws that every loss, memory and transfer strategy keeps, to be called from any test.

    from clkd.testing.contract import check_loss

    def test_contract() -> None:
        check_loss(lambda: MyLoss(sharpness=2))

Each law is a function whose docstring is one sentence. A part to which a law cannot apply says so on its class, with
the reason: `contract_optouts = {"agreement": "rewards disagreement on purpose"}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from clkd.errors import did_you_mean
from clkd.losses.base import Loss
from clkd.memory.base import Memory
from clkd.testing.loss_laws import LOSS_LAWS
from clkd.testing.memory_laws import MEMORY_LAWS
from clkd.testing.transfer_laws import TRANSFER_LAWS
from clkd.transfer.base import Transfer


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
    check(make, {name: partial(law, size=size) for name, law in MEMORY_LAWS.items()})


def check_transfer(make: Callable[[], Transfer]) -> None:
    """Check every law of transfer strategies; `make` gives a fresh one.

    >>> from clkd.transfer.coral import Coral
    >>> check_transfer(Coral)
    """
    check(make, TRANSFER_LAWS)


def check(make: Callable[[], Any], laws: Mapping[str, Callable[[Callable[[], Any]], None]]) -> None:
    """Check `laws` one by one, leaving out those that the part's class opts out of.

    Raises:
        AssertionError: a law is broken, and the note says which; or an opt-out names no law or gives no reason.
    """
    part = type(make())
    optouts: dict[str, str] = getattr(part, "contract_optouts", {})
    for name, reason in optouts.items():
        assert name in laws, f"{part.__name__}.contract_optouts: no law '{name}', {did_you_mean(name, laws)}"
        assert reason, f"{part.__name__}.contract_optouts: '{name}' needs a reason"
    for name, law in laws.items():
        if name in optouts:
            continue
        try:
            law(make)
        except Exception as error:
            error.add_note(f"while checking the law '{name}' of {part.__name__}")
            raise
