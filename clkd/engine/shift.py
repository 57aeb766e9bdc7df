"""How domains lie to each other in the student's layers, and whether what comes in is of a known one."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from clkd.engine.parts import Parts
from clkd.errors import UserError
from clkd.experience import Experience, Rows
from clkd.metrics.base import Record
from clkd.metrics.domains import GainNewDomain, LossOldDomains
from clkd.metrics.shift import FOLDS, Layers, a_distance, drift, kernel, mmd
from clkd.scenario.measures import ShiftOptions
from clkd.seeding import generator
from clkd.signals import Needs

log = logging.getLogger("clkd.engine")
INPUT = "input"
"""The layer that is no tap: the normalised rows themselves."""


def request_shift(parts: Parts, options: ShiftOptions) -> None:
    """Bind what will be tapped. Raises `UserError` if the student has no such layer."""
    try:
        parts.student.request(_taps(options))
    except UserError as error:
        raise UserError(f"shift.layers: {error}") from error


def _taps(options: ShiftOptions) -> tuple[str, ...]:
    return tuple(name for name in options.layers if name != INPUT)


@dataclass(slots=True)
class ShiftWatch:
    """Looks at rows of domains before and after each experience; changes nothing that trains.

    What was seen before is found anew whenever an experience is entered, so there is nothing to remember for a run that
    goes on.
    """

    parts: Parts
    options: ShiftOptions
    seed: int
    _before: dict[str, Any] | None = field(default=None, init=False)

    def begin(self, experiences: Sequence[Experience]) -> dict[str, Any] | None:
        """Before the last of these experiences, which are all up to it, is trained.

        Returns what the monitor says of its rows, as plain data; None where there is nothing to compare them with.
        """
        *past, new = experiences
        with self.parts.aside():
            known = {
                domain: self._features(rows, new.index, domain, named=False) for domain, rows in _domains(past).items()
            }
            known = {domain: layers for domain, layers in known.items() if layers}
            incoming = self._features([new.train], new.index, "incoming", named=False) if known else {}
            self._before = {"drift": None, "distances": self._distances(experiences)}
            self._tell_unseen(past, new, known if incoming else {})
        if known and incoming:
            draws = generator(self.seed, "drift", new.index)
            found = drift(incoming, known, self.options.false_alarms, self.options.permutations, draws)
            self._before["drift"] = said = found._asdict()
            if found.alarm:
                log.warning(
                    "experience %d (%s): its rows are of no known domain (nearest: domain %d, p = %.3g; of rows of a "
                    "known domain this is said with a probability of %g at most)",
                    new.index, new.name, found.nearest, found.p, self.options.false_alarms,
                )  # fmt: skip
            return said
        return None

    def _tell_unseen(self, past: Sequence[Experience], new: Experience, known: Collection[int]) -> None:
        """An alarm is about the domains that were looked at: of others, no or too few test rows are left."""
        unseen = sorted({each.train.domain for each in past} - set(known))
        if unseen:
            log.warning(
                "shift: experience %d (%s) is not compared with domain %s: of one of them there are fewer than %d rows",
                new.index, new.name, ", ".join(map(str, unseen)), FOLDS,
            )  # fmt: skip

    def end(self, experiences: Sequence[Experience]) -> dict[str, Any]:
        """What was found, as plain data. In the first experience there is nothing to compare."""
        assert self._before is not None, "asked before training, too"
        new = experiences[-1]
        with self.parts.aside():
            after = self._distances(experiences)
        return {
            "experience": new.index,
            "name": new.name,
            "domain": new.train.domain,
            "false_alarms": self.options.false_alarms,
            "drift": self._before["drift"],
            "before": self._before["distances"],
            "after": after,
        }

    def _distances(self, experiences: Sequence[Experience]) -> dict[str, dict[str, dict[int, float]]]:
        """Of each layer the A-distance and the MMD of the new domain from each other one, on test rows.

        Where both have the same pictures, no picture is in both samples.
        """
        new = experiences[-1]
        others = {domain: rows for domain, rows in _domains(experiences).items() if domain != new.test.domain}
        mine = self._features(_domains(experiences)[new.test.domain], new.index, "own", half=0) if others else {}
        told: dict[str, dict[str, dict[int, float]]] = {name: {"a_distance": {}, "mmd": {}} for name in mine}
        for domain, rows in others.items():
            theirs = self._features(rows, new.index, "other", half=1)
            for name, features in theirs.items() if mine else ():
                draws = generator(self.seed, "a_distance", new.index, domain, name)
                told[name]["a_distance"][domain] = a_distance(mine[name], features, draws)
                told[name]["mmd"][domain] = mmd(kernel(torch.cat([mine[name], features])), len(mine[name]))
        return told

    def _features(
        self, rows: Sequence[Rows], index: int, purpose: str | int, half: int | None = None, named: bool = True
    ) -> Layers:
        """Of each layer at most `options.rows` of the rows, `[n, D]` on the CPU; none where there are too few.

        The student is told their domain if it is `named`. Where that is the question, it is not: rows of a known domain
        that come under a new name have to look as those do.
        """
        found: dict[str, list[Tensor]] = {name: [] for name in self.options.layers}
        needs = Needs(logits=False, features=_taps(self.options))
        for place, each in enumerate(rows):
            at = self._drawn(each, -(-self.options.rows // len(rows)), half, (index, purpose, place))
            batch = each.gather(at.to(each.index.device), self.parts.device)
            x, domain = self.parts.augment.plain(batch.x), batch.domain if named else None
            said = self.parts.student.signals(x, needs, domain).features if needs.features else {}
            for name, parts in found.items():
                parts.append((x if name == INPUT else said[name]).flatten(1).double().cpu())
        whole = {name: torch.cat(parts) for name, parts in found.items()}
        return whole if all(len(each) >= FOLDS for each in whole.values()) else {}

    def _drawn(self, rows: Rows, count: int, half: int | None, purpose: tuple[str | int, ...]) -> Tensor:
        """Positions of so many rows. Each sample id falls into one half, the same in every domain."""
        sample_id = rows.sample_id.cpu()
        at = torch.arange(len(rows))
        if half is not None and len(rows):
            coin = torch.rand(int(sample_id.max()) + 1, generator=generator(self.seed, "shift halves")) < 0.5
            at = at[coin[sample_id] == bool(half)]
        return at[torch.randperm(len(at), generator=generator(self.seed, "shift", *purpose))[:count]].sort().values


def told(shift: dict[str, Any], record: Record, experiences: Sequence[Experience]) -> dict[str, Any]:
    """What was found, with what became of accuracy: on each domain so far, and what was gained and lost by training.

    Args:
        shift: what `ShiftWatch.end` gave.
        record: evaluated after it.
        experiences: all up to it.
    """
    latest = {experience.test.domain: experience.index for experience in experiences}
    row = record.matrix[experiences[-1].index]
    return {
        **shift,
        "accuracy": {domain: row[place] for domain, place in latest.items()},
        "gain_new_domain": GainNewDomain()(record),
        "loss_old_domains": LossOldDomains(tuple(experiences))(record),
    }


def _domains(experiences: Sequence[Experience]) -> dict[int, list[Rows]]:
    """The test rows of each domain, those of every experience once."""
    found: dict[int, dict[tuple[object, ...], Rows]] = {}
    for each in experiences:
        if len(each.test):
            rows = each.test
            found.setdefault(rows.domain, {})[rows.sample_id.cpu().numpy().tobytes(), each.train.warp] = rows
    return {domain: list(rows.values()) for domain, rows in found.items()}
