"""Losses between layers give what a reference written pixel by pixel gives."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from clkd.errors import UserError
from clkd.losses.attention import Attention
from clkd.losses.feature import Features, FitNet
from clkd.losses.fsp import FSP
from clkd.losses.layered import Layered
from clkd.losses.less_forget import LessForget
from clkd.losses.mgd import MGD, keep
from clkd.losses.nst import NST
from clkd.losses.ofd import OFD
from clkd.losses.pod import POD
from clkd.losses.review import Review
from clkd.losses.vid import VID
from clkd.schedules.base import Progress
from clkd.signals import Batch, Signals, Spec
from clkd.testing.contract import check_loss

Shape = tuple[int, ...]
SEEDS = (0, 1, 2)
ROWS = 3
LAYERS = ("stage1", "stage2", "stage3")


def maps(shape: Shape, seed: int, count: int = ROWS) -> torch.Tensor:
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch(count: int = ROWS) -> Batch:
    i = torch.arange(count)
    return Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=count)


def bound(loss: Layered, ours: list[Shape], theirs: list[Shape]) -> Layered:
    """Bound to layers of these shapes, with the biases away from zero, where nobody would miss them."""
    if loss.layers:
        a, b = (
            Spec((0,), (0,), shapes=dict(zip(names, shapes, strict=True)))
            for names, shapes in ((loss.layers, ours), (loss.against, theirs))
        )
    else:
        a, b = (Spec((0,), (0,), feature="stage1", shape=shapes[0]) for shapes in (ours, theirs))
    loss.bind(a, b)
    with torch.no_grad():
        for name, parameter in loss.named_parameters():
            parameter += 0.1 if name.endswith("bias") else 0.0
    return loss.double()


def value(loss: Layered, fs: list[torch.Tensor], gs: list[torch.Tensor]) -> np.ndarray:
    ours, theirs = loss.layers or ("stage1",), loss.against or ("stage1",)
    a, b = (Signals(None, torch.arange(1), dict(zip(names, x, strict=True))) for names, x in ((ours, fs), (theirs, gs)))
    return loss(batch(len(fs[0])), a, b).detach().numpy()


# What layers do, spelt out


def pooled(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    out = np.empty((*x.shape[:2], *size))
    h, w = x.shape[2:]
    for i, j in np.ndindex(*size):
        rows = slice(i * h // size[0], math.ceil((i + 1) * h / size[0]))
        cols = slice(j * w // size[1], math.ceil((j + 1) * w / size[1]))
        out[:, :, i, j] = x[:, :, rows, cols].mean((2, 3))
    return out


def nearest(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows = [i * x.shape[2] // size[0] for i in range(size[0])]
    cols = [j * x.shape[3] // size[1] for j in range(size[1])]
    return x[:, :, rows][:, :, :, cols]


def convolved(x: np.ndarray, layer: torch.nn.Module) -> np.ndarray:
    weight, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
    reach = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    out = np.zeros((len(x), len(weight), *x.shape[2:])) + bias[None, :, None, None]
    for i, j in np.ndindex(*weight.shape[2:]):
        seen = padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
        out += np.einsum("oc,bchw->bohw", weight[:, :, i, j], seen)
    return out


def each_row_normalised(x: np.ndarray, norm: torch.nn.Module) -> np.ndarray:
    scale, shift = (p.detach().numpy()[None, :, None, None] for p in (norm.weight, norm.bias))
    mean, var = x.mean((1, 2, 3), keepdims=True), x.var((1, 2, 3), keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * scale + shift


def mse(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a - b) ** 2).reshape(len(a), -1).mean(1)


# One layer


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("p", "variant"), [(2, "mean"), (2, "norm"), (1, "mean"), (3.5, "mean")])
@pytest.mark.parametrize(("ours", "theirs"), [((2, 8, 16), (3, 8, 16)), ((2, 7, 4), (3, 3, 5))])
def test_attention(seed, p, variant, ours, theirs):
    """Maps that are not square, too: torchdistill's ATLoss fails on 8 × 16."""
    f, g = maps(ours, seed), maps(theirs, seed + 10)
    size = tuple(map(min, ours[1:], theirs[1:]))
    expected = []
    for row in range(ROWS):
        places = []
        for x in (f, g):
            small = pooled(x.numpy()[row : row + 1], size)[0]
            q = np.array([sum(abs(small[c, i, j]) ** p for c in range(len(small))) for i, j in np.ndindex(*size)])
            places.append(q / math.sqrt((q**2).sum()))
        error = ((places[0] - places[1]) ** 2).sum()
        expected.append(error / len(places[0]) if variant == "mean" else math.sqrt(error))
    loss = bound(Attention(p=p, variant=variant), [ours], [theirs])
    np.testing.assert_allclose(value(loss, [f], [g]), expected, rtol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kernel", ["poly", "linear", "gaussian"])
def test_nst(seed, kernel):
    f, g = maps((2, 3, 5), seed), maps((4, 3, 5), seed + 10)
    expected = []
    for row in range(ROWS):
        a, b = (
            [c.ravel() / np.linalg.norm(c.ravel()) for c in x.numpy()[row]] for x in (f, g)
        )  # each channel is a sample
        width = np.mean([((u - v) ** 2).sum() for u, v in itertools.product(b, b)])
        k: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
            "poly": lambda u, v: float(u @ v) ** 2,
            "linear": lambda u, v: float(u @ v),
            "gaussian": lambda u, v, width=width: math.exp(-((u - v) ** 2).sum() / (2 * width)),
        }
        mean = {
            name: np.mean([k[kernel](u, v) for u, v in itertools.product(*two)])
            for name, two in {"aa": (a, a), "bb": (b, b), "ab": (a, b)}.items()
        }
        expected.append(mean["aa"] + mean["bb"] - 2 * mean["ab"])
    loss = bound(NST(kernel=kernel), [(2, 3, 5)], [(4, 3, 5)])
    np.testing.assert_allclose(value(loss, [f], [g]), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(3, 2, 5), (3,)])
