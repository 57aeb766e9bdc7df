"""Memories: which rows of the past are kept, and which of them are replayed."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from clkd.hooks import hookimpl
from clkd.memory.budget import Size
from clkd.options import Options

if TYPE_CHECKING:
    from clkd.registry import Register
    from clkd.scenario.model import Scenario


def _no_typo(word: str) -> str:
    """Taps are known once there is a student; what is nearly `logits` is no tap."""
    if word != "logits" and get_close_matches(word, ["logits"], cutoff=0.8):
        raise ValueError("no tap is called so (did you mean 'logits'?)")
    return word


Store = tuple[Annotated[str, AfterValidator(_no_typo)], ...]


class FilledOptions(Options):
    """Options of a memory that is filled when an experience ends."""

    size: Size = 500
    """How many rows are kept at most; or how many bytes (`20MB`), all that is kept beside rows included; or `all`."""
    store: Store = ()
    """What is kept beside each row of what the student says when the row's experience ends, as float32: `logits`, and
    features by the name of their tap (`penultimate`, `stage3`). A teacher of kind `stored` says them again."""


class GroupedOptions(FilledOptions):
    """Options of a memory that shares its room out over groups."""

    each: Annotated[int, Field(gt=0)] | None = None
    """How many rows of a group (a class, an experience) are kept at most, however much room there is: so memory grows
    with what came, as where papers give a budget for each class. By default all room is used from the start."""


class HerdingOptions(GroupedOptions):
    """Options of `herding`."""

    normalize: bool = True
    """Whether features are scaled to length 1 first, as in iCaRL."""


class OfferedOptions(FilledOptions):
    """Options of a memory that takes rows while they are new."""

    store: Store = ()
    """What is kept beside each row of what the student said when the row was new, as float32: `logits`, and features by
    the name of their tap (`penultimate`, `stage3`). A teacher of kind `stored` says them again."""
    rewrite: Annotated[float, Field(gt=0, le=1)] | None = None
    """γ: stored logits are said anew when an experience ends, for classes that the row knew nothing of then; they are
    scaled to γ times the logit of the row's own class at most (X-DER). By default what was said stays."""

    epochs: Literal["first", "all"] = "first"
    """In which epochs of its experience a row is offered: once, or in each of them anew, with what the student says of
    it by then, as the code of DER and ER does. Then memory may hold a row several times."""

    @model_validator(mode="after")
    def _stored(self) -> OfferedOptions:
        """There must be something to rewrite."""
        if self.rewrite is not None and "logits" not in self.store:
            raise ValueError("rewrite is about stored logits: add store: [logits]")
        return self


class ReservoirOptions(OfferedOptions):
    """Options of `reservoir`."""

    unlabelled: bool = False
    """Whether rows without a label are kept, too, as likely as any other; losses that read labels then skip them."""


class RingOptions(OfferedOptions):
    """Options of `ring`."""

    per: Literal["class", "experience", "domain"] = "class"
    """What has a queue of its own."""


class GeneratorOptions(Options):
    """Options of `generator`."""

    hidden: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)] = (400, 400)
    """Widths of the encoder's layers; the decoder has them in the other order."""
    latent: Annotated[int, Field(gt=0)] = 100
    """How many numbers a row is squeezed into."""
    lr: Annotated[float, Field(gt=0)] = 0.001
    """The learning rate of the generator's own Adam."""

    def problems(self, scenario: Scenario) -> Iterator[str]:
        """It keeps no rows for those who want all that are kept."""
        for phase in scenario.phases:
            if phase.rows in ("memory", "balanced"):
                yield f"a generator keeps no rows, and phases.{phase.name} trains on those that are kept"
        if getattr(scenario.student.head.options, "rows", None) == "memory":
            yield f"a generator keeps no rows, and the {scenario.student.head.name} head answers by those that are kept"


class MirOptions(Options):
    """Options of `mir`."""

    candidates: Annotated[int, Field(gt=0)] = 50
    """How many rows are drawn evenly from memory, of which those that the coming step would hurt most are replayed."""

    def problems(self, scenario: Scenario) -> Iterator[str]:
        """There must be something to choose from."""
        replayed = scenario.train.replay_batch_size or scenario.train.batch_size
        if scenario.memory.name == "none":
            yield "there is no memory to retrieve rows from"
        elif self.candidates <= replayed:
            yield (
                f"candidates: {self.candidates} candidates leave nothing to choose where {replayed} rows are replayed: "
                "take more, or replay fewer (train.replay_batch_size)"
            )


HOME = "clkd.memory"
GROUPED = (
    ("class_balanced", "class_balanced:ClassBalanced", "the same number of random rows of every class, drawn when an "
     "experience ends"),
    ("experience_balanced", "experience_balanced:ExperienceBalanced", "the same number of random rows of every "
     "experience, drawn when it ends"),
    ("domain_balanced", "domain_balanced:DomainBalanced", "the same number of random rows of every domain, drawn when "
     "an experience ends"),
)  # fmt: skip
OFFERED = (
    ("loss_aware", "loss_aware:LossAware", "a reservoir whose rows with a low loss are replaced first (Buzzega et al. "
     "2020)"),
    ("gss", "gss:GSS", "rows whose gradients point in different directions (GSS-Greedy, Aljundi et al. 2019)"),
)  # fmt: skip


@hookimpl
def clkd_register_memories(register: Register) -> None:
    """The memories that clkd ships."""
    register("none", f"{HOME}.base:Memory", config=Options, summary="keeps nothing")
    summary = "random rows of all experiences so far, drawn when one ends"
    register("random", f"{HOME}.random:Random", config=FilledOptions, summary=summary)
    for name, factory, summary in GROUPED:
        register(name, f"{HOME}.{factory}", config=GroupedOptions, summary=summary)
    summary = "of every class the rows whose mean feature is the class's (iCaRL)"
    register("herding", f"{HOME}.herding:Herding", config=HerdingOptions, summary=summary)
    for name, factory, summary in OFFERED:
        register(name, f"{HOME}.{factory}", config=OfferedOptions, summary=summary)
    summary = "an even sample of all rows seen so far, kept up row by row (Vitter 1985)"
    register("reservoir", f"{HOME}.reservoir:Reservoir", config=ReservoirOptions, summary=summary)
    summary = "the newest rows of every class, experience or domain: first in, first out"
    register("ring", f"{HOME}.ring:Ring", config=RingOptions, summary=summary)
    summary = "no rows, but a variational autoencoder that makes them up (deep generative replay, Shin et al. 2017)"
    register("generator", f"{HOME}.generator:Generator", config=GeneratorOptions, summary=summary)


@hookimpl
def clkd_register_retrievals(register: Register) -> None:
    """The ways to choose what is replayed that clkd ships, beside drawing evenly."""
    summary = "the rows that the coming step would hurt most (maximally interfered retrieval, Aljundi et al. 2019)"
    register("mir", f"{HOME}.mir:Mir", config=MirOptions, summary=summary)
