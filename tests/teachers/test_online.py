"""Targets that several students make together, against loops over rows; and what an ensemble with students may not."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from clkd.signals import Batch, Needs, Signals, Spec
from clkd.teachers.ensemble import Ensemble
from clkd.teachers.member import Member


class Speaks(nn.Module):
    def __init__(self, class_ids: tuple[int, ...]) -> None:
        super().__init__()
        self.class_ids = class_ids

    def spec(self, feature: str | None = None) -> Spec:
        return Spec(self.class_ids, (0,) * len(self.class_ids))


def members(rows: Batch, *said: tuple[torch.Tensor, tuple[int, ...]]) -> dict[str, Member]:
    made = {}
    for i, (logits, class_ids) in enumerate(said):
        made[f"m{i}"] = Member(Speaks(class_ids))
        made[f"m{i}"].hear(rows, Signals(logits, torch.tensor(class_ids)))
    return made


def batch(y: list[int]) -> Batch:
    rows = torch.tensor(y)
    return Batch(rows.float(), rows, rows, rows, rows, new=len(y))


LABELS = [3, 0, -1, 5, 9]
COLUMNS = (5, 3, 0)
"""Of the second member; the first has them in another order, and one class more."""


def target(by: str) -> tuple[Signals, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    a, b = 3 * torch.randn(5, 4, generator=draw), 3 * torch.randn(5, 3, generator=draw)
    rows = batch(LABELS)
    made = members(rows, (a, (0, 7, 3, 5)), (b, COLUMNS))
    ensemble = Ensemble(tuple(made), made, mean="logits", by=by)
    said = ensemble.signals(rows, Needs())
    order = [COLUMNS.index(c) for c in said.class_ids.tolist()]
    return said, a[:, [0, 2, 3]], b[:, order]


def test_of_each_class_the_least_beside_the_label() -> None:
    said, a, b = target("min_logit")
    assert said.class_ids.tolist() == [0, 3, 5]
    for row, y in enumerate(LABELS):
        if y in (0, 3, 5):
            at = [0, 3, 5].index(y)
            expected = torch.minimum(a[row] - a[row, at], b[row] - b[row, at])
            assert said.logits[row, at] == 0
        else:
            expected = (a[row] + b[row]) / 2
        torch.testing.assert_close(said.logits[row], expected)
    assert said.valid.tolist() == [True, True, False, True, False]


def test_the_one_with_the_least_loss() -> None:
    said, a, b = target("least_loss")
    chosen = set()
    for row, y in enumerate(LABELS):
        if y in (0, 3, 5):
            at = torch.tensor([(0, 3, 5).index(y)])
            losses = [nn.functional.cross_entropy(z[row : row + 1], at) for z in (a, b)]
            chosen.add(int(losses[1] < losses[0]))
            expected = (a, b)[int(losses[1] < losses[0])][row]
        else:
            expected = (a[row] + b[row]) / 2
        torch.testing.assert_close(said.logits[row], expected)
    assert chosen == {0, 1}, "the rows here tell both apart"


def test_of_another_batch_the_student_itself_is_asked() -> None:
    """As a report does, between two experiences: no answer of the last step is taken for one about these rows."""
    rows, others = batch(LABELS), batch(LABELS)
    (made,) = members(rows, (torch.zeros(5, 1), (3,))).values()
    made.student.signals = lambda x, needs, domain: Signals(x[:, None] + 1, torch.tensor([3]))
    assert not made.signals(rows, Needs()).logits.any()
    assert torch.equal(made.signals(others, Needs()).logits, others.x[:, None] + 1)


def test_what_a_member_repeats_carries_no_gradient() -> None:
    rows, logits = batch([0]), torch.zeros(1, 2, requires_grad=True)
    (member,) = members(rows, (logits, (0, 1))).values()
    said = member.signals(rows, Needs())
    assert said.logits is not None
    assert not said.logits.requires_grad


TASKS = {0: 0, 7: 0, 3: 1, 5: 1}
"""Of four classes the task that brought each."""


@pytest.mark.parametrize("by", ["weight", "entropy", "class", "least_loss", "min_logit"])
@pytest.mark.parametrize("mean", ["probabilities", "logits"])
def test_a_student_that_is_told_the_task_hears_of_each_as_if_there_were_no_other(by: str, mean: str) -> None:
    draw = torch.Generator().manual_seed(1)
    logits = {classes: 3 * torch.randn(5, 4, generator=draw) for classes in ((0, 7, 3, 5), (5, 3, 7, 0))}
    rows = batch(LABELS)

    def speak(only: set[int], student: SimpleNamespace) -> Signals:
        """Members that know some of their classes alone."""
        told = [
            (said[:, [at for at, c in enumerate(classes) if c in only]], tuple(c for c in classes if c in only))
            for classes, said in logits.items()
        ]
        made = members(rows, *told)
        ensemble = Ensemble(tuple(made), made, mean=mean, by=by, weights=(1.0, 2.0))
        ensemble.begin(SimpleNamespace(), student)
        return ensemble.signals(rows, Needs())

    student = SimpleNamespace(class_ids=tuple(TASKS), born=tuple(TASKS.values()), task_aware=True)
    plain = SimpleNamespace(task_aware=False)
    whole = speak(set(TASKS), student)
    assert whole.class_ids.tolist() == [0, 7, 3, 5]
    for task, columns in ((0, slice(0, 2)), (1, slice(2, 4))):
        alone = speak({c for c, t in TASKS.items() if t == task}, plain)
        # by class, members that know less speak of fewer rows
        same = [by != "class" or TASKS.get(y, task) == task for y in LABELS]
        assert torch.equal(whole.logits[same, columns], alone.logits[same])
    if by == "entropy" or mean == "probabilities":
        assert not torch.allclose(whole.logits, speak(set(TASKS), plain).logits)
