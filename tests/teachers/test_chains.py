"""Teachers with teachers: a chain is what a plain loop makes of it, is fitted once, and again if any link changes."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from taught import FIT, MLP, cached, compose, composer, logits, rows_of
from torch import Tensor, nn

from clkd.engine.compose import Composition
from clkd.errors import UserError
from clkd.seeding import generator
from clkd.signals import Needs
from clkd.teachers import FitOptions
from clkd.teachers.fitted import _fingerprint

LARGE, SMALL = {"kind": "mlp", "hidden": [24]}, {"kind": "mlp", "hidden": [6]}
SGD = {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}
TOP = {**FIT, "model": LARGE, "optimizer": SGD, "scheduler": None, "seed": 3}
CHAIN = {**TOP, "model": SMALL, "seed": 4, "temperature": 4.0, "weight": 0.7, "teacher": {**TOP, "recall": False}}
THREE = {**FIT, "model": SMALL, "teacher": {**FIT, "teacher": {**FIT, "model": LARGE}}}

Composing = Callable[..., Composition]


@pytest.fixture
def composed(tmp_path: Path) -> Composing:
    return partial(compose, tmp_path)


def plain_loop(model: nn.Module, x: Tensor, y: Tensor, seed: int, teacher: nn.Module | None = None) -> nn.Module:
    """What a good engineer would write for a link of the chain: cross-entropy, and the formula of Hinton et al."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    model.train()
    for epoch in range(2):
        for at in torch.randperm(len(y), generator=generator(seed, "order", 0, epoch)).split(16):
            z = model(x[at])
            loss = F.cross_entropy(z, y[at])
            if teacher is not None:
                with torch.no_grad():
                    log_q = F.log_softmax(teacher(x[at]) / 4.0, 1)
                rows = (log_q.exp() * (log_q - F.log_softmax(z / 4.0, 1))).sum(1)
                loss = loss + 0.7 * (4.0 * 4.0 * rows).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def test_a_chain_of_two_is_a_plain_loop(tmp_path: Path) -> None:
    """To the last bit."""
    made = composer(tmp_path, CHAIN)
    context = made.ground().context
    registry, store = made.registry, made.material().store
    x, y = (store.train.x / 255 - store.mean.view(1, -1, 1, 1)) / store.std.view(1, -1, 1, 1), store.train.y
    models, classes = [registry.parse("models", each) for each in (LARGE, SMALL)], tuple(range(10))
    large = plain_loop(context.network(models[0], classes, 3), x, y, 3)
    small = plain_loop(context.network(models[1], classes, 4), x, y, 4, large)
    theirs = made.compose().parts.teachers["big"].module()
    assert theirs is not None
    for (name, a), b in zip(theirs.state_dict().items(), small.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    alone = plain_loop(context.network(models[1], classes, 4), x, y, 4)
    assert not torch.equal(alone.state_dict()["head.weight"], small.state_dict()["head.weight"])


def test_asked_ahead_it_teaches_the_same_up_to_rounding(composed: Composing) -> None:
    ahead = {**CHAIN, "teacher": TOP}
    torch.testing.assert_close(logits(composed(ahead), 40), logits(composed(CHAIN), 40), rtol=1e-4, atol=1e-5)


def test_each_link_is_fitted_once(composed: Composing, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "clkd"):
        first = logits(composed(THREE))
        assert caplog.text.count("teacher: fitting mlp") == 3
        caplog.clear()
        assert torch.equal(logits(composed(THREE, seed=5)), first)
    assert "fitting" not in caplog.text
    assert len(cached(tmp_path)) == 3


def with_link(depth: int, **changes: Any) -> dict[str, Any]:
    """`THREE` with a changed link; the student's own teacher is 0."""
    if depth == 0:
        return {**THREE, **changes}
    chain = copy.deepcopy(THREE)
    link: Any = chain
    for _ in range(depth - 1):
        link = link["teacher"]
    link["teacher"] = {**link["teacher"], **changes}
    return chain


@pytest.mark.parametrize(
    ("depth", "change", "fitted"),
    [
        (0, {"epochs": 3}, 1),
        (0, {"temperature": 3.0}, 1),
        (0, {"weight": 0.5}, 1),
        (1, {"seed": 1}, 2),
        (1, {"weight": 0.5}, 2),
        (2, {"model": MLP}, 2),  # which is in the cache by then: only those below it are others
        (2, {"epochs": 3}, 3),
        (2, {"view": {"rotate": 90}}, 3),
    ],
)
def test_a_changed_link_is_fitted_and_all_that_it_teaches(
    composed: Composing, tmp_path: Path, depth: int, change: dict[str, Any], fitted: int
) -> None:
    composed(THREE)
    composed(FIT)
    before = set(cached(tmp_path))
    composed(with_link(depth, **change))
    assert len(set(cached(tmp_path)) - before) == fitted


def test_weights_of_a_file_at_the_top_count_and_not_its_name(composed: Composing, tmp_path: Path) -> None:
    composed(FIT)
    state = load_file(cached(tmp_path)[0])
    for name in ("one", "two"):
        save_file(state, tmp_path / f"{name}.safetensors")
        composed({**FIT, "teacher": {"kind": "checkpoint", "path": f"{name}.safetensors", "model": MLP}})
    assert len(cached(tmp_path)) == 2
    save_file({name: tensor + 0.1 for name, tensor in state.items()}, tmp_path / "two.safetensors")
    composed({**FIT, "teacher": {"kind": "checkpoint", "path": "two.safetensors", "model": MLP}})
    assert len(cached(tmp_path)) == 3


def test_a_teachers_teacher_may_know_few_of_the_classes(composed: Composing, tmp_path: Path) -> None:
    """An expert for three digits teaches a network for all ten, which no other class is compared for."""
    composed(FIT)
    state = load_file(cached(tmp_path)[0])
    expert = {**state, "head.weight": state["head.weight"][:3].clone(), "head.bias": state["head.bias"][:3].clone()}
    save_file(expert, tmp_path / "e.safetensors")
    above = {"kind": "checkpoint", "path": "e.safetensors", "model": MLP}
    made = composed({**FIT, "teacher": {**above, "classes": ["7", None, 2]}})
    assert made.parts.teachers["big"].spec().class_ids == tuple(range(10))
    with pytest.raises(UserError, match=r"teachers.big: teacher: 'classes' names 2 classes, but the teacher has 3"):
        composed({**FIT, "teacher": {**above, "classes": ["7", 2]}})


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ({"teacher": "previous"}, "teacher: 'previous' lives with a run's student"),
        ({"teacher": {"kind": "fit", "model": "mpl"}}, "did you mean 'mlp'"),
        ({"temperature": 4.0}, "temperature: is for learning from a teacher, and none is given"),
        ({"teacher": {**FIT, "generation": 2}}, "generation: unknown key"),
    ],
)
def test_what_cannot_teach_is_refused(composed: Composing, teacher: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        composed({**FIT, **teacher})
    assert len(str(refused.value).splitlines()) == 1


BORN = {**FIT, "kind": "born_again", "generations": 3, "seed": 7}


def test_born_again_is_a_chain_of_equals(composed: Composing, tmp_path: Path) -> None:
    """Bit for bit, in the same files; and the first of them is a teacher like any other."""
    born = logits(composed(BORN))
    files = cached(tmp_path)
    assert len(files) == 3
    equal: dict[str, Any] = {**FIT, "seed": 7}
    for seed in (8, 9):
        equal = {**FIT, "seed": seed, "temperature": 1.0, "weight": 1.0, "teacher": equal}
    assert torch.equal(logits(composed(equal)), born)
    composed({**FIT, "seed": 7})
    composed({**BORN, "generations": 2})
    assert cached(tmp_path) == files


def test_generations_teach_together_by_their_mean(composed: Composing, tmp_path: Path) -> None:
    alone = [logits(composed({**BORN, "generations": n})) for n in (2, 3)]
    first = logits(composed({**FIT, "seed": 7}))
    made = composed({**BORN, "speak": "all"})
    mean = torch.stack([each.softmax(1) for each in (first, *alone)]).mean(0)
    torch.testing.assert_close(logits(made), mean.log())
    assert len(cached(tmp_path)) == 3
    teacher = made.parts.teachers["big"]
    assert teacher.identity() is not None, "its answers are kept as those of any other"
    valid = teacher.signals(rows_of(made), Needs()).valid
    assert valid is not None
    assert valid.all()
    losses = ["cross_entropy", {"kind": "features", "between": ["student.penultimate", "big.penultimate"]}]
    with pytest.raises(UserError, match="a mean of networks has no features"):
        composed({**BORN, "speak": "all"}, losses=losses)


def test_a_stand_in_is_enough_to_look_at(tmp_path: Path) -> None:
    """`clkd explain` and dry runs fit nothing."""
    for teacher in (THREE, BORN, {**BORN, "speak": "all"}):
        looked = composer(tmp_path, teacher).compose(teach=False)
        assert looked.parts.teachers["big"].untrained
    assert cached(tmp_path) == []


def test_a_plain_fit_is_found_under_its_old_name(tmp_path: Path) -> None:
    """What is new counts only where it is used, so that teachers that were fitted before are found."""
    made = composer(tmp_path, FIT)
    options = made.scenario.teachers["big"].options
    assert isinstance(options, FitOptions)
    context = made.ground().context
    recipe = options.model_dump(
        mode="json", include={"model", "epochs", "batch_size", "optimizer", "scheduler", "seed"}
    )
    versions = {"version": 1, "device": "cpu", "torch": str(torch.__version__)}
    facts = {**versions, "options": recipe, "data": context.data_fingerprint}
    named = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    assert _fingerprint(options, context, None) == named
