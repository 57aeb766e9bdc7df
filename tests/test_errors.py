"""Errors of a worker process reach whoever waits for it as what they were."""

from __future__ import annotations

import pickle

import pytest

from clkd.engine.guard import NonFiniteError
from clkd.errors import ClkdError, EchoError, Interrupted, UserError
from clkd.scenario.load import ScenarioErrors
from clkd.schedules.base import Progress


@pytest.mark.parametrize(
    "error",
    [
        UserError("wrong"),
        Interrupted("stopped", 130),
        EchoError("another failed", 4),
        ScenarioErrors(["a: wrong", "b: wrong"], plugin_to_blame=True),
        NonFiniteError("the loss", Progress(experience=1, step=7), "at step 7"),
    ],
)
def test_an_error_is_the_same_in_another_process(error: ClkdError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again), again.exit_code) == (
        type(error),
        str(error),
        vars(error),
        error.exit_code,
    )


def test_where_it_happened_comes_before_what_happened() -> None:
    error = ScenarioErrors(["a: wrong", "b: wrong"])
    error.within("er, seed 3")
    assert str(error) == "er, seed 3: a: wrong\nb: wrong"
