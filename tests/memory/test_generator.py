"""A generator learns what rows look like, replays them by its copy alone, and labels them as the student did."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.optim import Adam

from clkd.errors import UserError
from clkd.experience import Experience
from clkd.memory.generator import Generator
from clkd.memory.vae import VAE, divergence
from clkd.models.backbones.mlp import MLP
from clkd.models.heads import Linear, Multi
from clkd.models.student import Student
from clkd.plugins import load_plugins
from clkd.scenario.load import ScenarioErrors, load
from clkd.seeding import generator
from clkd.signals import Batch
from clkd.testing import material

SHAPE = (1, 3, 4)
PIXELS = math.prod(SHAPE)


def batch(new: int, replayed: int = 0, seed: int = 0) -> Batch:
    n = new + replayed
    x = torch.randint(256, (n, *SHAPE), generator=generator(seed), dtype=torch.uint8)
    i = torch.arange(n)
    return Batch(x, i % 2, i, i, i, new)


def student(head: nn.Module | None = None, classes: tuple[tuple[int, ...], ...] = ((3, 0), (5, 1))) -> Student:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = Student(MLP(SHAPE, hidden=(8,)), head or Linear(8), SHAPE)
    for experience, some in enumerate(classes):
        made.grow(some, experience, generator(experience))
    return made


def experience(index: int = 0) -> Experience:
    return list(material.experiences())[index]


def taught(steps: int = 3, made: Student | None = None) -> Generator:
    """One whose first experience is over."""
    memory = Generator(hidden=(9, 7), latent=4, student=made)
    for step in range(steps):
        memory.learn(batch(6, seed=step))
    memory.end(experience(), made or student())
    return memory


def by_hand(vae: VAE, x: Tensor, noise: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The lower bound's halves in float64 numpy, layer by layer, for two hidden layers."""
    w = {name: tensor.detach().double().numpy() for name, tensor in vae.state_dict().items()}

    def linear(name: str, rows: np.ndarray) -> np.ndarray:
        return rows @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    rows = x.double().numpy().reshape(len(x), -1)
    inner = np.maximum(linear("encoder.2", np.maximum(linear("encoder.0", rows), 0)), 0)
    mean, log_variance = linear("mean", inner), linear("log_variance", inner)
    code = mean + np.exp(log_variance / 2) * noise.double().numpy()
    outer = np.maximum(linear("decoder.2", np.maximum(linear("decoder.0", code), 0)), 0)
    p = 1 / (1 + np.exp(-linear("decoder.4", outer)))
    apart = -(rows * np.log(p) + (1 - rows) * np.log(1 - p)).sum(1)
    return apart, 0.5 * (mean**2 + np.exp(log_variance) - log_variance - 1).sum(1)


def test_the_bound_is_that_of_an_independent_reference() -> None:
    vae = VAE(SHAPE, (9, 7), 4)
    x, noise = torch.rand(5, *SHAPE), torch.randn(5, 4)
    said, wanted = vae(x, noise), by_hand(vae, x, noise)
    for ours, theirs in zip(said, wanted, strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-5)


def test_the_divergence_is_torchs_own() -> None:
    mean, log_variance = torch.randn(6, 4), torch.randn(6, 4)
    wanted = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(divergence(mean, log_variance), wanted, rtol=1e-5)
    assert not divergence(torch.zeros(2, 3), torch.zeros(2, 3)).any()


def test_its_layers_are_784_400_400_100_and_back() -> None:
    vae = VAE((1, 28, 28))
    widths = [tuple(layer.weight.shape[::-1]) for layer in vae.modules() if isinstance(layer, nn.Linear)]
    assert widths == [(784, 400), (400, 400), (400, 100), (400, 100), (100, 400), (400, 400), (400, 784)]


