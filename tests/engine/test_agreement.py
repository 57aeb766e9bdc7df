"""Every count equals what going through the rows one by one gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from clkd.engine.agreement import Agreement, Answers, Tally, Verdict
from clkd.engine.report import STUDENT_COUNTS, TEACHER_COUNTS, of_student, of_teacher
from clkd.errors import UserError
from clkd.signals import Batch, Signals, Spec

STUDENT = Spec(class_ids=(4, 0, 2, 7, 5), born=(0, 0, 1, 1, -1))
"""Class 5 has a column, but has not come yet."""
TEACHER = Spec(class_ids=(2, 9, 4, 5, 7), born=(0, 0, 0, 0, 0))
SHARED = (2, 4, 7)
CPU = torch.device("cpu")


def batch(y: Tensor) -> Batch:
    i = torch.arange(len(y))
    return Batch(x=i, y=y, sample_id=i, domain=i, experience=i, new=len(y))


def signals(spec: Spec, rows: int, seed: int, **more: Tensor) -> Signals:
    logits = torch.randn(rows, len(spec.class_ids), generator=torch.Generator().manual_seed(seed))
    return Signals(logits, torch.tensor(spec.class_ids), **more)


def by_hand(y: Tensor, said: Signals, heard: Signals, task: tuple[int, ...] | None) -> list[tuple[bool, ...]]:
    """`counts, agreed, right` and KL of each row, with dictionaries."""
    found = []
    for i, label in enumerate(y.tolist()):
        z = dict(zip(said.class_ids.tolist(), said.logits[i].tolist(), strict=True))
        v = dict(zip(heard.class_ids.tolist(), heard.logits[i].tolist(), strict=True))
        place = {c: k for k, c in enumerate(heard.class_ids.tolist())}
        known = [c for c in SHARED if heard.known is None or heard.known[i, place[c]]]
        known = [c for c in known if task is None or c in task]
        valid = heard.valid is None or bool(heard.valid[i])
        counts = label in known and len(known) > 1 and valid
        if not counts:
            found.append((False, False, False, 0.0))
            continue
        ours, theirs = (max(known, key=x.__getitem__) for x in (z, v))
        p, q = ([math.exp(x[c]) / sum(math.exp(x[k]) for k in known) for c in known] for x in (z, v))
        kl = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
        found.append((True, ours == theirs, theirs == label, kl))
    return found


def dice(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.7


@pytest.mark.parametrize("known", [None, dice(200, 5, seed=3)])
@pytest.mark.parametrize("valid", [None, dice(200, seed=4)])
@pytest.mark.parametrize("task", [None, (7, 4, 0)])
def test_a_verdict_is_what_dictionaries_say(
    known: Tensor | None, valid: Tensor | None, task: tuple[int, ...] | None
) -> None:
    y = torch.tensor([0, 2, 4, 7])[torch.randint(4, (200,), generator=torch.Generator().manual_seed(5))]
    said, heard = signals(STUDENT, 200, 1), signals(TEACHER, 200, 2, known=known, valid=valid)
    verdict = Agreement(STUDENT, TEACHER, 10, CPU)(batch(y), said, heard, task and torch.tensor(task))
    for i, (counts, agreed, right, kl) in enumerate(by_hand(y, said, heard, task)):
        assert verdict.counts[i] == counts
        if counts:
            assert (verdict.agreed[i], verdict.right[i]) == (agreed, right)
            assert verdict.kl[i].item() == pytest.approx(kl, abs=1e-6)


@pytest.mark.parametrize(
    ("classes", "said"), [((9, 5), "no class"), ((9, 2), "only class 2"), ((5, 4), "only class 4")]
)
def test_with_fewer_than_two_classes_in_common_there_is_nothing_to_compare(classes: tuple[int, ...], said: str) -> None:
    with pytest.raises(UserError, match=f"it shares {said} with the student"):
        Agreement(STUDENT, Spec(classes, (0,) * len(classes)), 10, CPU)


@pytest.mark.parametrize("logits", [None, torch.zeros(3, 5, 2, 2), torch.zeros(3, 7, 5)])
def test_dense_answers_are_refused(logits: Tensor | None) -> None:
    heard = Signals(logits, torch.tensor(TEACHER.class_ids))
    with pytest.raises(UserError, match="dense"):
        Agreement(STUDENT, TEACHER, 10, CPU)(batch(torch.tensor([2, 4, 7])), signals(STUDENT, 3, 0), heard)


def verdicts(rows: int, seed: int) -> Verdict:
    flags = [dice(rows, seed=seed + i) for i in range(3)]
    return Verdict(*flags, torch.rand(rows, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("first", [True, False])
def test_flips_are_counted_as_one_by_one(first: bool) -> None:
    y = torch.randint(3, (300,), generator=torch.Generator().manual_seed(0))
    before, now = (None if first else dice(300, seed=1)), dice(300, seed=2)
    one, other = verdicts(300, 10), verdicts(300, 20)
    tally = Tally(TEACHER_COUNTS, 3, CPU)
    student = Tally(STUDENT_COUNTS, 3, CPU)
    for cut in (slice(0, 100), slice(100, 300)):
        parts = [
            Verdict(*(getattr(v, name)[cut] for name in ("counts", "agreed", "right", "kl"))) for v in (one, other)
        ]
        earlier = None if before is None else before[cut]
        answers = Answers.since(earlier, now[cut], y[cut] < 2)
        tally.add(y[cut], of_teacher(answers, parts[0], parts[1:]))
        student.add(y[cut], of_student(answers))
    wanted = {name: [0.0] * 3 for name in (*TEACHER_COUNTS, *(f"student {name}" for name in STUDENT_COUNTS))}
    for i, c in enumerate(y.tolist()):
        was, is_ = bool(now[i] if before is None or c == 2 else before[i]), bool(now[i])
        teacher, rival = bool(one.right[i]), bool(other.right[i] and other.counts[i])
        flip = {(False, True): "gained", (True, False): "lost"}.get((was, is_))
        for name in ["rows", *(["right"] if is_ else []), *([flip] if flip else [])]:
            wanted[f"student {name}"][c] += 1
        if not one.counts[i]:
            continue
        corner = {
            (1, 1): "both_right",
            (1, 0): "only_student_right",
            (0, 1): "only_teacher_right",
            (0, 0): "neither_right",
        }
        names = ["rows", corner[is_, teacher], *(["agreed"] if one.agreed[i] else [])]
        if flip:
            names.append(f"{flip}_teacher_{'right' if teacher else 'wrong'}")
        if flip == "gained" and teacher and not rival:
            names.append("gained_this_teacher_alone")
        for name in names:
            wanted[name][c] += 1
        wanted["kl"][c] += one.kl[i].item()
    for place, name in enumerate(TEACHER_COUNTS):
        assert tally.sums[place].tolist() == pytest.approx(wanted[name]), name
    for place, name in enumerate(STUDENT_COUNTS):
        assert student.sums[place].tolist() == wanted[f"student {name}"], name
