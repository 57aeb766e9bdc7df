"""What all losses between logits share: classes, tasks, rows, positions, and what is refused."""

from __future__ import annotations

import pytest
import torch

from clkd.errors import UserError
from clkd.losses.correlation import DIST
from clkd.losses.decoupled import DKD, NKD
from clkd.losses.multilevel import MLKD
from clkd.losses.pseudo_label import HardLabel
from clkd.losses.response import KD
from clkd.losses.virtual import VirtualTeacher
from clkd.plugins import load_plugins
from clkd.signals import Spec

LOSSES = {
    "kd": KD, "ce": lambda: KD(variant="ce"), "mse": lambda: KD(variant="mse"), "top_k": lambda: KD(top_k=2),
    "standardize": lambda: KD(standardize=True), "dkd": DKD, "nkd": NKD, "dist": DIST, "mlkd": MLKD, "hard": HardLabel,
}  # fmt: skip
every_loss = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


def labels(*shape: int, classes: int = 4) -> torch.Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(9))


@every_loss
def test_only_common_classes_count_matched_by_id(make, worth):
    a, b = Spec((4, 7, 9, 1, 0), (0, 0, 1, 1, 1)), Spec((9, 8, 4, 1, 7), (0,) * 5)
    z, v = logits(6, 5), logits(6, 5, seed=1)
    y = torch.tensor([9, 4, 1, 7, 4, 9])
    place = {9: 0, 4: 1, 1: 2, 7: 3}
    matched = worth(make(), z[:, [2, 0, 3, 1]], v[:, [0, 2, 3, 4]], [place[int(c)] for c in y])
    torch.testing.assert_close(worth(make(), z, v, y, a, b), matched)


@every_loss
def test_new_columns_of_the_student_get_no_gradient(make, worth):
    z = logits(6, 6).requires_grad_()
    worth(make(), z, logits(6, 4, seed=1), labels(6), Spec(tuple(range(6)), (0, 0, 0, 0, 1, 1))).mean().backward()
    assert not z.grad[:, 4:].any()
    assert z.grad[:, :4].any()


@pytest.mark.parametrize("make", [DKD, NKD])
def test_rows_whose_class_the_teacher_does_not_know_are_left_out_of_the_mean(make, worth):
    z, v = logits(6, 6), logits(6, 4, seed=1)
    y = torch.tensor([0, 5, 3, -1, 4, 1])
    here = torch.tensor([0, 2, 5])
    alone = worth(make(), z[here, :4], v[here], y[here]).mean()
    value = worth(make(), z, v, y, Spec(tuple(range(6)), (0, 0, 0, 0, 1, 1)))
    torch.testing.assert_close(value.mean(), alone)
    assert not value[[1, 3, 4]].any()
    assert worth(make(), z, v, torch.full((6,), -1)).mean() == 0
    stored = torch.tensor([False, False, True, True, True, True])
    value = worth(make(), z, v, y, valid=stored)
    torch.testing.assert_close(value.mean(), worth(make(), z[here[1:], :4], v[here[1:]], y[here[1:]]).mean())


@pytest.mark.parametrize("make", [DKD, NKD])
def test_a_row_that_does_not_know_its_own_label_is_left_out(make, worth):
    z, v, y = logits(3, 4), logits(3, 4, seed=1), torch.tensor([0, 1, 2])
    known = torch.tensor([[True, True, True, False], [True, False, True, True], [True, True, True, True]])
    value = worth(make(), z, v, y, known=known)
    rows = [worth(make(), z[i : i + 1, k], v[i : i + 1, k], [int(i)]) for i, k in ((0, [0, 1, 2]), (2, [0, 1, 2, 3]))]
    torch.testing.assert_close(value, torch.stack([rows[0][0], rows[0][0] * 0, rows[1][0]]) * 3 / 2)


