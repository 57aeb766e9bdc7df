"""The laws of teachers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from clkd.errors import UserError
from clkd.experience import Experience
from clkd.frozen import state_hash
from clkd.models.student import Student
from clkd.signals import Batch, Needs, Signals
from clkd.teachers.base import Teacher
from clkd.testing import material, tiny

Make = Callable[[], Teacher]
TAP = "penultimate"


def speaks(make: Make) -> None:
    """It has something to say by the second experience, and can be led through a whole stream."""
    assert any(True for _ in _life(make)), "it is not ready in any experience"


def fitting(make: Make) -> None:
    """What it says fits its `spec`: a finite logit for each class, the feature's shape, a bool for each row."""
    for teacher, _, batch, needs in _life(make):
        said, spec, n = teacher.signals(batch, needs), teacher.spec(TAP if needs.features else None), len(batch)
        assert said.class_ids.tolist() == list(spec.class_ids), "its columns are other classes than its spec says"
        assert len(spec.born) == len(spec.class_ids), "spec.born has not one entry for each class"
        assert said.logits is not None, "it says no logits"
        assert said.logits.shape == (n, len(spec.class_ids)), f"logits have shape {tuple(said.logits.shape)}"
        assert all(torch.isfinite(tensor).all() for tensor in material.tensors(said)), "what it says is not finite"
        for name, tensor in said.features.items():
            assert tuple(tensor.shape[1:]) == spec.shape, (
                f"'{name}' has shape {tuple(tensor.shape[1:])}, not its spec's"
            )
        assert said.valid is None or (said.valid.shape == (n,) and said.valid.dtype == torch.bool), "valid is no mask"


def frozen(make: Make) -> None:
    """Its network is in eval mode, and no parameter asks for a gradient."""
    for teacher, _, batch, needs in _life(make):
        teacher.signals(batch, needs)
        network = teacher.module()
        if network is None:
            continue
        awake = [name or "the network" for name, module in network.named_modules() if module.training]
        assert not awake, f"in train mode: {', '.join(awake[:3])}"
        asking = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        assert not asking, f"these ask for a gradient: {', '.join(asking[:3])}"


def no_gradient(make: Make) -> None:
    """What it says carries no gradient."""
    for teacher, _, batch, needs in _life(make):
        with torch.enable_grad():
            said = teacher.signals(batch, needs)
        assert not any(tensor.requires_grad for tensor in material.tensors(said)), "a gradient would reach it"


def repeatable(make: Make) -> None:
    """Asked twice about the same rows, it says the same, bit for bit, and draws no random numbers."""
    for teacher, _, batch, needs in _life(make):
        before = torch.get_rng_state()
        one, other = teacher.signals(batch, needs), teacher.signals(batch, needs)
        assert material.equal(_said(one), _said(other)), "its second answer differs"
        assert torch.equal(before, torch.get_rng_state()), "it draws from torch's global generator"


def row_by_row(make: Make) -> None:
    """What it says of a row depends on no other row: rows are asked about in batches of any size."""
    for teacher, _, batch, needs in _life(make):
        whole = _said(teacher.signals(batch, needs))
        for at in (0, len(batch) - 1):
            alone = _said(teacher.signals(batch.rows(at, at + 1), needs))
            for name, tensor in alone.items():
                assert torch.allclose(tensor, whole[name][at : at + 1], rtol=1e-4, atol=1e-5), (
                    f"'{name}' of row {at} differs when it is asked about alone"
                )


def honest(make: Make) -> None:
    """It is trusted only on rows of classes that it knows, so not on those without a label."""
    for teacher, _, batch, needs in _life(make):
        y = batch.y.clone()
        y[::3] = -1
        said, spec = teacher.signals(replace(batch, y=y), needs), teacher.spec()
        known = torch.isin(y, torch.tensor([c for c, born in zip(spec.class_ids, spec.born, strict=True) if born >= 0]))
        valid = torch.ones_like(known) if said.valid is None else said.valid
        assert not (valid & ~known).any(), "`valid` is true of a row whose class it does not know"


def unmoved(make: Make) -> None:
    """A frozen teacher has the same fingerprint before and after an experience in which it teaches."""
    for teacher, student, batch, needs in _life(make):
        if not teacher.frozen:
            continue
        before = teacher.fingerprint()
        teacher.signals(batch, needs)
        teacher.after_step(student)
        teacher.signals(batch, needs)
        assert teacher.fingerprint() == before, "its fingerprint moves while it teaches"


