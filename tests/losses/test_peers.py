"""Bugs of other tools that clkd does not have, each by name; those of losses between layers are in test_families.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clkd.engine.term import Side, Term
from clkd.errors import UserError
from clkd.frozen import freeze
from clkd.losses.attention import attention
from clkd.losses.correlation import DIST
from clkd.losses.crd import CRD
from clkd.losses.decoupled import DKD, NKD
from clkd.losses.multilevel import MLKD
from clkd.losses.response import KD
from clkd.losses.virtual import VirtualTeacher
from clkd.models.backbones.mlp import MLP
from clkd.models.heads import Linear
from clkd.models.student import Student
from clkd.plugins import load_plugins
from clkd.schedules.base import Progress
from clkd.schedules.warmup import Warmup
from clkd.signals import Batch, Needs, Signals, Spec
from clkd.teachers.network import NetworkTeacher
from clkd.transfer.coral import Coral, coral, covariance


def logits(rows: int, columns: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * scale


def kl(z, v, temperature):
    """Batch mean, without T²."""
    return F.kl_div((z / temperature).log_softmax(1), (v / temperature).softmax(1), reduction="batchmean")


def rows(count, y, x=None):
    i = torch.arange(count)
    return Batch(x=i if x is None else x, y=y, sample_id=i, domain=i, experience=i, new=count)


def term(loss, weight=1.0):
    return Term("kd", loss, (Side("student"), Side("previous")), weight)


@pytest.mark.parametrize("standardize", [False, True])
def test_torchdistill_drops_t_squared_where_alpha_is_none_or_0(standardize, worth):
    """The weight is the term's and the convention the loss's: no weight changes the scale of what is weighted."""
    z, v = logits(8, 10), logits(8, 10, 1)
    loss = KD(temperature=4.0, standardize=standardize)
    value = worth(loss, z, v).mean()
    if standardize:
        z, v = ((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) for x in (z, v))
    torch.testing.assert_close(value, 16 * kl(z, v, 4.0))
    said = Signals(z, torch.arange(10))
    assert term(loss, 0.0).weighted(value, Progress(), said) == 0
    assert term(loss, 1.0).weighted(value, Progress(), said) is value


@pytest.mark.parametrize("weight", [None, "none"])
def test_torchdistill_weights_of_none_break_only_in_the_first_batch(weight):
    """`KDLoss(alpha=None, beta=None)` is a TypeError of its arithmetic; here the scenario is refused."""
    with pytest.raises(ValueError, match="weight"):
        load_plugins().registry.parse("losses", {"kind": "kd", "weight": weight})


@pytest.mark.parametrize("negatives", ["other_classes", "all"])
@pytest.mark.parametrize("queue", [0, 4])
def test_torchdistill_crd_dies_in_a_branch_that_nobody_tried(negatives, queue):
    """Without indices of negatives it asks for `self.prob`, which there is not. Here nothing has to be prepared."""
    loss, side = CRD(dim=4, queue=queue, negatives=negatives), Spec((0, 1), (0, 0), shapes={"penultimate": (3,)})
    loss.bind(side, side)
    for step in range(3):
        said = (Signals(None, torch.arange(2), {"penultimate": logits(6, 3, 2 * step + i)}) for i in range(2))
        value = loss(rows(6, torch.arange(6) % 2), *said)
        assert (value > 0).all()
        loss.after_step(None)


def test_torchdistill_distplus_adds_similarity_instead_of_distance(worth):
    """Agreement is the minimum, and opposition the maximum: 1 − r is 0 and 2."""
    z = torch.tensor([[0.5, 0.3, 0.2], [0.3, 0.2, 0.5], [0.2, 0.5, 0.3]]).log()
    opposite = (2 / 3 - z.exp()).log()
    assert worth(DIST(gamma=0), z, z).mean().item() == pytest.approx(0, abs=1e-5)
    assert worth(DIST(gamma=0), z, opposite).mean().item() == pytest.approx(2, rel=1e-4)
    assert worth(DIST(beta=0), z, opposite).mean().item() == pytest.approx(2, rel=1e-4)


def test_torchdistill_distloss_accepts_a_misspelt_gamma():
    with pytest.raises(ValueError, match="did you mean 'gamma'"):
        load_plugins().registry.parse("losses", {"kind": "dist", "gama": 5})


def test_torchdistill_losses_see_no_epoch_so_dkd_cannot_warm_up():
    """`weight: {kind: warmup, epochs: 20}` is mdistiller's min(epoch / 20, 1)."""
    dkd = term(DKD(), Warmup(epochs=20))
    weights = [
        float(dkd.weighted(torch.ones(()), Progress(epoch=e, epochs=240, epoch_steps=5), None)) for e in range(30)
    ]
    assert weights == pytest.approx([min(e / 20, 1) for e in range(30)])


