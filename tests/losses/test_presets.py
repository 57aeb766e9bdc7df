"""`kd`'s presets give the numbers of the tools they are named after, whose formulas stand here as they have them."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from clkd.losses import KD_PRESETS, KDOptions
from clkd.plugins import load_plugins
from clkd.signals import Spec

REGISTRY = load_plugins().registry
OLD = 4
SINGLE = Spec(tuple(range(6)), (0, 0, 1, 1, 2, 2))
"""A student in its third experience; its previous self knows the first four classes."""


def hinton(z, v):
    return -(F.softmax(v / 20, 1) * F.log_softmax(z / 20, 1)).sum(1).mean() * 20**2


def repdistiller(z, v):
    return F.kl_div(F.log_softmax(z / 4, dim=1), F.softmax(v / 4, dim=1), reduction="sum") * 4**2 / z.shape[0]


def torchdistill(z, v):
    return F.kl_div(F.log_softmax(z / 1.0, dim=1), F.softmax(v / 1.0, dim=1), reduction="batchmean") * 1.0**2


def avalanche(z, v):
    return F.kl_div(torch.log_softmax(z / 2, dim=1), torch.softmax(v / 2, dim=1), reduction="batchmean")


def mammoth(z, v):
    def smooth(p):
        root = p ** (1 / 2)
        return root / root.sum(1).unsqueeze(1)

    return -torch.mean(torch.sum(smooth(v.softmax(1)) * torch.log(smooth(z.softmax(1))), 1))


def van_de_ven(z, v):
    return (-(F.softmax(v / 2, dim=1) * F.log_softmax(z / 2, dim=1))).sum(dim=1).mean()


def pycil(z, v):
    return -1 * torch.mul(torch.softmax(v / 2, dim=1), torch.log_softmax(z / 2, dim=1)).sum() / z.shape[0]


def facil(z, v, eps=1e-5):
    out, tar = F.softmax(z, dim=1).pow(1 / 2), F.softmax(v, dim=1).pow(1 / 2)
    out, tar = out / out.sum(1, keepdim=True), tar / tar.sum(1, keepdim=True)
    out = out + eps / out.size(1)
    out = out / out.sum(1, keepdim=True)
    return -(tar * out.log()).sum(1).mean()


FORMULAS = {f.__name__: f for f in (hinton, repdistiller, torchdistill, avalanche, mammoth, van_de_ven, pycil, facil)}


def logits(columns: int, seed: int) -> torch.Tensor:
    return torch.randn(8, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


def preset(name: str, **given):
    return REGISTRY.build(REGISTRY.parse("losses", {"kind": "kd", "preset": name, **given}))


def test_there_is_a_formula_for_each_preset():
    (names, _none) = get_args(KDOptions.model_fields["preset"].annotation)
    assert set(get_args(names)) == set(KD_PRESETS) == set(FORMULAS)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FORMULAS)
def test_old_columns_of_a_growing_head(name, seed, worth):
    z, v = logits(6, 2 * seed), logits(OLD, 2 * seed + 1)
    value = worth(preset(name), z, v, a=SINGLE).mean().item()
    # FACIL lifts the student's probabilities by 1e-5 before the logarithm; clkd needs no such floor.
    rel = 1e-3 if name == "facil" else 1e-9
    assert value == pytest.approx(FORMULAS[name](z[:, :OLD], v).item(), rel=rel)


# Worked out once in plain Python, from the definitions: two rows, four classes.
GOLDEN_Z, GOLDEN_V = [[2.0, 0.0, -1.0, 1.0], [0.5, -0.5, 1.5, 0.0]], [[1.0, 1.0, 0.0, -1.0], [0.0, 2.0, 0.0, 0.0]]
GOLDEN = {
    "hinton": 555.1254111643,
    "repdistiller": 0.9883263566,
    "torchdistill": 0.9261385841,
    "avalanche": 0.2480018155,
    "mammoth": 1.5399952406,
    "van_de_ven": 1.5399952406,
    "pycil": 1.5399952406,
    "facil": 1.5399952406,  # 1.5399922351 with its floor
}


@pytest.mark.parametrize("name", KD_PRESETS)
def test_the_value_of_each_preset_stays_what_it_is(name, worth):
    z, v = (torch.tensor(x, dtype=torch.float64) for x in (GOLDEN_Z, GOLDEN_V))
    assert worth(preset(name), z, v).mean().item() == pytest.approx(GOLDEN[name], rel=1e-9)
    assert FORMULAS[name](z, v).item() == pytest.approx(GOLDEN[name], rel=1e-5 if name == "facil" else 1e-9)


@pytest.mark.parametrize(("name", "joint"), [("avalanche", False), ("van_de_ven", False), ("mammoth", True),
                                             ("pycil", True), ("facil", True)])  # fmt: skip
def test_past_heads_of_a_task_aware_student(name, joint, worth):
    """A sum over the past heads in two of the tools, one softmax over all of them in three."""
    z, v = logits(6, 0), logits(OLD, 1)
    a = Spec(SINGLE.class_ids, SINGLE.born, task_aware=True)
    formula = FORMULAS[name]
    heads = formula(z[:, :2], v[:, :2]) + formula(z[:, 2:4], v[:, 2:4])
    whole = formula(z[:, :OLD], v)
    assert abs(float(heads - whole)) > 0.05, "the two differ"
    expected = whole if joint else heads
    assert worth(preset(name), z, v, a=a).mean().item() == pytest.approx(expected.item(), rel=1e-3)


def test_van_de_ven_distils_all_units_of_a_fixed_head_and_the_others_those_seen(worth):
    z, v = logits(6, 0), logits(6, 1)
    a, b = Spec(tuple(range(6)), (0, 0, 1, 1, -1, -1)), Spec(tuple(range(6)), (0, 0, -1, -1, -1, -1))
    whole = worth(preset("van_de_ven"), z, v, a=a, b=b).mean().item()
    assert whole == pytest.approx(van_de_ven(z, v).item(), rel=1e-9)
    seen = worth(preset("pycil"), z, v, a=a, b=b).mean().item()
    assert seen == pytest.approx(pycil(z[:, :2], v[:, :2]).item(), rel=1e-9)
    aware = Spec(a.class_ids, a.born, task_aware=True)
    heads = worth(preset("van_de_ven"), z, v, a=aware, b=b).mean().item()
    assert heads == pytest.approx(van_de_ven(z[:, :2], v[:, :2]).item(), rel=1e-9), "per head, untrained heads are none"


def test_what_is_given_goes_before_the_preset(worth):
    part = REGISTRY.parse("losses", {"kind": "kd", "preset": "pycil", "temperature": 3})
    assert part.options.temperature == 3
    assert (part.options.variant, part.options.convention) == ("ce", "plain")


def test_the_resolved_options_say_what_the_preset_means():
    shown = REGISTRY.parse("losses", {"kind": "kd", "preset": "repdistiller"}).dump()
    assert {"preset": "repdistiller", "temperature": 4.0, "convention": "t2", "scope": "joint"}.items() <= shown.items()
    assert REGISTRY.parse("losses", shown).dump() == shown


def test_a_preset_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="preset"):
        REGISTRY.parse("losses", {"kind": "kd", "preset": "pycill"})