def fingerprinted(make: Make) -> None:
    """Its fingerprint is about every parameter and buffer of its network."""
    for teacher, *_ in _life(make):
        network = teacher.module()
        for name, tensor in {} if network is None else network.state_dict().items():
            before, held = teacher.fingerprint(), tensor.clone()
            material.change(tensor)
            moved = teacher.fingerprint() != before
            tensor.copy_(held)
            assert moved, f"'{name}' changes and its fingerprint does not"


def apart(make: Make) -> None:
    """It changes neither the student nor the rows that it is shown."""
    for teacher, student, batch, needs in _life(make):
        before, x, y = state_hash(student.train()), batch.x.clone(), batch.y.clone()
        teacher.signals(batch, needs)
        teacher.after_step(student)
        assert state_hash(student) == before, "the student has other weights afterwards"
        assert student.training, "the student is in another mode afterwards"
        assert torch.equal(batch.x, x), "rows have other pixels afterwards"
        assert torch.equal(batch.y, y), "rows have other labels afterwards"


def own(make: Make) -> None:
    """What it says changes only where it is told of a step: it shares no tensor with the student."""
    for teacher, student, batch, needs in _life(make):
        before = _said(teacher.signals(batch, needs))
        held = copy.deepcopy(student.state_dict())
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(0.5)
        after = _said(teacher.signals(batch, needs))
        student.load_state_dict(held)
        assert material.equal(before, after), "it moves with the student's weights"


def state(make: Make) -> None:
    """A fresh teacher that takes the state of another, between or within experiences, goes on as that one does."""
    student, one, other = tiny.student(), _made(make), _made(make)
    for experience in tiny.stream():
        tiny.grow(student, experience)
        for teacher in (one, other):
            teacher.begin(experience, student)
        _assert_alike(one, other, experience, "begin")
        tiny.learn(student, experience)
        one.after_step(student)
        other.load_state_dict(copy.deepcopy(one.state_dict()))
        _assert_alike(one, other, experience, "a step")
        one.end(experience, student)
        other = _made(make)
        other.load_state_dict(copy.deepcopy(one.state_dict()))


def identified(make: Make) -> None:
    """What it names as its `identity` is plain data, and two with the same one say the same."""
    for (one, _, batch, needs), (other, *_) in zip(_life(make), _life(make), strict=True):
        identity = one.identity()
        json.dumps(identity)
        if identity is not None and identity == other.identity():
            said = (_said(teacher.signals(batch, needs)) for teacher in (one, other))
            assert material.equal(*said), "two with one identity say different things"


TEACHER_LAWS: dict[str, Callable[[Make], None]] = {
    law.__name__: law
    for law in (
        speaks, fitting, frozen, no_gradient, repeatable, row_by_row, honest, unmoved, fingerprinted, apart, own, state,
        identified,
    )
}  # fmt: skip


def _made(make: Make) -> Teacher:
    teacher = make()
    try:
        teacher.request((TAP,))
    except UserError:  # one that has logits alone
        teacher.request(())
    return teacher


def _life(make: Make) -> Iterator[tuple[Teacher, Student, Batch, Needs]]:
    """The teacher after a step of each experience in which it is ready, and what to ask it."""
    teacher, student = _made(make), tiny.student()
    for experience in tiny.stream():
        tiny.grow(student, experience)
        teacher.begin(experience, student)
        tiny.learn(student, experience)
        teacher.after_step(student)
        if teacher.ready:
            yield teacher, student, tiny.batch(experience), _needs(teacher)
        teacher.end(experience, student)


def _needs(teacher: Teacher) -> Needs:
    try:
        return Needs(features=(TAP,) if teacher.spec(TAP).shape else ())
    except UserError:
        return Needs()


def _said(signals: Signals) -> dict[str, Tensor]:
    return {**({} if signals.logits is None else {"logits": signals.logits}), **signals.features}


def _assert_alike(one: Teacher, other: Teacher, experience: Experience, moment: str) -> None:
    where = f"after {moment} of experience {experience.index}"
    assert one.ready == other.ready, f"one is ready and the other is not, {where}"
    if one.ready:
        batch = tiny.batch(experience)
        said = (_said(teacher.signals(batch, _needs(one))) for teacher in (one, other))
        assert material.equal(*said), f"they say different things {where}"
