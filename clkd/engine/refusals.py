"""Parts that are each right but do not go together: what only shows once all of them are made."""

from __future__ import annotations

from collections.abc import Sequence

from clkd.engine.parts import Parts
from clkd.engine.term import STUDENT
from clkd.errors import UserError
from clkd.memory.base import Memory
from clkd.memory.retrieval import Retrieval
from clkd.models.slda import StreamingLDA
from clkd.scenario.phase import PhaseOptions
from clkd.signals import Needs
from clkd.streams.base import Stream
from clkd.teachers.stored import Stored
from clkd.transfer.base import Transfer
from clkd.transfer.batch_norm import AdaBN, layers
from clkd.transfer.domains import LOGITS, Between
from clkd.transfer.fusion import Interpolate, misnamed
from clkd.transfer.several import Several


def refuse(parts: Parts, stream: Stream) -> None:
    """Raises `UserError` for the first thing that cannot work, before anything is trained."""
    refuse_mixed(parts)
    refuse_lost_views(parts)
    refuse_fixed_views(parts)
    refuse_apart(parts)
    refuse_gaps(parts, stream)
    refuse_unstored(parts)
    refuse_further_views(parts)
    refuse_across_tasks(parts)
    refuse_misnamed(parts)
    refuse_still(parts)
    refuse_unjudged(parts)


def refuse_phases(parts: Parts, phases: Sequence[PhaseOptions]) -> None:
    """A phase needs a loss about rows, and one about logits where it trains the head alone."""
    for place, phase in enumerate(phases):
        if not phase.losses:
            continue
        losses = [term.loss for term in parts.terms if term.name in phase.losses and not term.loss.regularises]
        if not losses:
            raise UserError(f"phases.{place}.losses: holding parameters teaches nothing: name a loss about rows, too")
        still = parts.student.head.settled(phase.from_experience)
        if (phase.trains != "all" or still) and not any(loss.reads(0).logits for loss in losses):
            why = "the backbone stands still" if still else f"trains: {phase.trains} trains what makes these alone"
            raise UserError(
                f"phases.{place}.losses: none of them reads logits, and {why}: name one that does, such as "
                "cross_entropy"
            )


def refuse_mixing(parts: Parts) -> None:
    """Memory that is mixed into an experience's rows must stay as it is while they are trained on."""
    memory, kind = parts.memory, type(parts.memory)
    if kind is Memory:
        raise UserError("train.mix_memory: memory is none, so there is nothing to mix in: declare a memory")
    if memory.invents or kind.observe is not Memory.observe or kind.learn is not Memory.learn:
        raise UserError(
            f"train.mix_memory: {kind.__name__} changes within an experience, and an epoch goes over what there was at "
            "its begin: use a memory that is filled at the end, such as herding or class_balanced"
        )
    if type(parts.retrieval) is not Retrieval:
        raise UserError("train.mix_memory: all that is kept comes once an epoch: leave out memory.retrieval")


def refuse_mixed(parts: Parts) -> None:
    """A mixed row is of two classes, and perhaps of two domains: who takes it for a row of one is not asked."""
    if parts.augment.mix is None:
        return
    for place, term in enumerate(parts.terms):
        if term.loss.reads_labels and not term.loss.reads_mixed:
            raise UserError(
                f"losses.{place}: {term.name} reads one label of a row, and a mixed row has two: use cross_entropy or "
                "a loss between student and teacher about all rows, or leave out stream.augment.mix"
            )
    if parts.memory.needs or (parts.memory.stores and parts.augment.mix.rows == "all"):
        raise UserError(
            f"memory: {type(parts.memory).__name__} goes by what the student says of single rows, and here it sees "
            "them mixed: leave out stream.augment.mix, or use a memory that goes by labels and stores nothing (with "
            "stream.augment.mix.rows: new, one that is filled when an experience ends may store)"
        )
    if parts.transfer.reads() != Needs(logits=False):
        raise UserError(
            f"transfer: {type(parts.transfer).__name__} compares rows of one domain with those of another, and a mixed "
            "row may be of both: leave out stream.augment.mix"
        )
    if parts.student.hear is not None and parts.augment.mix.rows == "all":
        raise UserError(
            "transfer: dsbn keeps statistics of each domain, and rows of memory that are mixed may be of two: set "
            "stream.augment.mix.rows: new, or leave one of the two out"
        )
    if parts.own_views:
        raise UserError(
            f"peers.{parts.own_views[0]}.own_view: rows that are mixed have one view for all, whose labels they share: "
            "leave it at false, or leave out stream.augment.mix"
        )


def refuse_lost_views(parts: Parts) -> None:
    """What was said about a row is about one view of it, so a memory that stores it must be able to show that again."""
    if not parts.memory.stores:
        return
    if parts.augment.strengthens:
        raise UserError(
            "memory.store: what the student said belongs to the view it saw, and a strong view is drawn anew each "
            "time: leave out stream.augment.strong (or set its rows to none), or store nothing"
        )
    if parts.augment.views is None:
        raise UserError(
            "memory.store: what the student said belongs to the view it saw, and here every view is drawn anew: give "
            "rows fixed views, which are replayed with it (stream.augment: {…, views: 1}), or set stream.augment: none"
        )