def test_vid(seed, shape):
    f, g = maps(shape, seed), maps(shape, seed + 10)
    loss = bound(VID(variance=2.0), [shape], [shape])
    scale = loss.scales[0].detach()
    assert torch.allclose(torch.nn.functional.softplus(scale) + 1e-5, torch.tensor(2.0, dtype=scale.dtype))
    with torch.no_grad():
        scale += torch.linspace(-1, 1, 3)
    expected = []
    for row in range(ROWS):
        terms = []
        for c in range(3):
            variance = math.log1p(math.exp(scale[c])) + 1e-5
            for x, y in zip(np.ravel(f.numpy()[row][c]), np.ravel(g.numpy()[row][c]), strict=True):
                terms.append(0.5 * ((x - y) ** 2 / variance + math.log(variance)))
        expected.append(np.mean(terms))
    np.testing.assert_allclose(value(loss, [f], [g]), expected, rtol=1e-6)


def test_vid_finds_the_variance_of_what_it_cannot_explain():
    """At the minimum over the variances, each is the mean squared error of its channel."""
    f, g = torch.zeros(400, 2), maps((2,), 0, 400).float() * torch.tensor([1.0, 3.0])
    loss = bound(VID(align="none"), [(2,)], [(2,)]).float()
    steps = torch.optim.Adam(loss.parameters(), lr=0.3)
    for _ in range(100):
        steps.zero_grad()
        loss.compare(0, f, g).mean().backward()
        steps.step()
    found = torch.nn.functional.softplus(loss.scales[0].detach()) + 1e-5
    torch.testing.assert_close(found, g.square().mean(0), rtol=0.02, atol=0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(3, 2, 5), (3,)])