def test_mlld_masks_a_scalar_and_so_halves_its_loss(worth):
    """All that the formula has counts whole: with a mask over half of the rows their code gives half of this."""
    z, v = logits(8, 5), logits(8, 5, 1)
    value = worth(MLKD((2.0, 3.0, 4.0, 5.0, 6.0), batch=0, classes=0), z, v).mean()
    torch.testing.assert_close(value, sum(t**2 * kl(z, v, t) for t in (2.0, 3.0, 4.0, 5.0, 6.0)))


def test_mlld_computes_class_and_batch_terms_that_never_count(worth):
    z, v = logits(8, 5), logits(8, 5, 1)
    whole = worth(MLKD(), z, v).mean()
    parts = [worth(MLKD(instance=i, batch=b, classes=c), z, v).mean() for i, b, c in np.eye(3)]
    assert all(part > 0 for part in parts)
    torch.testing.assert_close(whole, sum(parts))


def test_mlld_reads_the_weak_view_where_it_says_the_strong_one(worth):
    """Its terms at T = 2 and 6 do. Here every temperature compares the logits that the loss is given."""
    z, v = logits(8, 5), logits(8, 5, 1)
    apart = [worth(MLKD((t,)), z, v).mean() for t in (2.0, 6.0)]
    torch.testing.assert_close(worth(MLKD((2.0, 6.0)), z, v).mean(), sum(apart))
    assert not torch.isclose(worth(MLKD((2.0, 6.0)), z + logits(8, 5, 2), v).mean(), sum(apart))


def test_kd_lib_and_torchdistill_teachers_draw_dropout_and_carry_gradients():
    """KD_Lib's teaching assistants, and torchdistill's frozen teachers, stay in training mode."""
    network = Student(MLP((4,), hidden=(16,), dropout=0.5), Linear(16), (4,))
    network.grow(range(3), 0, torch.Generator().manual_seed(0))
    teacher, batch = NetworkTeacher(freeze(network.train())), rows(5, torch.zeros(5, dtype=torch.long), logits(5, 4))
    said, again = (teacher.signals(batch, Needs()).logits for _ in range(2))
    assert torch.equal(said, again)
    assert not said.requires_grad
    assert not any(module.training for module in network.modules())


def test_kd_lib_compares_probabilities_by_squared_error(worth):
    z, v = logits(8, 5), logits(8, 5, 1)
    value = worth(KD(temperature=20.0), z, v).mean()
    torch.testing.assert_close(value, 400 * kl(z, v, 20.0))
    assert value > 100 * F.mse_loss((z / 20).softmax(1), (v / 20).softmax(1))


def test_kd_lib_virtual_teacher_puts_a_probability_through_softmax(one_sided):
    """A student that says exactly what the virtual teacher says is at the minimum, which is 0."""
    u = torch.full((2, 5), 0.1 / 4)
    u[0, 3], u[1, 1] = 0.9, 0.9
    for temperature in (1.0, 4.0):
        assert one_sided(VirtualTeacher(0.9, temperature), u.log(), [3, 1]).abs().max() < 1e-5
    twice = F.kl_div(u.log(), u.softmax(1), reduction="batchmean")
    assert twice > 0.5, "what their code would still push away from"


@pytest.mark.parametrize("make", [DKD, NKD])
def test_mdistiller_dkd_breaks_on_a_class_without_a_column(make, worth):
    """`index 10 is out of bounds`: a new class, of which a previous self has no column."""
    z, v = logits(4, 12), logits(4, 10, 1)
    value = worth(make(), z, v, [10, 3, 11, 5], Spec(tuple(range(12)), (0,) * 10 + (1,) * 2))
    assert torch.isfinite(value).all()
    assert (value > 0).tolist() == [False, True, False, True]


@pytest.mark.parametrize("make", [lambda: DKD(1.0), NKD, KD, DIST, MLKD])
def test_mdistiller_dkd_is_not_finite_at_large_logits(make, worth):
    """log(sum of softmax) was not finite in 50 of 50 trials at scale 40, temperature 1, 100 classes."""
    for seed in range(20):
        z = logits(8, 100, 2 * seed, 40.0).requires_grad_()
        value = worth(make(), z, logits(8, 100, 2 * seed + 1, 40.0), torch.arange(8)).mean()
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("make", [DKD, lambda: KD(standardize=True), lambda: DKD(standardize=True)])
def test_mdistiller_dkd_and_logit_standardisation_are_silent_on_two_classes(make):
    with pytest.raises(UserError, match="few_classes: kd"):
        make().bind(Spec((0, 1, 2, 3), (0, 0, 1, 1)), Spec((0, 1), (0, 0)))