def refuse_apart(parts: Parts) -> None:
    """A gradient policy looks at new and replayed rows apart, and some memories at both together."""
    if parts.gradient is not None and parts.peers:
        raise UserError("train.gradient: a gradient policy projects the student's gradient alone: leave out peers")
    if parts.gradient is not None and parts.memory.compares:
        raise UserError(
            f"train.gradient: {type(parts.memory).__name__} chooses rows by comparing new ones with those replayed "
            "beside them, and a gradient policy looks at both apart: use another memory, such as class_balanced"
        )


def refuse_unstored(parts: Parts) -> None:
    """What a loss compares with what the memory stored, the memory has to store."""
    for place, term in enumerate(parts.terms):
        if term.teacher and isinstance(parts.teachers.get(term.teacher), Stored):
            needs = term.needs(term.teacher)
            read = (*(("logits",) if needs.logits else ()), *needs.features)
            missing = [name for name in read if name not in parts.memory.stores]
            if missing:
                raise UserError(
                    f"losses.{place}: {term.name} compares with '{missing[0]}' of what the memory stored, which stores "
                    f"{', '.join(parts.memory.stores) or 'nothing'}: add it to memory.store"
                )


def refuse_fixed_views(parts: Parts) -> None:
    """A peer cannot see a random view of its own where there are none."""
    if parts.own_views and parts.augment.views is not None:
        raise UserError(
            f"peers.{parts.own_views[0]}.own_view: a view of its own is a random one, and here each row comes in fixed "
            "views (or is not augmented at all): leave it at false, or let stream.augment crop or flip at random"
        )


def refuse_further_views(parts: Parts) -> None:
    """A loss that wants further views of rows gets them where a row is one row, and one pass is about all of them."""
    asking = [f"losses.{place}: {term.name}" for place, term in enumerate(parts.terms) if term.loss.views > 1]
    if not asking and parts.augment.strong and not parts.augment.strengthens:
        raise UserError(
            "stream.augment.strong: with rows: none only further views are strong, and no loss asks for any: add one "
            "that does, such as supcon, or leave it out"
        )
    if asking and parts.augment.mix:
        raise UserError(
            f"{asking[0]} compares views of one row, and mixed rows are of two: leave out stream.augment.mix"
        )
    if asking and parts.gradient is not None:
        raise UserError(
            f"{asking[0]} compares views of all rows, and a gradient policy looks at new and replayed ones apart: set "
            "its views to 1, or leave out train.gradient"
        )


def refuse_across_tasks(parts: Parts) -> None:
    """Answers among one task's classes and among another's have nothing in common that could be brought together."""
    if not parts.student.task_aware:
        return
    for strategy in _strategies(parts):
        if isinstance(strategy, Between) and LOGITS in strategy.layers and strategy.target != "unlabelled":
            raise UserError(
                f"transfer: {type(strategy).__name__} compares logits of new rows with those of replayed ones, and this"
                " head answers each among its own task's classes: set target: unlabelled, or compare features alone, as"
                " mmd and dann do, and dan and jan with layers: [penultimate]"
            )


def refuse_misnamed(parts: Parts) -> None:
    """A share of a layer that there is not would be no share at all."""
    for strategy in _strategies(parts):
        if isinstance(strategy, Interpolate) and (mistake := misnamed(parts.student, strategy.previous)):
            raise UserError(f"transfer: interpolate: previous: {mistake}")


def refuse_still(parts: Parts) -> None:
    """What a head gathered is about one backbone: statistics that move under it would make it stale."""
    if not isinstance(parts.student.head, StreamingLDA) or not layers(parts.student):
        return
    for strategy in _strategies(parts):
        if isinstance(strategy, AdaBN):
            raise UserError(
                "transfer: adabn gives batch norm the newest domain's statistics, and the head slda answers by what it "
                "gathered of a backbone that stands still: use another head, such as ncm"
            )


def refuse_unjudged(parts: Parts) -> None:
    """A share of the weights is chosen by what the student answers, which one loss decides only afterwards."""
    chooses = any(isinstance(each, Interpolate) and each.previous == "validation" for each in _strategies(parts))
    for place, term in enumerate(parts.terms):
        if chooses and term.loss.writes_head and term.a.model == STUDENT:
            raise UserError(
                f"losses.{place}: {term.name} writes the head when an experience ends, and transfer: interpolate "
                "chooses before that by what the head answers: give `previous` a number"
            )


def _strategies(parts: Parts) -> list[Transfer]:
    return parts.transfer.each() if isinstance(parts.transfer, Several) else [parts.transfer]


def refuse_gaps(parts: Parts, stream: Stream) -> None:
    """A loss that knows nothing of the columns a row did not know would take the zeros in them for answers."""
    grows = any(experience.new_classes for experience in stream[1:])
    for place, term in enumerate(parts.terms):
        teacher = parts.teachers.get(term.teacher or "")
        gaps = teacher is not None and (teacher.partial == "always" or (teacher.partial and grows))
        if gaps and term.loss.reads(1).logits and not term.loss.reads_known:
            raise UserError(
                f"losses.{place}: {term.name} compares all columns of '{term.teacher}', but its rows know only some of "
                "them (the classes of their own time, or those that their teachers share): use kd, or leave out what "
                "`known` of the signals says and set reads_known = True in the loss"
            )
