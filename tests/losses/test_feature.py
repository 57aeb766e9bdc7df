from __future__ import annotations

import numpy as np
import pytest
import torch

from clkd.errors import UserError
from clkd.losses.feature import Features
from clkd.signals import Batch, Signals, Spec


def side(*shape: int, name: str = "stage3") -> Spec:
    return Spec((0, 1), (0, 0), feature=name, shape=shape)


def rows(shape: tuple[int, ...], seed: int, count: int = 4) -> torch.Tensor:
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch(count: int = 4) -> Batch:
    i = torch.arange(count)
    return Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=count)


def said(features: torch.Tensor, name: str = "stage3") -> Signals:
    return Signals(None, torch.arange(2), {name: features})


def bound(a: Spec, b: Spec, **options) -> Features:
    loss = Features(**options)
    loss.bind(a, b)
    return loss.double()


def test_equal_shapes_give_the_mean_squared_error_of_each_row():
    f, g = rows((3, 4, 4), 0), rows((3, 4, 4), 1)
    loss = bound(side(3, 4, 4), side(3, 4, 4))
    assert loss.aligners[0].projector is None
    expected = ((f.numpy() - g.numpy()) ** 2).reshape(4, -1).mean(1)
    np.testing.assert_allclose(loss(batch(), said(f), said(g)).numpy(), expected, rtol=1e-12)


def test_conv1x1_is_the_same_linear_map_at_every_position():
    f, g = rows((3, 4, 4), 0), rows((5, 4, 4), 1)
    loss = bound(side(3, 4, 4), side(5, 4, 4))
    w, b = (p.detach().numpy() for p in (loss.aligners[0].projector.weight, loss.aligners[0].projector.bias + 0.25))
    with torch.no_grad():
        loss.aligners[0].projector.bias += 0.25
    mapped = np.einsum("oi,bihw->bohw", w[:, :, 0, 0], f.numpy()) + b[None, :, None, None]
    expected = ((mapped - g.numpy()) ** 2).reshape(4, -1).mean(1)
    np.testing.assert_allclose(loss(batch(), said(f), said(g)).detach().numpy(), expected, rtol=1e-12)


def test_linear_serves_vectors():
    f, g = rows((3,), 0), rows((5,), 1)
    loss = bound(side(3), side(5), align="linear")
    expected = ((f.numpy() @ loss.aligners[0].projector.weight.detach().numpy().T - g.numpy()) ** 2).mean(1)
    np.testing.assert_allclose(loss(batch(), said(f), said(g)).detach().numpy(), expected, rtol=1e-12)


def test_maps_of_different_size_meet_at_the_smaller_one():
    f, g = rows((2, 8, 8), 0), rows((2, 4, 4), 1)
    pooled = f.numpy().reshape(4, 2, 4, 2, 4, 2).mean((3, 5))
    expected = ((pooled - g.numpy()) ** 2).reshape(4, -1).mean(1)
    loss = bound(side(2, 8, 8), side(2, 4, 4))
    np.testing.assert_allclose(loss(batch(), said(f), said(g)).numpy(), expected, rtol=1e-12)
    other = bound(side(2, 4, 4), side(2, 8, 8))
    np.testing.assert_allclose(other(batch(), said(g), said(f)).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("teacher", [(2, 4, 4), (2,)])
def test_spatial_and_vectors_compare_averages_over_positions(teacher):
    f, g = rows((2, 8, 8), 0), rows(teacher, 1)
    pooled = g.numpy().mean((2, 3)) if len(teacher) == 3 else g.numpy()
    expected = ((f.numpy().mean((2, 3)) - pooled) ** 2).mean(1)
    loss = bound(side(2, 8, 8), side(*teacher), pool="spatial")
    np.testing.assert_allclose(loss(batch(), said(f), said(g)).numpy(), expected, rtol=1e-12)
    if len(teacher) == 1:
        auto = bound(side(2, 8, 8), side(*teacher))
        np.testing.assert_allclose(auto(batch(), said(f), said(g)).numpy(), expected, rtol=1e-12)


def test_l2_compares_directions_and_zscore_shapes():
    f, g = rows((6,), 0), rows((6,), 1)
    a = side(6)
    unit = [x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True) for x in (f, g)]
    l2 = bound(a, a, normalize="l2")
    np.testing.assert_allclose(l2(batch(), said(f * 9), said(g)).numpy(), ((unit[0] - unit[1]) ** 2).mean(1), rtol=1e-9)
    standard = [(x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=0) for x in (f, g)]
    zscore = bound(a, a, normalize="zscore")
    np.testing.assert_allclose(
        zscore(batch(), said(f * 9 + 5), said(g)).numpy(),
        (standard[0] - standard[1]).square().mean(1).numpy(),
        rtol=1e-3,
    )


@pytest.mark.parametrize("normalize", ["none", "l2", "zscore"])
def test_gradient_is_that_of_the_value(normalize):
    f, g = rows((2, 4, 4), 0, count=2).requires_grad_(), rows((3, 2, 2), 1, count=2)
    loss = bound(side(2, 4, 4), side(3, 2, 2), normalize=normalize)
    assert torch.autograd.gradcheck(lambda f: loss(batch(2), said(f), said(g)), f)


def test_the_projector_stays_while_shapes_stay_and_is_new_when_they_change():
    loss = bound(side(2, 4, 4), side(3, 4, 4))
    first = loss.aligners[0].projector
    loss.bind(side(2, 4, 4), side(3, 4, 4))
    assert loss.aligners[0].projector is first
    loss.bind(side(2, 4, 4), side(5, 4, 4))
    assert loss.aligners[0].projector is not first
    loss.bind(side(2, 4, 4), side(2, 4, 4))
    assert loss.aligners[0].projector is None


