"""Means over steps, and a run that diverges names the term that broke."""

from __future__ import annotations

import pytest
import torch

from clkd.engine.meter import Meter
from clkd.errors import ClkdError
from clkd.schedules.base import Progress


def test_a_term_absent_from_a_step_does_not_pull_its_mean_down() -> None:
    meter = Meter()
    meter.add({"loss": torch.tensor(1.0), "kd": torch.tensor(4.0)})
    meter.add({"loss": torch.tensor(3.0)})
    assert meter.means(Progress()) == {"loss": 2.0, "kd": 4.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_broken_term_is_named_not_the_sum(bad: float) -> None:
    meter = Meter()
    meter.add({"loss": torch.tensor(bad), "ce": torch.tensor(1.0), "kd": torch.tensor(bad)})
    meter.add({"loss": torch.tensor(1.0), "ce": torch.tensor(1.0), "kd": torch.tensor(1.0)})
    with pytest.raises(ClkdError, match="loss term 'kd' became NaN or infinite in experience 2, epoch 1, by step 9"):
        meter.refuse_nonfinite(Progress(experience=2, epoch=1, step=9))
