"""The loops that a good engineer would write: resident normalised tensors, no framework, nothing measured."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from plain_derpp import reservoir
from torch import Tensor, nn

from clkd.engine.compose import Composition
from clkd.models.backbones.resnet import resnet8, resnet18
from clkd.optimizers import drop_subnormals

TEMPERATURE = 2.0


def mlp() -> nn.Module:
    """784-400-400-10."""
    layers = [nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def small_resnet() -> nn.Module:
    """ResNet-8 with ten classes."""
    return nn.Sequential(resnet8((3, 32, 32)), nn.Linear(64, 10))


def big_resnet(width: int = 64) -> nn.Module:
    """ResNet-18 with ten classes."""
    return nn.Sequential(resnet18((3, 32, 32), width), nn.Linear(8 * width, 10))


def resident(composed: Composition, experience: int) -> tuple[Tensor, Tensor]:
    """Normalised float images of one experience, on the device."""
    rows = composed.stream[experience].train
    batch = rows.gather(torch.arange(len(rows), device=rows.y.device))
    return composed.parts.augment.plain(batch.x), batch.y


def changed(rows: Tensor, crop: int, flip: bool) -> Tensor:
    """One random crop and mirroring for the whole batch: less work than clkd's, which draws them per row."""
    if crop:
        top, left = torch.randint(2 * crop + 1, (2,)).tolist()
        height, width = rows.shape[2:]
        rows = F.pad(rows, (crop,) * 4)[:, :, top : top + height, left : left + width]
    return rows.flip(3) if flip and torch.rand(()) < 0.5 else rows


def distil(z: Tensor, v: Tensor) -> Tensor:
    """`T² KL(softmax(v/T) ‖ softmax(z/T))`, mean over the batch."""
    log_p, log_q = F.log_softmax(z / TEMPERATURE, 1), F.log_softmax(v / TEMPERATURE, 1)
    return TEMPERATURE**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def second_experience(
    composed: Composition,
    model: nn.Module,
    batch: int,
    lr: float,
    memory: int,
    channels_last: bool = False,
    bf16: bool = False,
) -> Callable[[], None]:
    """One epoch of the stream's second experience, ready to be run: cross-entropy, distillation, replay.

    With `bf16` its optimizer is fused, too.
    """
    augment = composed.parts.augment
    (x, y), (old_x, old_y) = resident(composed, 1), (rows[:memory] for rows in resident(composed, 0))
    form = torch.channels_last if channels_last else torch.contiguous_format
    student = model.to(x.device, memory_format=form).train()
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9, fused=bf16)

    def epoch() -> None:
        for at in torch.randperm(len(x), device=x.device).split(batch):
            old = torch.randint(len(old_x), (len(at),), device=x.device)
            rows, labels = torch.cat([x[at], old_x[old]]), torch.cat([y[at], old_y[old]])
            rows = changed(rows, augment.crop, augment.flip).contiguous(memory_format=form)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
                target, logits = ask(teacher, rows).float(), student(rows).float()
            loss = F.cross_entropy(logits[:, :4], labels) + distil(logits[:, :2], target[:, :2])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return epoch


def dark_experience(
    composed: Composition, model: nn.Module, batch: int, lr: float, memory: int, alpha: float, beta: float, bf16: bool
) -> Callable[[], None]:
    """One epoch of the second experience, ready to be run: DER++ with one forward pass and one draw a step.

    The loss is the cross-entropy of new rows, and of as many replayed ones with their distance to stored logits.
    `bf16` is channels-last, too.
    """
    augment, device = composed.parts.augment, composed.parts.device
    (x, y), (kept_x, kept_y) = resident(composed, 1), (rows[:memory].clone() for rows in resident(composed, 0))
    form = torch.channels_last if bf16 else torch.contiguous_format
    student = model.to(device, memory_format=form).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=lr)
    kept_z = torch.zeros(len(kept_x), 10, device=device)

    def epoch() -> None:
        seen = len(kept_x)
        for at in torch.randperm(len(x), device=device).split(batch):
            old = torch.randint(len(kept_x), (batch,), device=device)
            new_x, new_y = x[at], y[at]
            rows = changed(torch.cat([new_x, kept_x[old]]), augment.crop, augment.flip).contiguous(memory_format=form)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = student(rows)
            new_z, old_z = logits.float().split([len(at), batch])
            loss = F.cross_entropy(new_z, new_y) + alpha * F.mse_loss(old_z, kept_z[old])
            loss = loss + beta * F.cross_entropy(old_z, kept_y[old])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            slots, stays = (places.to(device) for places in reservoir(seen, len(at), len(kept_x)))
            kept_x[slots], kept_y[slots], kept_z[slots] = new_x[stays], new_y[stays], new_z.detach()[stays]
            seen += len(at)

    return epoch


def lwf(
    data: list[tuple[Tensor, Tensor]],
    test: list[tuple[Tensor, Tensor]],
    steps: int,
    batch: int,
    tuned: bool = False,
    bf16: bool = False,
    normal: bool = False,
) -> tuple[int, float]:
    """Learning without Forgetting on Split-MNIST, at least `steps` steps an experience: rows trained, accuracy.

    `tuned` takes the fused Adam and asks the previous self once per experience instead of in each step, which is exact
    where nothing is augmented: the least arithmetic that this work can be done with. `normal` has Adam forget subnormal
    numbers now and then, which cost more time than others.
    """
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=tuned)
    previous, rows, accuracy = model, 0, 0.0
    for experience, (x, y) in enumerate(data):
        known = 2 * experience
        answers = ask(previous, x) if tuned else None
        for _ in range(math.ceil(steps / (len(x) // batch))):
            for at in torch.randperm(len(x))[: len(x) // batch * batch].split(batch):
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    logits = model(x[at])[:, : known + 2].float()
                loss = F.cross_entropy(logits, y[at])
                if known:
                    target = ask(previous, x[at]) if answers is None else answers[at]
                    loss = loss + distil(logits[:, :known], target[:, :known])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                rows += len(at)
            if normal:
                drop_subnormals(optimizer)
        previous = copy.deepcopy(model).eval().requires_grad_(False)
        with torch.no_grad():
            hits = [(model(u)[:, : known + 2].argmax(1) == v).float().mean() for u, v in test[: experience + 1]]
        accuracy = torch.stack(hits).mean().item()
    return rows, accuracy


@torch.no_grad()
def ask(model: nn.Module, x: Tensor) -> Tensor:
    """What a teacher says."""
    answers: Tensor = model(x)
    return answers