def test_the_projector_is_drawn_from_its_own_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, same, other = (bound(side(2), side(3), seed=seed).aligners[0].projector.weight for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before), "the global generator belongs to others"
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, bound(side(2, name="stage2"), side(3)).aligners[0].projector.weight), (
        "each pair has its own"
    )


def test_the_projector_keeps_variance():
    weight = bound(side(400), side(300)).aligners[0].projector.weight
    assert (weight.var() * 400).item() == pytest.approx(1, rel=0.05)


def test_a_projector_is_learned_and_saved():
    loss = bound(side(2), side(3))
    assert {name for name, _ in loss.named_parameters()} == {"aligners.0.projector.weight", "aligners.0.projector.bias"}
    loss(batch(), said(rows((2,), 0)), said(rows((3,), 1))).mean().backward()
    assert loss.aligners[0].projector.weight.grad.any()


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (Spec((0,), (0,)), side(2), {}, "name the layers"),
        (side(2, 4, 4), side(2, 2, 2), {"pool": "none"}, "differ in map size"),
        (side(2, 4, 4), side(2), {"pool": "none"}, "differ in map size"),
        (side(2), side(3), {"align": "none"}, "stage3 has 2 channels and stage3 has 3"),
        (side(2, 4, 4), side(3, 4, 4), {"align": "linear"}, "does not fit maps: use align auto or conv1x1"),
        (side(2), side(3), {"align": "conv1x1"}, "does not fit vectors: use align auto or linear"),
        (side(2, 5), side(2, 5), {}, r"vectors \(D\) or maps"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_remedy(a, b, options, message):
    with pytest.raises(UserError, match=message):
        Features(**options).bind(a, b)


def test_an_explicit_projector_is_made_even_where_widths_agree():
    assert bound(side(3), side(3), align="linear").aligners[0].projector is not None


def test_interpolate_brings_the_students_map_to_the_teachers_size():
    f, g = rows((2, 3, 5), 0), rows((2, 6, 4), 1)
    loss = bound(side(2, 3, 5), side(2, 6, 4), pool="interpolate")
    grown = np.empty((4, 2, 6, 4))
    for i, j in np.ndindex(6, 4):  # the centre of each new pixel, in old pixels, held inside the map
        y, x = np.clip((i + 0.5) * 3 / 6 - 0.5, 0, 2), np.clip((j + 0.5) * 5 / 4 - 0.5, 0, 4)
        top, left = int(y), int(x)
        below, right = min(top + 1, 2), min(left + 1, 4)
        v, h = y - top, x - left
        corners = [f.numpy()[:, :, a, b] for a in (top, below) for b in (left, right)]
        parts = [(1 - v) * (1 - h), (1 - v) * h, v * (1 - h), v * h]
        grown[:, :, i, j] = sum(part * corner for part, corner in zip(parts, corners, strict=True))
    expected = ((grown - g.numpy()) ** 2).reshape(4, -1).mean(1)
    np.testing.assert_allclose(loss(batch(), said(f), said(g)).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("shape", [(3,), (3, 2, 5)])
def test_channel_compares_each_channel_in_its_own_units(shape):
    f, g = rows(shape, 0), rows(shape, 1)
    loss = bound(side(*shape), side(*shape), normalize="channel")

    def units(x):
        over = tuple(d for d in range(x.ndim) if d != 1)
        return (x - x.mean(over, keepdims=True)) / np.sqrt(x.var(over, keepdims=True) + 1e-5)

    expected = ((units(f.numpy()) - units(g.numpy())) ** 2).reshape(4, -1).mean(1)
    np.testing.assert_allclose(loss(batch(), said(3 * f + 1), said(g)).numpy(), expected, rtol=1e-3)
    alone = loss(batch(1), said(f[:1]), said(g[:1]))
    assert torch.isfinite(alone).all(), "one row has no spread"


@pytest.mark.parametrize(("align", "count"), [("mlp", 2), ("conv3x3", 1), ("hint", 1)])
def test_other_projectors_are_made_even_where_widths_agree(align, count):
    loss = bound(side(3, 2, 5), side(3, 2, 5), align=align)
    convolutions = [layer for layer in loss.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len(convolutions) == count
    assert loss(batch(), said(rows((3, 2, 5), 0)), said(rows((3, 2, 5), 1))).shape == (4,)
    again = bound(side(3, 2, 5), side(3, 2, 5), align=align)
    assert all(torch.equal(a, b) for a, b in zip(loss.parameters(), again.parameters(), strict=True))


def test_projectors_are_what_their_names_say():
    f, g = rows((3, 2, 5), 0), rows((3, 2, 5), 1)
    for align in ("mlp", "conv3x3", "hint"):
        loss = bound(side(3, 2, 5), side(3, 2, 5), align=align)
        for name, parameter in loss.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
        weights = [parameter.detach().double().numpy() for parameter in loss.parameters()]
        x = f.double().numpy()
        if align == "mlp":
            w, b, v, c = weights
            hidden = np.maximum(np.einsum("oi,nihw->nohw", w[:, :, 0, 0], x) + b[:, None, None], 0)
            ours = np.einsum("oi,nihw->nohw", v[:, :, 0, 0], hidden) + c[:, None, None]
            assert (hidden == 0).any(), "some are cut off"
        else:
            w, b = weights
            size = w.shape[-1] // 2
            padded = np.pad(x, ((0, 0), (0, 0), (size, size), (size, size)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], axis=(2, 3))
            ours = np.einsum("oikl,nihwkl->nohw", w, windows) + b[:, None, None]
        expected = ((ours - g.double().numpy()) ** 2).reshape(4, -1).mean(1)
        np.testing.assert_allclose(loss(batch(), said(f), said(g)).detach().numpy(), expected, rtol=1e-4)
