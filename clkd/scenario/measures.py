"""What a scenario says of measurements that are made only when asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from clkd.options import Options


def _on_or_spelt_out(options: type[Options], example: str, raw: Any) -> Any:
    """`true` is all defaults; told apart here, so that only the mistakes of what is meant are reported."""
    if isinstance(raw, Mapping):
        return options.model_validate(raw)
    if not isinstance(raw, bool | options):
        raise ValueError(f"give true, false, or options such as {{{example}}}; got {raw!r}")
    return options() if raw is True else raw


class ReportOptions(Options):
    """What is told after each experience of what was transferred in it. It changes no weight and costs some time."""

    cka: tuple[str, ...] = ("penultimate",)
    """Layers that are compared by CKA: a tap of student and teachers alike (`stage3`), or of one of them
    (`student.stage3`, `external.stage2`); none if empty."""
    estimator: Literal["debiased", "biased"] = "debiased"
    """How CKA estimates HSIC: without bias, or as Kornblith et al. (2019) do, which is near 1 for wide layers."""
    rows: Annotated[int, Field(ge=4)] = 2000
    """Test rows that CKA looks at, at most: of each class as many. All else is counted over all test rows."""


class ShiftOptions(Options):
    """What is measured of domains before and after each experience. It changes no weight and costs some time."""

    layers: Annotated[tuple[str, ...], Field(min_length=1)] = ("input", "penultimate")
    """Where domains are compared: `input`, or taps of the student."""
    rows: Annotated[int, Field(ge=20)] = 200
    """Rows of each domain that are looked at, at most."""
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """How often the monitor may cry out, at most, about rows of a domain that it knows."""
    permutations: Annotated[int, Field(ge=19)] = 199
    """Of each two-sample test."""

    @model_validator(mode="after")
    def _can_alarm(self) -> ShiftOptions:
        if len(self.layers) / (self.permutations + 1) > self.false_alarms:
            raise ValueError(
                f"{self.permutations} permutations cannot reject at {self.false_alarms:g} in {len(self.layers)} "
                f"layers: give at least {math.ceil(len(self.layers) / self.false_alarms) - 1}"
            )
        return self


Reported = Annotated[
    ReportOptions | bool, BeforeValidator(partial(_on_or_spelt_out, ReportOptions, "cka: [penultimate]"))
]
Shifted = Annotated[
    ShiftOptions | bool, BeforeValidator(partial(_on_or_spelt_out, ShiftOptions, "layers: [penultimate]"))
]
