from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from clkd.errors import UserError
from clkd.losses import KDOptions
from clkd.losses.response import KD, kd_rows
from clkd.schedules.base import Progress
from clkd.schedules.warmup import Warmup
from clkd.signals import Batch, Signals, Spec

ROWS = 6


def batch(rows: int = ROWS) -> Batch:
    i = torch.arange(rows)
    return Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=rows)


def logits(columns: int, seed: int, rows: int = ROWS) -> torch.Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3


def value(a: Spec, b: Spec, z: torch.Tensor, v: torch.Tensor, valid: torch.Tensor | None = None, **options):
    loss = KD(**options)
    loss.bind(a, b)
    said = Signals(z, torch.tensor(a.class_ids)), Signals(v, torch.tensor(b.class_ids), valid=valid)
    return loss(batch(len(z)), *said)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def reference(z, v, temperature: float, variant: str, t2: bool) -> np.ndarray:
    """The definition, in probabilities rather than in log space."""
    z, v = np.asarray(z), np.asarray(v)
    if variant == "mse":
        return ((z - v) ** 2).mean(1)
    p, q = softmax(z / temperature), softmax(v / temperature)
    rows = (q * np.log(q / p)).sum(1) if variant == "kl" else -(q * np.log(p)).sum(1)
    return rows * temperature**2 if t2 else rows