def test_a_step_weighs_the_cth_experience_by_1_over_c() -> None:
    """Against a step that is spelled out: torch's own distributions, its own Adam, on a copy."""
    memory = taught()
    twin = VAE(SHAPE, (9, 7), 4)
    twin.load_state_dict(memory.state_dict()["vae"])
    adam = Adam(twin.parameters(), 0.001)
    adam.load_state_dict(memory.state_dict()["optimizer"])
    draws = torch.Generator()
    draws.set_state(memory.draws.get_state())
    memory.past = 2  # the third experience is under way
    rows = batch(4, 5)
    told = memory.learn(rows)

    x, noise = rows.x.float() / 255, torch.randn(9, 4, generator=draws)
    inner = twin.encoder(x.flatten(1))
    code = Normal(twin.mean(inner), (twin.log_variance(inner) / 2).exp())
    logits = twin.decoder(code.mean + code.stddev * noise)
    apart = -Bernoulli(logits=logits, validate_args=False).log_prob(x.flatten(1)).sum(1)
    bound = apart + kl_divergence(code, Normal(0.0, 1.0)).sum(1)
    (bound[:4].mean() / 3 + bound[4:].mean() * 2 / 3).backward()
    adam.step()
    assert memory.vae is not None
    for ours, theirs in zip(memory.vae.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.allclose(told["generator/reconstruction"], apart[:4].mean() / 3 + apart[4:].mean() * 2 / 3)


def test_it_comes_to_make_up_rows_like_those_it_saw() -> None:
    """Two kinds of rows, white on the left or on the right: what it makes up is one or the other, and both come."""
    x = torch.zeros(64, *SHAPE, dtype=torch.uint8)
    x[:32, ..., :2] = 255
    x[32:, ..., 2:] = 255
    i = torch.arange(64)
    memory = Generator(hidden=(32,), latent=4, lr=0.01)
    for _ in range(300):
        memory.learn(Batch(x, i, i, i, i, 64))
    memory.end(experience(), student())
    rows = memory.sample(400, generator(2))
    assert rows is not None
    near = (rows.x.float().flatten(1)[:, None] - x[[0, 32]].float().flatten(1)).abs().mean(2) / 255
    assert near.min(1).values.mean() < 0.1
    share = (near.argmin(1) == 0).float().mean()
    assert 0.25 < share < 0.75


def test_what_is_replayed_comes_from_the_copy_alone() -> None:
    memory = taught()
    before = memory.sample(5, generator(3))
    for step in range(3):
        memory.learn(batch(4, 4, seed=step))
    after = memory.sample(5, generator(3))
    assert before is not None
    assert after is not None
    assert torch.equal(before.x, after.x)
    assert torch.equal(before.y, after.y)
    memory.end(experience(1), student())
    moved = memory.sample(5, generator(3))
    assert moved is not None
    assert not torch.equal(before.x, moved.x)


def test_nothing_is_replayed_in_the_first_experience_and_rows_count_as_replayed_after() -> None:
    memory = Generator(hidden=(9,), latent=4)
    memory.learn(batch(6))
    assert memory.sample(5, generator(0)) is None
    memory.end(experience(), student())
    rows = memory.sample(5, generator(0))
    assert rows is not None
    assert (rows.new, len(rows), rows.x.dtype, tuple(rows.x.shape)) == (0, 5, torch.uint8, (5, *SHAPE))
    assert memory.sample(0, generator(0)) is None
    assert len(memory) == 0


def test_labels_are_what_the_student_found_most_likely_when_the_experience_ended() -> None:
    made = student()
    memory = taught(made=made)
    wanted = memory.sample(200, generator(4))
    assert wanted is not None
    said = made(memory.plain(wanted.x)).argmax(1)
    assert torch.equal(wanted.y, torch.tensor(made.class_ids)[said])
    assert torch.equal(wanted.experience, torch.tensor(made.born)[said])
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.neg_()
    again = memory.sample(200, generator(4))
    assert again is not None
    assert torch.equal(again.y, wanted.y)


def test_a_column_that_no_experience_brought_is_no_label() -> None:
    made = load_plugins().registry
    head = made.build(made.parse("heads", "fixed"), in_features=8, class_names=tuple("abcdef"))
    memory = taught(made=student(head, classes=((3, 0),)))
    rows = memory.sample(200, generator(4))
    assert rows is not None
    assert set(rows.y.tolist()) <= {0, 3}


def test_a_student_that_is_told_its_task_labels_within_a_past_task_drawn_evenly() -> None:
    memory = taught(made=student(Multi(8)))
    rows = memory.sample(4000, generator(4))
    assert rows is not None
    tasks = {0: {3, 0}, 1: {5, 1}}
    assert all(y in tasks[task] for y, task in zip(rows.y.tolist(), rows.experience.tolist(), strict=True))
    assert abs(float(rows.experience.float().mean()) - 0.5) < 5 * 0.5 / 4000**0.5
    assert memory.labeller is not None
    said = memory.labeller(memory.plain(rows.x))
    for task, columns in enumerate(([0, 1], [2, 3])):
        own = rows.experience == task
        best = torch.tensor(columns)[said[own][:, columns].argmax(1)]
        assert torch.equal(rows.y[own], memory.labeller.class_ids_tensor[best])


def test_its_bytes_are_counted() -> None:
    """The generator, Adam's two moments and a step count of each parameter, the copy, and the student's copy."""
    made = student()
    memory = taught(made=made)
    vae = VAE(SHAPE, (9, 7), 4)
    own, tensors = 4 * sum(p.numel() for p in vae.parameters()), len(list(vae.parameters()))
    of_student = sum(t.nbytes for t in (*made.parameters(), *made.buffers()))
    assert memory.nbytes() == 4 * own + 4 * tensors + of_student


def test_vectors_are_refused() -> None:
    class Vectors:
        shape = (7,)

    with pytest.raises(UserError, match="rows are vectors of 7 features"):
        Generator(context=Vectors())  # type: ignore[arg-type]  # all that is read of it


SCENARIO = """\
name: m
stream: {dataset: digits, split: {by: class, experiences: 5}}
student: {model: mlp, head: %s}
losses: [cross_entropy]
memory: generator
train: {optimizer: sgd}
"""
WRONG = [
    ("linear", "phases: [{name: anew, rows: memory, optimizer: sgd}]\n", "phases.anew trains on those that are kept"),
    ("{kind: ncm, rows: memory}", "", "the ncm head answers by those that are kept"),
]


@pytest.mark.parametrize(("head", "more", "why"), WRONG, ids=["phase", "head"])
def test_who_wants_kept_rows_is_refused_before_training(tmp_path, head, more, why) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(SCENARIO % head + more)
    with pytest.raises(ScenarioErrors, match=why):
        load(path, [], load_plugins().registry)