@pytest.mark.parametrize("make", [DIST, MLKD, HardLabel, KD], ids=["dist", "mlkd", "hard", "kd"])
def test_rows_valid_is_the_loss_of_those_rows_alone(make, worth):
    z, v = logits(6, 4), logits(6, 4, seed=1)
    valid = torch.tensor([True, False, True, True, False, True])
    alone = worth(make(), z[valid], v[valid]).mean()
    torch.testing.assert_close(worth(make(rows="valid"), z, v, valid=valid).mean(), alone)
    assert worth(make(rows="valid"), z, v, valid=valid & False).mean() == 0


@pytest.mark.parametrize("name", ["kd", "ce", "mse", "top_k", "standardize", "dist", "mlkd", "hard"])
def test_a_row_that_knows_nothing_changes_nothing_for_others(name, worth):
    z, v = logits(6, 4), logits(6, 4, seed=1)
    known = torch.ones(6, 4, dtype=torch.bool)
    known[5] = False
    values = worth(LOSSES[name](), z, v, known=known)
    torch.testing.assert_close(values[:5], worth(LOSSES[name](), z[:5], v[:5]))
    if name not in ("dist", "mlkd"):  # where terms that belong to no row are part of each row's value
        assert values[5] == 0


@pytest.mark.parametrize(
    "make",
    [DIST, lambda: MLKD(classes=0), KD, HardLabel, lambda: KD(standardize=True)],
    ids=["dist", "mlkd", "kd", "hard", "standardize"],
)
def test_columns_that_no_row_knows_are_as_if_they_were_not_there(make, worth):
    """(The part of mlkd that is between classes is divided by all of them.)"""
    z, v = logits(6, 5), logits(6, 5, seed=1)
    known = torch.ones(6, 5, dtype=torch.bool)
    known[:, 3] = False
    cut = [0, 1, 2, 4]
    torch.testing.assert_close(worth(make(), z, v, known=known), worth(make(), z[:, cut], v[:, cut]))


def test_dist_relates_rows_only_by_columns_that_they_know(worth):
    z, v = logits(6, 4), logits(6, 4, seed=1)
    known = torch.ones(6, 4, dtype=torch.bool)
    known[:2, 3] = False
    p, q = (x.masked_fill(~known, -torch.inf).softmax(1) for x in (z, v))
    by_hand = [1 - torch.corrcoef(torch.stack([p[r, k], q[r, k]]))[0, 1] for k in range(4) for r in [known[:, k]]]
    value = worth(DIST(beta=0), z, v, known=known).mean()
    torch.testing.assert_close(value, torch.stack(by_hand).mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["dkd", "nkd", "dist", "mlkd", "hard", "kd"])
def test_students_that_are_told_their_task_compare_task_by_task(name, worth):
    a = Spec(tuple(range(7)), (0, 0, 0, 1, 1, 1, 1), task_aware=True)
    b = Spec((6, 5, 4, 3, 2, 1, 0), (0,) * 7)
    z, v, y = logits(5, 7), logits(5, 7, seed=1), torch.tensor([0, 4, 6, 2, 3])
    value = worth(LOSSES[name](), z, v, y, a, b).mean()
    first = z[:, :3], v.flip(1)[:, :3], torch.where(y < 3, y, -1)
    second = z[:, 3:], v.flip(1)[:, 3:], torch.where(y < 3, -1, y - 3)
    share = (2 / 5, 3 / 5) if name in ("dkd", "nkd") else (1, 1)  # rows by their own task, or every row for every task
    expected = sum(s * worth(LOSSES[name](), *part).mean() for s, part in zip(share, (first, second), strict=True))
    torch.testing.assert_close(value, expected)