def test_ofd(seed, shape):
    f, g = maps(shape, seed), maps(shape, seed + 10)
    x, y = (each.numpy().reshape(ROWS, 3, -1) for each in (f, g))
    expected = np.zeros(ROWS)
    for c in range(3):
        below = [v for v in y[:, c].ravel() if v < 0]
        margin = np.mean(below) if below else 0.0
        for row, place in np.ndindex(ROWS, y.shape[2]):
            target = max(y[row, c, place], margin)
            if not x[row, c, place] <= target <= 0:
                expected[row] += (x[row, c, place] - target) ** 2
    loss = bound(OFD(), [shape], [shape])
    np.testing.assert_allclose(value(loss, [f], [g]), expected / (3 * y.shape[2]), rtol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mask", ["channels", "positions"])
def test_mgd(seed, mask):
    f, g = maps((2, 3, 5), seed), maps((4, 3, 5), seed + 10)
    loss = bound(MGD(mask=mask, ratio=0.4, seed=seed), [(2, 3, 5)], [(4, 3, 5)])
    loss.progress = Progress(step=7)
    shape = (ROWS, 4, 1, 1) if mask == "channels" else (ROWS, 1, 3, 5)
    kept = keep(shape, 0.4, seed, 7, 0).numpy()
    assert 0 < kept.mean() < 1
    first, _, second = loss.generators[0]
    masked = convolved(f.numpy(), loss.aligners[0].projector) * kept
    made = convolved(np.maximum(convolved(masked, first), 0), second)
    np.testing.assert_allclose(value(loss, [f], [g]), mse(made, g.numpy()), rtol=1e-9)


def test_mgd_masks_as_often_as_it_says_and_anew_in_each_step():
    drawn = keep((1000, 20, 1, 1), 0.15, 0, 0, 0)
    assert drawn.mean().item() == pytest.approx(0.85, abs=0.01)
    assert torch.equal(drawn, keep((1000, 20, 1, 1), 0.15, 0, 0, 0)), "a resumed run draws the same ones"
    others = [keep((1000, 20, 1, 1), 0.15, *key) for key in ((0, 1, 0), (0, 0, 1), (1, 0, 0))]
    assert not any(torch.equal(drawn, other) for other in others), "each step, layer and seed has its own"


@pytest.mark.parametrize("seed", SEEDS)
def test_fitnet_has_a_regressor_over_neighbourhoods(seed):
    f, g = maps((3, 3, 5), seed), maps((3, 3, 5), seed + 10)
    loss = bound(FitNet(seed=seed), [(3, 3, 5)], [(3, 3, 5)])
    expected = mse(convolved(f.numpy(), loss.aligners[0].projector), g.numpy())
    np.testing.assert_allclose(value(loss, [f], [g]), expected, rtol=1e-9)


# Several layers


@pytest.mark.parametrize("seed", SEEDS)
def test_layers_are_added_by_weight(seed):
    shapes = [(2, 6, 6), (3, 3, 3)]
    fs, gs = ([maps(shape, seed + k + 10 * i) for i, shape in enumerate(shapes)] for k in (0, 100))
    loss = bound(Features(layers=LAYERS[:2], against=("layer1", "layer2"), layer_weights=(0.5, 2.0)), shapes, shapes)
    expected = 0.5 * mse(fs[0].numpy(), gs[0].numpy()) + 2 * mse(fs[1].numpy(), gs[1].numpy())
    np.testing.assert_allclose(value(loss, fs, gs), expected, rtol=1e-9)


def test_ofd_halves_from_deep_to_shallow():
    assert OFD(layers=LAYERS).layer_weights == (0.25, 0.5, 1.0)
    assert OFD(layers=LAYERS, layer_weights=(1, 2, 3)).layer_weights == (1, 2, 3)
    assert OFD().layer_weights == (1.0,)


@pytest.mark.parametrize("seed", SEEDS)
def test_fsp(seed):
    """Sizes meet per layer between the models, and per flow between the layers."""
    ours, theirs = [(2, 6, 4), (3, 3, 2)], [(2, 3, 4), (4, 3, 4)]
    fs = [maps(shape, seed + i) for i, shape in enumerate(ours)]
    gs = [maps(shape, seed + 10 + i) for i, shape in enumerate(theirs)]
    loss = bound(FSP(), ours, theirs)
    assert loss.aligners[0].projector is None
    common = [(3, 4), (3, 2)]
    f1, f2 = (pooled(x.numpy(), size) for x, size in zip(fs, common, strict=True))
    g1, g2 = (pooled(x.numpy(), size) for x, size in zip(gs, common, strict=True))
    f2 = convolved(f2, loss.aligners[1].projector)
    expected = np.zeros(ROWS)
    for row, c, d in np.ndindex(ROWS, 2, 4):
        flows = [
            np.mean([pooled(x1, (3, 2))[row, c, i, j] * x2[row, d, i, j] for i, j in np.ndindex(3, 2)])
            for x1, x2 in ((f1, f2), (g1, g2))
        ]
        expected[row] += (flows[0] - flows[1]) ** 2 / 8
    np.testing.assert_allclose(value(loss, fs, gs), expected, rtol=1e-9)


def test_fsp_adds_the_flows_between_neighbours():
    shapes = [(2, 4, 4)] * 3
    fs, gs = ([maps((2, 4, 4), seed + i) for i in range(3)] for seed in (0, 10))
    whole = value(bound(FSP(layers=LAYERS), shapes, shapes), fs, gs)
    parts = [
        value(bound(FSP(layers=LAYERS[i : i + 2]), shapes[:2], shapes[:2]), fs[i : i + 2], gs[i : i + 2])
        for i in range(2)
    ]
    np.testing.assert_allclose(whole, sum(parts), rtol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_review(seed):
    ours, theirs = [(2, 9, 6), (3, 5, 3), (4, 3, 2)], [(3, 10, 8), (5, 5, 4), (2, 3, 2)]
    fs = [maps(shape, seed + i) for i, shape in enumerate(ours)]
    gs = [maps(shape, seed + 10 + i) for i, shape in enumerate(theirs)]
    loss = bound(Review(layer_weights=(1.0, 2.0, 3.0), seed=seed), ours, theirs)
    expected, deeper = np.zeros(ROWS), None
    for place in (2, 1, 0):
        fusion = loss.fusions[place]
        x = each_row_normalised(convolved(fs[place].numpy(), fusion.reduce[0]), fusion.reduce[1])
        if deeper is not None:
            deeper = nearest(deeper, x.shape[2:])
            share = 1 / (1 + np.exp(-convolved(np.concatenate([x, deeper], 1), fusion.attention)))
            x = x * share[:, :1] + deeper * share[:, 1:]
        deeper = nearest(x, gs[place].shape[2:])
        f = each_row_normalised(convolved(deeper, fusion.expand[0]), fusion.expand[1])
        g = gs[place].numpy()
        errors = {1.0: mse(f, g)}
        for size in (4, 2, 1):
            if size < min(f.shape[2:]):
                errors[min(errors) / 2] = mse(pooled(f, (size, size)), pooled(g, (size, size)))
        expected += loss.layer_weights[place] * sum(w * e for w, e in errors.items()) / sum(errors)
    np.testing.assert_allclose(value(loss, fs, gs), expected, rtol=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
def test_pod_is_that_of_the_authors_code(seed):
    """Squares, summed over width and over height, side by side at unit length; the norm of the difference."""
    f, g = maps((2, 3, 4), seed), maps((2, 3, 4), seed + 10)
    expected = []
    for row in range(ROWS):
        sums = []
        for x in (f[row].numpy() ** 2, g[row].numpy() ** 2):
            over_width = [x[c, i, :].sum() for c in range(2) for i in range(3)]
            over_height = [x[c, :, j].sum() for c in range(2) for j in range(4)]
            both = np.array(over_width + over_height)
            sums.append(both / math.sqrt((both**2).sum()))
        expected.append(math.sqrt(((sums[0] - sums[1]) ** 2).sum()))
    np.testing.assert_allclose(value(bound(POD(), [(2, 3, 4)], [(2, 3, 4)]), [f], [g]), expected, rtol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_cosine_is_one_minus_the_cosine(seed):
    f, g = maps((5,), seed), maps((5,), seed + 10)
    pairs = zip(f.numpy(), g.numpy(), strict=True)
    expected = [1 - sum(a * b) / math.sqrt(sum(a * a) * sum(b * b)) for a, b in pairs]
    np.testing.assert_allclose(value(bound(LessForget(), [(5,)], [(5,)]), [f], [g]), expected, rtol=1e-9)


@pytest.mark.parametrize("kind", [POD, LessForget])
def test_layers_of_other_shapes_are_refused(kind):
    with pytest.raises(UserError, match="one shape"):
        bound(kind(), [(2, 3, 4)], [(2, 3, 3)])


# What they have in common

MAKERS: dict[str, Callable[[], Layered]] = {
    "features": lambda: Features(align="conv1x1"),
    "fitnet": FitNet,
    "attention": Attention,
    "nst": NST,
    "nst_gaussian": lambda: NST(kernel="gaussian"),
    "vid": lambda: VID(align="conv1x1"),
    "ofd": lambda: OFD(align="conv1x1"),
    "review": Review,
    "mgd": MGD,
    "fsp": lambda: FSP(layers=LAYERS),
}


def sizes(loss: Layered, *shapes: Shape) -> list[Shape]:
    return list(itertools.islice(itertools.cycle(shapes), loss.count))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("count", [1, 4])
def test_odd_and_oblong_maps_in_half_precision_give_finite_values_and_gradients(name, count):
    loss = MAKERS[name]()
    ours, theirs = sizes(loss, (3, 7, 5), (2, 1, 3)), sizes(loss, (3, 4, 6), (4, 3, 1))
    bound(loss, ours, theirs).float()
    fs = [maps(shape, i, count).bfloat16().requires_grad_() for i, shape in enumerate(ours)]
    gs = [maps(shape, i + 9, count).half().requires_grad_() for i, shape in enumerate(theirs)]
    named = (dict(zip(layers or ("stage1",), x, strict=True)) for layers, x in ((loss.layers, fs), (loss.against, gs)))
    a, b = (Signals(None, torch.arange(1), features) for features in named)
    result = loss(batch(count), a, b)
    assert result.shape == (count,)
    assert result.dtype == torch.float32
    result.mean().backward()
    assert all(torch.isfinite(f.grad).all() for f in fs)
    assert all(g.grad is None for g in gs), "a teacher learns nothing"
    own = list(loss.parameters())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in own)
    assert name in ("attention", "nst", "nst_gaussian") or own


@pytest.mark.parametrize("name", ["nst_gaussian", "vid", "norm", "ofd", "positions"])
def test_other_options_keep_the_contract_too(name):
    others = {"norm": lambda: Attention(p=1, variant="norm"), "positions": lambda: MGD(mask="positions", ratio=0.6)}
    check_loss({**MAKERS, **others, "vid": lambda: VID(variance=0.1), "ofd": OFD}[name])


@pytest.mark.parametrize("name", MAKERS)
def test_gradient_is_that_of_the_value(name):
    loss = MAKERS[name]()
    ours, theirs = sizes(loss, (2, 4, 3), (2, 2, 3)), sizes(loss, (3, 2, 3))
    bound(loss, ours, theirs)
    fs = [maps(shape, i, 2).requires_grad_() for i, shape in enumerate(ours)]
    gs = [maps(shape, i + 9, 2) for i, shape in enumerate(theirs)]
    assert torch.autograd.gradcheck(lambda *fs: loss.total(list(fs), gs), tuple(fs), fast_mode=True)


@pytest.mark.parametrize("name", MAKERS)
def test_own_parameters_come_from_their_own_generator_and_stay_while_shapes_stay(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    loss, twin = MAKERS[name](), MAKERS[name]()
    ours, theirs = sizes(loss, (2, 4, 3)), sizes(loss, (3, 4, 3))
    for each in (loss, twin):
        bound(each, ours, theirs)
    assert torch.equal(torch.get_rng_state(), before), "the global generator belongs to others"
    assert all(torch.equal(a, b) for a, b in zip(loss.parameters(), twin.parameters(), strict=True))
    kept = list(map(id, loss.parameters()))
    bound(loss, ours, theirs)
    assert list(map(id, loss.parameters())) == kept, "what was learned is kept from one experience to the next"


@pytest.mark.parametrize("name", MAKERS)
def test_layers_named_twice_or_not_at_all_or_flat_are_refused(name):
    loss = MAKERS[name]()
    side = Spec((0,), (0,), feature="stage1", shape=(3, 4, 4), shapes=dict.fromkeys(LAYERS, (3, 4, 4)))
    if loss.layers:
        with pytest.raises(UserError, match="name them once"):
            loss.bind(side, side)
    else:
        with pytest.raises(UserError, match="name the layers to compare"):
            loss.bind(Spec((0,), (0,)), side)
    flat = Spec((0,), (0,), feature=None if loss.layers else "stage1", shape=(3,), shapes=dict.fromkeys(LAYERS, (3,)))
    if loss.maps_only:
        with pytest.raises(UserError, match=r"maps .* are needed"):
            loss.bind(flat, flat)
    elif name == "fitnet":
        loss.bind(flat, flat)
    else:
        with pytest.raises(UserError, match=rf"{loss.called}: align conv1x1 does not fit vectors"):
            loss.bind(flat, flat)