def test_dist_is_the_constant_1_between_the_rows_of_a_batch_of_one(worth):
    z = logits(1, 5).requires_grad_()
    value = worth(DIST(beta=0), z, logits(1, 5, 1))
    assert value == 0


def test_deit_and_others_divide_by_the_number_of_classes(worth):
    """`reduction='mean'` over B·C numbers: the loss of a row would shrink by 10 where a tenth class joins nine."""
    z, v = logits(6, 9), logits(6, 9, 1)
    value = worth(KD(), z, v).mean()
    torch.testing.assert_close(value, 4 * kl(z, v, 2.0))
    apart = F.pad(z, (0, 91), value=-100.0), F.pad(v, (0, 91), value=-100.0)
    torch.testing.assert_close(worth(KD(), *apart).mean(), value)


def test_zoo_confuses_the_order_of_arguments_and_others_a_logarithm(worth):
    """KL(teacher ‖ student), by hand: q = (1/2, 1/2), p = (1/4, 3/4)."""
    z, v = torch.tensor([[1.0, 3.0]]).log(), torch.tensor([[1.0, 1.0]]).log()
    by_hand = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    assert worth(KD(temperature=1.0), z, v).item() == pytest.approx(by_hand, rel=1e-5)
    assert worth(KD(temperature=1.0), v, z).item() != pytest.approx(by_hand, rel=1e-2)


def test_avalanche_bic_normalises_the_teacher_over_the_batch(worth):
    """No row's value depends on the other rows."""
    z, v = logits(6, 5), logits(6, 5, 1)
    whole = worth(KD(), z, v)
    torch.testing.assert_close(whole, torch.cat([worth(KD(), z[i : i + 1], v[i : i + 1]) for i in range(6)]))


def test_avalanche_lwf_is_always_0_with_several_tasks(worth):
    """Its task keys once were strings on one side and numbers on the other."""
    a = Spec(tuple(range(6)), (0, 0, 1, 1, 2, 2), task_aware=True)
    z, v = logits(6, 6), logits(6, 4, 1)
    expected = sum(4 * kl(z[:, cut], v[:, cut], 2.0) for cut in (slice(0, 2), slice(2, 4)))
    torch.testing.assert_close(worth(KD(), z, v, a=a).mean(), expected)


def test_a_previous_self_padded_with_zeros_pushes_against_new_classes(worth):
    z, v = logits(6, 6).requires_grad_(), logits(6, 4, 1)
    worth(KD(), z, v, a=Spec(tuple(range(6)), (0, 0, 0, 0, 1, 1))).mean().backward()
    assert not z.grad[:, 4:].any()
    padded = z.detach().clone().requires_grad_()
    kl(padded, F.pad(v, (0, 2)), 2.0).backward()
    assert padded.grad[:, 4:].any(), "what padding would do"


def test_tllib_uses_a_name_that_numpy_has_dropped():
    """`np.float` in its gradient reversal, so that none of its adversarial losses runs. All of clkd's parts load."""
    entries = load_plugins().registry.entries
    parts = [entry for (kind, _), entry in entries.items() if kind in ("losses", "transfers", "schedules")]
    assert len(parts) > 30
    assert all(callable(entry.load) for entry in parts)


def test_tllib_coral_is_not_what_its_docstring_says():
    """Its docstring has the paper's 4·d²; its code divides by d² and adds the means. Here the means are an option."""
    source, target = logits(9, 4), logits(7, 4, 1) + 3
    squares = (covariance(source) - covariance(target)).square()
    torch.testing.assert_close(coral(source, target), squares.sum() / (4 * 4**2))
    torch.testing.assert_close(4 * coral(source, target), squares.mean())
    said = Signals(None, torch.arange(0), {"penultimate": torch.cat([target, source])})
    batch = replace(rows(16, torch.zeros(16, dtype=torch.long)), new=7)
    torch.testing.assert_close(Coral()(batch, said), coral(source, target))
    means = (source.mean(0) - target.mean(0)).square().mean()
    torch.testing.assert_close(Coral(mean=True)(batch, said), coral(source, target) + means)


def test_zoo_lwm_makes_attention_of_gradients_instead_of_features():
    """clkd has no LwM. Its attention is of features: by hand, mean over channels of squares, of unit length."""
    maps = torch.tensor([[[[3.0, 0.0]], [[0.0, 4.0]]]])  # 9/2 and 16/2
    with torch.no_grad():
        torch.testing.assert_close(attention(maps, 2.0), torch.tensor([[9.0, 16.0]]) / 337**0.5)