@pytest.mark.parametrize("variant", ["kl", "mse"])
def test_the_newest_classes_may_be_compared_alone(variant):
    """Of those that both sides know: columns that came last, and none that is yet to come."""
    a = Spec((4, 2, 7, 1, 9), (0, 1, 0, 1, -1))
    b = Spec((1, 4, 2, 9), (1, 0, 1, -1))
    z, v = logits(5, 0), logits(4, 1)
    temperature = {} if variant == "mse" else {"temperature": 3.0}
    found = value(a, b, z, v, over="newest", variant=variant, **temperature)
    expected = reference(z[:, [3, 1]], v[:, [0, 2]], 3.0, variant, True)
    np.testing.assert_allclose(found.numpy(), expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("variant", ["kl", "ce", "mse"])
@pytest.mark.parametrize("t2", [True, False])
def test_rows_are_the_definition(temperature, variant, t2):
    z, v = logits(5, 0), logits(5, 1)
    ours = kd_rows(z, v, temperature, variant, t2).numpy()
    np.testing.assert_allclose(ours, reference(z, v, temperature, variant, t2), rtol=1e-10)


@pytest.mark.parametrize("variant", ["kl", "ce", "mse"])
def test_gradient_is_that_of_the_value(variant):
    z, v = logits(4, 0).requires_grad_(), logits(4, 1)
    assert torch.autograd.gradcheck(lambda z: kd_rows(z, v, 3.0, variant), z)


def test_at_high_temperature_it_is_half_the_squared_error_of_centred_logits():
    z, v = logits(5, 0), logits(5, 1)
    centred = (z - z.mean(1, keepdim=True)) - (v - v.mean(1, keepdim=True))
    torch.testing.assert_close(kd_rows(z, v, 1e4), 0.5 * centred.square().mean(1), rtol=1e-3, atol=0)


def test_only_logit_differences_count():
    z, v = logits(5, 0), logits(5, 1)
    torch.testing.assert_close(kd_rows(z + 7, v - 3), kd_rows(z, v))


def test_classes_are_matched_by_id_whatever_the_columns():
    a, b = Spec((4, 7, 9, 1), (0, 0, 1, 1)), Spec((9, 8, 4, 1), (0,) * 4)
    z, v = logits(4, 0), logits(4, 1)
    expected = reference(z[:, [2, 0, 3]], v[:, [0, 2, 3]], 2.0, "kl", True)
    np.testing.assert_allclose(value(a, b, z, v).numpy(), expected, rtol=1e-10)


def test_a_previous_self_with_the_first_columns_leaves_new_columns_alone():
    a, b = Spec((4, 7, 9), (0, 0, 1)), Spec((4, 7), (0, 0))
    z, v = logits(3, 0).requires_grad_(), logits(2, 1)
    value(a, b, z, v).mean().backward()
    assert not z.grad[:, 2].any(), "old knowledge must not push against new classes"
    np.testing.assert_allclose(value(a, b, z, v).detach(), reference(z.detach()[:, :2], v, 2.0, "kl", True), rtol=1e-10)


def test_columns_of_a_fixed_head_that_were_not_seen_take_no_part():
    a, b = Spec((0, 1, 2, 3), (0, 0, 1, -1)), Spec((0, 1, 2, 3), (0, 0, -1, -1))
    z, v = logits(4, 0), logits(4, 1)
    np.testing.assert_allclose(value(a, b, z, v).numpy(), reference(z[:, :2], v[:, :2], 2.0, "kl", True), rtol=1e-10)


def test_an_external_teacher_is_asked_only_about_classes_that_the_student_has_seen():
    a, b = Spec((0, 1, 2, 3), (0, 0, 1, -1)), Spec((0, 1, 2, 3), (0,) * 4)
    z, v = logits(4, 0), logits(4, 1)
    np.testing.assert_allclose(value(a, b, z, v).numpy(), reference(z[:, :3], v[:, :3], 2.0, "kl", True), rtol=1e-10)


def test_task_aware_students_are_distilled_task_by_task_and_the_tasks_add_up():
    a = Spec((0, 1, 2, 3, 4), (0, 0, 1, 1, 1), task_aware=True)
    b = Spec((4, 0, 2, 1, 3), (0,) * 5)  # a teacher with its own order of columns
    z, v = logits(5, 0), logits(5, 1)
    old = reference(z[:, [0, 1]], v[:, [1, 3]], 2.0, "kl", True)
    new = reference(z[:, [4, 2, 3]], v[:, [0, 2, 4]], 2.0, "kl", True)
    np.testing.assert_allclose(value(a, b, z, v).numpy(), old + new, rtol=1e-10)
    joint = reference(z[:, [4, 0, 2, 1, 3]], v, 2.0, "kl", True)
    np.testing.assert_allclose(value(a, b, z, v, scope="joint").numpy(), joint, rtol=1e-10)


def test_scope_per_task_works_for_a_student_that_is_not_told_its_task():
    a, b = Spec((0, 1, 2, 3), (0, 0, 1, 1)), Spec((0, 1, 2, 3), (0,) * 4)
    z, v = logits(4, 0), logits(4, 1)
    expected = sum(reference(z[:, cut], v[:, cut], 2.0, "kl", True) for cut in ([0, 1], [2, 3]))
    np.testing.assert_allclose(value(a, b, z, v, scope="per_task").numpy(), expected, rtol=1e-10)


def test_a_task_of_one_class_is_left_out_where_others_have_something_to_say():
    a, b = Spec((0, 1, 2), (0, 0, 1), task_aware=True), Spec((0, 1, 2), (0, 0, 1))
    z, v = logits(3, 0), logits(3, 1)
    np.testing.assert_allclose(value(a, b, z, v).numpy(), reference(z[:, :2], v[:, :2], 2.0, "kl", True), rtol=1e-10)


def test_valid_rows_only_gives_the_mean_over_rows_that_the_teacher_knows():
    a = Spec((0, 1, 2), (0, 0, 0))
    z, v = logits(3, 0), logits(3, 1)
    valid = torch.tensor([True, False, True, True, False, False])
    expected = reference(z, v, 2.0, "kl", True)[valid.numpy()].mean()
    assert value(a, a, z, v, valid, rows="valid").mean().item() == pytest.approx(expected, rel=1e-10)
    assert value(a, a, z, v, ~valid & valid, rows="valid").mean() == 0
    torch.testing.assert_close(value(a, a, z, v, rows="valid"), value(a, a, z, v))


def test_the_convention_is_the_factor_t_squared():
    a = Spec((0, 1, 2), (0, 0, 0))
    z, v = logits(3, 0), logits(3, 1)
    plain = value(a, a, z, v, temperature=4.0, convention="plain")
    torch.testing.assert_close(value(a, a, z, v, temperature=4.0), 16 * plain)


def test_a_temperature_may_follow_a_schedule():
    a = Spec((0, 1, 2), (0, 0, 0))
    z, v = logits(3, 0), logits(3, 1)
    loss = KD(temperature=Warmup(value=8.0, steps=4))
    loss.bind(a, a)
    loss.progress = Progress(epoch_step=2, epoch_steps=10)
    ids = torch.arange(3)
    torch.testing.assert_close(loss(batch(), Signals(z, ids), Signals(v, ids)), kd_rows(z, v, 4.0))


def test_no_common_class_is_refused_before_training():
    with pytest.raises(UserError, match=r"no class in common \(student \[0, 1\], teacher \[2, 3\]\)"):
        KD().bind(Spec((0, 1), (0, 0)), Spec((2, 3), (0, 0)))


@pytest.mark.parametrize("variant", ["kl", "ce"])
def test_one_common_class_is_refused_because_its_softmax_says_nothing(variant):
    with pytest.raises(UserError, match="single class is always 1"):
        KD(variant=variant).bind(Spec((0, 1), (0, 1)), Spec((0,), (0,)))


def test_one_common_class_will_do_for_squared_errors():
    z, v = logits(2, 0), logits(1, 1)
    expected = reference(z[:, :1], v, 2.0, "mse", True)
    np.testing.assert_allclose(value(Spec((0, 1), (0, 1)), Spec((0,), (0,)), z, v, variant="mse").numpy(), expected)


def test_options_that_say_nothing_or_nonsense_are_refused():
    with pytest.raises(ValidationError, match="greater than 0"):
        KDOptions.model_validate({"temperature": 0}, context=None)
    with pytest.raises(ValidationError, match="leave out temperature"):
        KDOptions.model_validate({"variant": "mse", "temperature": 4})
    KDOptions.model_validate(KDOptions(variant="mse").model_dump())


@pytest.mark.parametrize("variant", ["kl", "ce", "mse"])
def test_columns_that_a_row_did_not_know_take_no_part(variant):
    """Each row is worth what it would be alone, over its own columns; whatever stands in the others."""
    draws = torch.Generator().manual_seed(0)
    z = torch.randn(4, 5, generator=draws, requires_grad=True)
    v = torch.randn(4, 5, generator=draws)
    known = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]]).bool()
    rows = kd_rows(z, v.masked_fill(~known, 1e6), 0.5, variant, known=known)
    for i in range(3):
        alone = kd_rows(z[i : i + 1, known[i]], v[i : i + 1, known[i]], 0.5, variant)
        torch.testing.assert_close(rows[i : i + 1], alone)
    assert rows[3] == 0
    (grad,) = torch.autograd.grad(rows.sum(), z)
    assert torch.isfinite(grad).all()
    assert not grad[~known].any()
