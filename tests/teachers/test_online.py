"""Targets that several students make together, against loops over rows; and what an ensemble with students may not."""

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
