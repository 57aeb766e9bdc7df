"""Metrics: numbers with a stated definition, all computed from one record of the evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clkd.hooks import hookimpl
from clkd.options import Options

if TYPE_CHECKING:
    from clkd.registry import Register

SUMMARIES = {
    "average_accuracy": ("average:AverageAccuracy", "mean accuracy over all experiences trained so far"),
    "average_incremental_accuracy": (
        "average:AverageIncrementalAccuracy",
        "mean over time of the average accuracy",
    ),
    "learning_accuracy": ("average:LearningAccuracy", "mean accuracy on each experience just after training it"),
    "forgetting": ("stability:Forgetting", "mean drop from the best earlier accuracy (Chaudhry et al. 2018)"),
    "backward_transfer": (
        "stability:BackwardTransfer",
        "mean change since each experience was trained (Lopez-Paz & Ranzato 2017)",
    ),
    "forward_transfer": (
        "stability:ForwardTransfer",
        "mean accuracy before training, above the untrained student's (Lopez-Paz & Ranzato 2017)",
    ),
    "macro_f1": ("classes:MacroF1", "mean F1 over classes, from the latest confusion matrix"),
}


@hookimpl
def clkd_register_metrics(register: Register) -> None:
    """The metrics that clkd ships."""
    for name, (factory, summary) in SUMMARIES.items():
        register(name, f"clkd.metrics.{factory}", config=Options, summary=summary)
