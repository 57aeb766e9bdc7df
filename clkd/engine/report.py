"""What was transferred in an experience: who agrees with whom, what became right or wrong, which layers are alike."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from clkd.engine.agreement import Agreement, Answers, Tally, Verdict
from clkd.engine.alignment import alignment
from clkd.engine.batches import batches
from clkd.engine.parts import Parts
from clkd.errors import UserError
from clkd.experience import Experience
from clkd.ranks import ALONE, Ranks
from clkd.scenario.measures import ReportOptions
from clkd.signals import Batch, Needs, Signals

STUDENT_COUNTS = ("rows", "right", "gained", "lost")
TEACHER_COUNTS = (
    "rows",
    "agreed",
    "kl",
    "both_right",
    "only_student_right",
    "only_teacher_right",
    "neither_right",
    "gained_teacher_right",
    "gained_teacher_wrong",
    "gained_this_teacher_alone",
    "lost_teacher_right",
    "lost_teacher_wrong",
)


@dataclass(slots=True)
class Reporter:
    """Looks at the student before an experience, and at student and teachers after it, on test rows alone.

    Nothing that trains is touched: no random number is drawn that anybody else draws, and models are asked in eval mode
    and without gradient. What the student got right before is found anew whenever an experience is entered, so there is
    nothing to remember for a run that goes on.

    Attributes:
        class_names: one per global class id.
        task_labels: whether only the classes of a row's own experience compete, as in the accuracy that counts.
    """

    parts: Parts
    options: ReportOptions
    seed: int
    batch_size: int
    class_names: tuple[str, ...]
    task_labels: bool = False
    ranks: Ranks = ALONE
    _before: list[Tensor] | None = field(default=None, init=False)
    """What the student got right before the experience, batch by batch; None before the first."""

    def begin(self, experiences: Sequence[Experience]) -> None:
        """Before the student grows for the last of these experiences, which are all up to it."""
        self._before = None
        if experiences[-1].index > 0:
            with self.parts.aside(), closing(self._pass(experiences)) as looked:
                self._before = [right for *_, right in looked]

    def end(self, experiences: Sequence[Experience]) -> dict[str, Any]:
        """The report, as plain data: once the student is final, while teachers are still those that taught."""
        last = experiences[-1]
        with self.parts.aside():
            student, teachers, silent = self._compare(experiences)
            layers = alignment(self.parts, self.options, self._distinct(experiences), self.seed, self.ranks)
        old = () if self._before is None else last.old_classes
        told = {
            name: {"skipped": silent[name]} if name in silent else self._told(teachers[name], old)
            for name in self.parts.teachers
        }
        return {
            "experience": last.index,
            "name": last.name,
            "student": self._told(student, old),
            "teachers": told,
            "cka": layers,
        }

    # Going through the rows

    def _distinct(self, experiences: Sequence[Experience]) -> list[Experience]:
        """Those with test rows, each row once, as in the evaluation: with the first that it belongs to. Rows of a class
        without a number, which no row was trained on, are nobody's there."""
        found: list[Experience] = []
        counted: dict[tuple[object, ...], Tensor] = {}
        for each in experiences:
            rows, key = each.test, (each.test.x.data_ptr(), each.test.warp, self.task_labels and each.classes)
            before = counted.get(key, rows.index[:0])
            counted[key] = torch.cat([before, rows.index])
            if (fresh := ~torch.isin(rows.index, before) & (rows.y >= 0).to(before.device)).any():
                found.append(each if fresh.all() else replace(each, test=rows.select(fresh)))
        return found

    def _pass(self, experiences: Sequence[Experience]) -> Generator[tuple[Tensor | None, Batch, Signals, Tensor]]:
        """Of each batch of this rank's share: the classes that compete (None for all), its rows, what the student says
        of them, and where that is right."""
        device, student = self.parts.device, self.parts.student
        for experience in self._distinct(experiences):
            task = torch.tensor(experience.classes, device=device) if self.task_labels else None
            order = self.ranks.own(torch.arange(len(experience.test)))
            with closing(batches(experience.test.ready(device), order, self.batch_size, device)) as coming:
                for rows in coming:
                    batch = rows.seen_as(self.parts.augment.plain(rows.x))
                    said = student.signals(batch.x, Needs(), batch.domain)
                    yield task, batch, said, right(said, batch.y, task)

    # Counting

    def _compare(self, experiences: Sequence[Experience]) -> tuple[Tally, dict[str, Tally], dict[str, str]]:
        """The student's counts, those of each teacher, and why a teacher has none."""
        device, classes = self.parts.device, max(len(self.class_names), *(c + 1 for c in self.parts.student.class_ids))
        old = torch.tensor(experiences[-1].old_classes, dtype=torch.long, device=device)
        comparisons, silent = self._comparisons(classes)
        student = Tally(STUDENT_COUNTS, classes, device)
        tallies = {name: Tally(TEACHER_COUNTS, classes, device) for name in comparisons}
        with closing(self._pass(experiences)) as looked:
            for place, (task, batch, said, now) in enumerate(looked):
                before = None if self._before is None else self._before[place]
                answers = Answers.since(before, now, torch.isin(batch.y, old))
                verdicts = self._ask(comparisons, silent, batch, said, task)
                student.add(batch.y, of_student(answers))
                for name, verdict in verdicts.items():
                    others = [other for rival, other in verdicts.items() if rival != name]
                    tallies[name].add(batch.y, of_teacher(answers, verdict, others))
        for tally in (student, *tallies.values()):
            tally.sums = self.ranks.sum(tally.sums)
        for name, tally in tallies.items():
            if not tally.sums[0].any():
                silent.setdefault(name, "it says nothing of these rows")
        return student, tallies, silent

    def _comparisons(self, classes: int) -> tuple[dict[str, Agreement], dict[str, str]]:
        comparisons: dict[str, Agreement] = {}
        silent: dict[str, str] = {}
        for name, teacher in self.parts.teachers.items():
            if not teacher.ready:
                silent[name] = "it has nothing to say yet"
                continue
            try:
                comparisons[name] = Agreement(self.parts.student.spec(), teacher.spec(), classes, self.parts.device)
            except UserError as error:
                silent[name] = str(error)
        return comparisons, silent

    def _ask(
        self,
        comparisons: dict[str, Agreement],
        silent: dict[str, str],
        batch: Batch,
        said: Signals,
        task: Tensor | None,
    ) -> dict[str, Verdict]:
        """What each teacher makes of a batch; one that cannot say is `silent` from then on."""
        verdicts: dict[str, Verdict] = {}
        for name in [each for each in comparisons if each not in silent]:
            try:
                heard = self.parts.teachers[name].signals(batch, Needs())
                verdicts[name] = comparisons[name](batch, said, heard, task)
            except UserError as error:
                silent[name] = str(error)
        return verdicts

    def _told(self, tally: Tally, old: Sequence[int]) -> dict[str, Any]:
        """All counts in plain numbers, in all and of each class that has rows; `old` classes alone can flip."""
        told = [_entry(tally.names, column, c in old) for c, column in enumerate(tally.sums.T.tolist())]
        names = [*self.class_names, *(f"class {c}" for c in range(len(self.class_names), len(told)))]
        classes = {name: each for name, each in zip(names, told, strict=True) if each["rows"]}
        return {**_entry(tally.names, tally.sums.sum(1).tolist(), bool(old)), "classes": classes}


