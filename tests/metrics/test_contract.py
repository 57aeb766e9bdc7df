"""Every built-in metric keeps the laws, and every law catches a metric that breaks it."""

from __future__ import annotations

import pytest
import torch

from clkd.metrics.average import AverageAccuracy
from clkd.plugins import isolated
from clkd.testing.contract import check, check_metric
from clkd.testing.metric_laws import METRIC_LAWS
from clkd.testing.parts import check_part

REGISTRY = isolated().registry
SAID = {"intransigence": {"joint": [0.9, 0.9, 0.9]}}


@pytest.mark.parametrize("name", REGISTRY.names("metrics"))
def test_built_in_metrics_keep_the_contract(name):
    part = REGISTRY.parse("metrics", {"kind": name, **SAID.get(name, {})})
    check_metric(lambda: REGISTRY.build(part))


@pytest.mark.parametrize("name", REGISTRY.names("metrics"))
def test_so_they_do_with_all_that_a_run_offers(name, clkd_tiny):
    check_part(clkd_tiny, "metrics", {"kind": name, **SAID.get(name, {})})


class Tensorial(AverageAccuracy):
    def __call__(self, record):
        return torch.tensor(super().__call__(record))


class Divided(AverageAccuracy):
    def __call__(self, record):
        value = super().__call__(record)
        return float("inf") if record.trained == record.experiences else value


class Sorting(AverageAccuracy):
    """Sorts a row where it stands."""

    def __call__(self, record):
        for row in record.matrix[: record.trained]:
            row.sort()
        return super().__call__(record)


class Cumulative(AverageAccuracy):
    """Remembers what it said before, which a resumed run's does not."""

    total = 0.0

    def __call__(self, record):
        value = super().__call__(record)
        self.total += 0.0 if value != value else value
        return self.total


class Farsighted(AverageAccuracy):
    def __call__(self, record):
        values = [value for row in record.matrix for value in row if value == value]
        return sum(values) / len(values) if values else float("nan")


class Stubborn(AverageAccuracy):
    """Always looks at the matrix without the task told."""

    def __call__(self, record):
        n = record.trained
        return sum(record.class_incremental[n - 1][:n]) / n if n else float("nan")


BROKEN = {
    "number": Tensorial, "finite": Divided, "untouched": Sorting, "repeatable": Cumulative, "present": Farsighted,
    "counted": Stubborn,
}  # fmt: skip


@pytest.mark.parametrize("law", BROKEN)
def test_each_law_catches_a_metric_that_breaks_it(law):
    with pytest.raises(AssertionError) as caught:
        check(BROKEN[law], {law: METRIC_LAWS[law]})
    assert f"while checking the law '{law}' of {BROKEN[law].__name__}" in caught.value.__notes__


def test_a_metric_that_reads_what_no_checkpoint_keeps_is_caught():
    class Foreign(AverageAccuracy):
        """Remembers each record by its identity."""

        seen: list = []  # noqa: RUF012  # shared on purpose

        def __call__(self, record):
            self.seen.append(record)
            return float(len(self.seen))

    with pytest.raises(AssertionError):
        check(Foreign, {"restored": METRIC_LAWS["restored"]})


def test_all_laws_are_tried_here():
    assert set(METRIC_LAWS) == {*BROKEN, "restored"}
