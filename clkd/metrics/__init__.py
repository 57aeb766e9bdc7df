"""Metrics: numbers with a stated definition, all computed from one record of the evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

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
    "forgetting_avalanche": ("tools:ForgettingAvalanche", "mean drop since each experience was trained"),
    "forgetting_mammoth": ("tools:ForgettingMammoth", "mean drop from the best accuracy, the last included"),
    "forgetting_facil": ("tools:ForgettingFacil", "mean drop from the best earlier accuracy since it was trained"),
    "forgetting_pycil": ("tools:ForgettingPycil", "mean drop from the best since it was trained, the last included"),
    "forgetting_libcontinual": (
        "tools:ForgettingLibcontinual",
        "drop since each was trained, without the last experience but one",
    ),
    "backward_transfer_avalanche": ("tools:BackwardTransferAvalanche", "minus forgetting_avalanche"),
    "backward_transfer_mammoth": ("stability:BackwardTransfer", "the same as backward_transfer"),
    "backward_transfer_libcontinual": (
        "tools:BackwardTransferLibcontinual",
        "mean change since each was trained, over all rows, without each row's last experience but one",
    ),
    "anytime_accuracy": (
        "average:AnytimeAccuracy",
        "mean accuracy every train.evaluate_every steps (Koh et al. 2022, A_AUC)",
    ),
    "gain_new_domain": (
        "domains:GainNewDomain",
        "accuracy that the latest experience gained on its own test rows",
    ),
    "loss_old_domains": (
        "domains:LossOldDomains",
        "mean accuracy that the latest experience cost on the other domains so far",
    ),
    "macro_f1": ("classes:MacroF1", "mean F1 over classes, from the latest confusion matrix"),
}


class IntransigenceOptions(Options):
    """What joint training reaches."""

    joint: str | tuple[Annotated[float, Field(ge=0, le=1)], ...]
    """Its accuracy on each experience, as fractions; or the directory of a run that was trained on all data at once
    (or of one with as many experiences as this), from where the scenario lies."""
    at: Literal["end", "each"] = "end"
    """Which accuracies of such a run: those at its `end`, or of `each` experience just after it was trained, as where
    joint training starts anew in each (`method: joint`): the reference for an experience then knew it and those before
    it, as the paper has it."""

    @model_validator(mode="after")
    def _run(self) -> IntransigenceOptions:
        """Numbers are one for each experience already."""
        if self.at == "each" and not isinstance(self.joint, str):
            raise ValueError("at is about the directory of a run, and joint gives numbers: leave it out")
        return self


@hookimpl
def clkd_register_metrics(register: Register) -> None:
    """The metrics that clkd ships."""
    for name, (factory, summary) in SUMMARIES.items():
        register(name, f"clkd.metrics.{factory}", config=Options, summary=summary)
    register(
        "intransigence",
        "clkd.metrics.intransigence:Intransigence",
        config=IntransigenceOptions,
        summary="mean shortfall just after training, against joint training (Chaudhry et al. 2018)",
    )