def _entry(names: Sequence[str], values: Sequence[float], flips: bool) -> dict[str, Any]:
    """Of shares the mean; nothing of flips where there can be none."""
    counted = dict(zip(names, values, strict=True))
    entry: dict[str, Any] = {name: int(count) for name, count in counted.items() if name not in ("agreed", "kl")}
    if "kl" in counted:
        rows = counted["rows"]
        shares = {"agreement": counted["agreed"], "kl": counted["kl"]}
        entry |= {name: value / rows if rows else None for name, value in shares.items()}
    return entry if flips else entry | {name: None for name in entry if name.startswith(("gained", "lost"))}


def right(said: Signals, y: Tensor, task: Tensor | None) -> Tensor:
    """`[B]` bool: where the student names the row's class, against all others or those of the row's task."""
    assert said.logits is not None, "logits were asked for"
    if said.logits.dim() != 2:
        raise UserError("report: the student's answers are dense, which a report does not compare: leave it out")
    logits = said.logits
    if task is not None:
        logits = logits.masked_fill(~torch.isin(said.class_ids, task), -torch.inf)
    return said.class_ids[logits.argmax(1)] == y


def of_student(answers: Answers) -> dict[str, Tensor]:
    """`STUDENT_COUNTS` of some rows, `[B]` each."""
    everyone = torch.ones_like(answers.right)
    return {"rows": everyone, "right": answers.right, "gained": answers.gained, "lost": answers.lost}


def of_teacher(answers: Answers, teacher: Verdict, others: Sequence[Verdict]) -> dict[str, Tensor]:
    """`TEACHER_COUNTS` of some rows, `[B]` each; `others` is what all other teachers that spoke make of them."""
    knows, fails = teacher.counts & teacher.right, teacher.counts & ~teacher.right
    another = torch.zeros_like(knows)
    for other in others:
        another = another | (other.counts & other.right)
    return {
        "rows": teacher.counts,
        "agreed": teacher.counts & teacher.agreed,
        "kl": teacher.kl.where(teacher.counts, 0.0),
        "both_right": answers.right & knows,
        "only_student_right": answers.right & fails,
        "only_teacher_right": ~answers.right & knows,
        "neither_right": ~answers.right & fails,
        "gained_teacher_right": answers.gained & knows,
        "gained_teacher_wrong": answers.gained & fails,
        "gained_this_teacher_alone": answers.gained & knows & ~another,
        "lost_teacher_right": answers.lost & knows,
        "lost_teacher_wrong": answers.lost & fails,
    }