LAYOUTS = {"map": ((3, 4, 5, 2), (3, 5, 2)), "text": ((3, 7, 4), (3, 7))}
DENSE = {name: LOSSES[name] for name in ("kd", "mse", "standardize", "top_k", "dist", "dkd", "nkd", "hard")}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", DENSE)
def test_dense_logits_are_the_loss_over_the_positions_that_are_not_ignored(name, layout, worth):
    shape, positions = LAYOUTS[layout]
    z, v, y = logits(*shape), logits(*shape, seed=1), labels(*positions)
    y[0, 1], y[1], y[2, -1] = -1, -1, -1  # a few positions, and a whole row
    dense = worth(DENSE[name](), z.requires_grad_(), v, y)
    assert dense.shape == (3,)
    dense.mean().backward()
    picked = (y >= 0).nonzero().tolist()  # [row, *position]
    column = [(i, slice(None), *at) if layout == "map" else (i, *at) for i, *at in picked]
    z_rows, v_rows = (torch.stack([x.detach()[at] for at in column]) for x in (z, v))
    y_rows = torch.stack([y[tuple(at)] for at in picked])
    torch.testing.assert_close(dense.mean(), worth(DENSE[name](), z_rows, v_rows, y_rows).mean())
    grad = z.grad.movedim(1, -1) if layout == "map" else z.grad
    assert not grad[y < 0].any()
    assert grad[y >= 0].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_of_rows_say_nothing_about_positions(layout, worth):
    shape, _ = LAYOUTS[layout]
    z, v = logits(*shape), logits(*shape, seed=1)
    rows = [x.movedim(1, -1).reshape(-1, 4) if layout == "map" else x.reshape(-1, 4) for x in (z, v)]
    for make, wanted in ((KD, worth(KD(), *rows)), (DIST, worth(DIST(), *rows))):
        torch.testing.assert_close(worth(make(), z, v, [-1, 0, 1]).mean(), wanted.mean())
    positions = len(rows[0]) // 3
    valid = torch.tensor([True, False, True])
    kept = valid.repeat_interleave(positions)
    torch.testing.assert_close(
        worth(KD(rows="valid"), z, v, [-1, 0, 1], valid=valid).mean(), worth(KD(), *(x[kept] for x in rows)).mean()
    )
    known = torch.tensor([[True, True, True, False]]).expand(3, 4)
    torch.testing.assert_close(worth(KD(), z, v, known=known).mean(), worth(KD(), *(x[:, :3] for x in rows)).mean())
    y = torch.tensor([3, 0, 2])
    torch.testing.assert_close(worth(DKD(), z, v, y).mean(), worth(DKD(), *rows, y.repeat_interleave(positions)).mean())


def test_dense_classes_are_matched_by_id(worth):
    z, v = logits(2, 4, 3, 3), logits(2, 3, 3, 3, seed=1)
    a, b = Spec((5, 6, 7, 8), (0, 0, 1, 1)), Spec((8, 5, 2), (0,) * 3)
    expected = worth(KD(), z[:, [3, 0]], v[:, :2])
    torch.testing.assert_close(worth(KD(), z, v, a=a, b=b), expected)


PAIR = Spec((3, 5, 8, 9), (0, 0, 1, 1)), Spec((3, 5), (0, 0))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: KD(standardize=True), "kd: .* ±0.7071"),
        (lambda: MLKD(standardize=True), "mlkd: .* ±0.7071"),
        (lambda: DKD(standardize=True), "dkd: .* ±0.7071"),
        (DKD, "dkd: .* a single one is left"),
        (NKD, "nkd: .* a single one is left"),
        (DIST, "dist: .* always 1 or -1"),
    ],
)
def test_what_two_classes_cannot_teach_is_refused_with_the_experience_and_the_remedy(make, why):
    with pytest.raises(UserError, match=why) as error:
        make().bind(*PAIR)
    assert "when experience 1 brings the classes [8, 9], student and teacher share [3, 5]" in str(error.value)
    assert "few_classes: kd" in str(error.value)


@pytest.mark.parametrize(
    ("make", "plain"),
    [
        (lambda: KD(standardize=True, variant="ce", few_classes="kd"), lambda: KD(variant="ce")),
        (lambda: MLKD(standardize=True, few_classes="kd"), lambda: KD(2.0)),
        (lambda: DIST(2.0, few_classes="kd"), lambda: KD(2.0)),
    ],
)
def test_few_classes_kd_is_plain_kd_where_there_are_two_and_itself_where_there_are_more(make, plain, worth):
    z, v = logits(6, 4), logits(6, 2, seed=1)
    torch.testing.assert_close(worth(make(), z, v, a=Spec((0, 1, 2, 3), (0, 0, 1, 1))), worth(plain(), z[:, :2], v))
    loss = make()
    loss.bind(*PAIR)
    z, v = logits(6, 4), logits(6, 4, seed=1)
    assert not torch.allclose(worth(loss, z, v), worth(plain(), z, v))


def test_dkd_on_two_classes_is_what_its_first_part_is(worth):
    z, v, y = logits(6, 2), logits(6, 2, seed=1), labels(6, classes=2)
    plain = worth(DKD(2.0, few_classes="kd"), z, v, y)
    torch.testing.assert_close(plain, worth(KD(2.0), z, v))


def test_tasks_of_two_classes_are_refused_even_beside_larger_ones():
    a = Spec(tuple(range(5)), (0, 0, 0, 1, 1), task_aware=True)
    with pytest.raises(UserError, match=r"in tasks of \[3, 2\]"):
        DKD().bind(a, Spec(tuple(range(5)), (0,) * 5))


@every_loss
def test_no_common_class_is_refused(make):
    with pytest.raises(UserError, match="no class in common"):
        make().bind(Spec((0, 1), (0, 0)), Spec((2, 3), (0, 0)))


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "mse"])
def test_a_single_common_class_is_refused(name):
    with pytest.raises(UserError, match="single class is always 1"):
        LOSSES[name]().bind(Spec((0, 1), (0, 1)), Spec((0,), (0,)))


def test_tfkd_competes_as_cross_entropy_does(one_sided):
    z, y = logits(3, 4), torch.tensor([0, 3, -1])
    aware = Spec((0, 1, 2, 3), (0, 0, 1, 1), task_aware=True)
    value = one_sided(VirtualTeacher(), z, y, aware)
    parts = [one_sided(VirtualTeacher(), z[:1, :2], [0]), one_sided(VirtualTeacher(), z[1:2, 2:], [1])]
    torch.testing.assert_close(value, torch.cat([*parts, torch.zeros(1)]).double() * 3 / 2)
    unseen = Spec((0, 1, 2, 3), (0, 0, 0, -1))
    torch.testing.assert_close(
        one_sided(VirtualTeacher(over="seen"), z[:1], [0], unseen), one_sided(VirtualTeacher(), z[:1, :3], [0])
    )
    torch.testing.assert_close(
        one_sided(VirtualTeacher(), z[:1], [0], unseen), one_sided(VirtualTeacher(over="all"), z[:1], [0], unseen)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "kd", "few_classes": "kd"}, "few_classes is about standardize"),
        ({"kind": "mlkd", "few_classes": "kd"}, "few_classes is about standardize"),
        ({"kind": "dkd", "temperature": -1}, "a temperature is greater than 0; got -1"),
        ({"kind": "dkd", "bta": 2}, "did you mean 'beta'"),
        ({"kind": "kd", "top_k": 0}, "give more than 0; got 0"),
        ({"kind": "mlkd", "temperatures": []}, "at least 1"),
        ({"kind": "tfkd", "correct": 1}, "less than 1"),
        ("dkdd", "did you mean 'dkd'"),
        ("DIST", "did you mean 'dist'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(given, message):
    with pytest.raises(ValueError, match=message):
        load_plugins().registry.parse("losses", given)


@pytest.mark.parametrize("dense", [False, True], ids=["rows", "dense"])
@pytest.mark.parametrize("make", [*LOSSES.values(), lambda: DIST(rows="valid")], ids=[*LOSSES, "valid"])
def test_forward_never_waits_for_the_device(make, dense, worth, monkeypatch):
    shape = (3, 4, 2, 5) if dense else (6, 4)
    z, v, y = logits(*shape), logits(*shape, seed=1), labels(shape[0], *shape[2:])
    known = torch.ones(shape[0], 4, dtype=torch.bool)
    loss = make()
    worth(loss, z, v, y, valid=known[:, 0], known=known)
    monkeypatch.setattr(loss, "bind", lambda a, b: None)  # which may wait, and has been called
    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, _name=name: pytest.fail(f"{_name} waits"))
    assert worth(loss, z, v, y, valid=known[:, 0], known=known).shape == (shape[0],)
