"""Training speed: clkd beside a plain eager PyTorch loop and beside Avalanche, at equal work.

    python benchmarks/training.py mlp          # Split-MNIST, MLP 784-400-400, batch 128 + 128 replayed
    python benchmarks/training.py resnet8      # CIFAR-10, ResNet-8, crop and flip, batch 64 + 64 replayed

All three train the second experience of the stream (the first one with a previous self) with cross-entropy,
distillation from the previous self (T = 2) and replay from a memory of 1,000 rows. Data is looked for in `$CLKD_DATA`.
Without Avalanche installed, that row is left out.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from contest import contest, machine, table
from torch import Tensor, nn

from clkd.cache import cache_directory
from clkd.engine.compose import Composer, Composition
from clkd.engine.loop import Loop
from clkd.options import Parsing
from clkd.plugins import load_plugins
from clkd.scenario.model import Scenario

WORK: dict[str, dict[str, Any]] = {
    "mlp": {"dataset": "mnist", "model": {"kind": "mlp", "hidden": [400, 400]}, "batch": 128, "lr": 0.05},
    "resnet8": {"dataset": "cifar10", "model": {"kind": "resnet8"}, "batch": 64, "lr": 0.05},
}
MEMORY, TEMPERATURE = 1000, 2.0


def compose(work: dict[str, Any], device: torch.device) -> tuple[Composition, Loop]:
    """The work as a scenario."""
    registry = load_plugins().registry
    scenario = Scenario.model_validate(
        {
            "name": "benchmark",
            "stream": {"dataset": work["dataset"], "split": {"by": "class", "experiences": 5}},
            "student": {"model": work["model"], "head": "linear"},
            "teachers": {"previous": "previous"},
            "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "previous"], "temperature": TEMPERATURE}],
            "memory": {"kind": "reservoir", "size": MEMORY},
            "train": {"batch_size": work["batch"], "optimizer": {"kind": "sgd", "lr": work["lr"], "momentum": 0.9}},
        },
        context=Parsing(registry),
    )
    composed = Composer(scenario, registry, device, cache_directory(), Path.cwd()).compose()
    return composed, Loop(composed.parts, scenario.train, seed=0)


def clkd_rate(work: dict[str, Any], device: torch.device) -> float:
    """Rows per second of clkd's own engine, replayed rows included; making everybody ready for it is in the time."""
    composed, loop = compose(work, device)
    first, second = composed.stream[0], composed.stream[1]
    loop.limit_batches = 20
    loop.train(first, composed.parts.begin(first, 0))
    composed.parts.end(first)
    loop.limit_batches = None
    before = loop.rows
    return timed(lambda: loop.train(second, composed.parts.begin(second, 0)), lambda: loop.rows - before, device)


def plain_rate(work: dict[str, Any], device: torch.device) -> float:
    """Rows per second of the loop that a good engineer would write: resident tensors, no framework."""
    composed, _ = compose(work, device)
    student, augment, size = composed.parts.student, composed.parts.augment, work["batch"]
    student.grow((0, 1), 0, torch.Generator())
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    student.grow((2, 3), 1, torch.Generator())
    x, y = resident(composed, 1)
    memory_x, memory_y = (rows[:MEMORY] for rows in resident(composed, 0))
    pad = nn.ZeroPad2d(augment.crop)
    optimizer = torch.optim.SGD(student.parameters(), lr=work["lr"], momentum=0.9)
    student.train()

    def view(rows: Tensor) -> Tensor:
        """One random crop and mirroring for the whole batch: less work than clkd's, which draws them per row."""
        if augment.crop:
            top, left = torch.randint(2 * augment.crop + 1, (2,)).tolist()
            rows = pad(rows)[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        return rows.flip(3) if augment.flip and torch.rand(()) < 0.5 else rows

    def epoch() -> None:
        for at in torch.randperm(len(x), device=device).split(size):
            old = torch.randint(len(memory_x), (len(at),), device=device)
            rows = view(torch.cat([x[at], memory_x[old]]))
            labels = torch.cat([y[at], memory_y[old]])
            with torch.no_grad():
                target = teacher(rows)
            logits = student(rows)
            soft = F.kl_div(
                F.log_softmax(logits[:, :2] / TEMPERATURE, 1),
                F.log_softmax(target / TEMPERATURE, 1),
                reduction="batchmean",
                log_target=True,
            )
            loss = F.cross_entropy(logits, labels) + TEMPERATURE**2 * soft
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return timed(epoch, lambda: 2 * len(x), device)


def resident(composed: Composition, experience: int) -> tuple[Tensor, Tensor]:
    """Normalised float images of one experience, on the device."""
    rows = composed.stream[experience].train
    batch = rows.gather(torch.arange(len(rows), device=rows.y.device))
    return composed.parts.augment.plain(batch.x), batch.y


def avalanche_rate(work: dict[str, Any], device: torch.device) -> float:
    """Rows per second of Avalanche's own strategy with its LwF and replay plugins."""
    strategy, benchmark = avalanche_strategy(work, device)
    strategy.train(benchmark.train_stream[0])
    second = benchmark.train_stream[1]
    return timed(lambda: strategy.train(second), lambda: 2 * len(second.dataset), device)


def avalanche_strategy(work: dict[str, Any], device: torch.device) -> tuple[Any, Any]:
    """The strategy and the benchmark it is trained on; nothing is logged."""
    from clkd.streams.avalanche import to_avalanche
    from clkd.vision import avalanche, torchvision

    avalanche(), torchvision()
    from avalanche.training.plugins import EvaluationPlugin, LwFPlugin, ReplayPlugin
    from avalanche.training.supervised import Naive
    from torchvision import transforms

    composed, _ = compose(work, device)
    student = composed.parts.student
    student.grow(range(10), 0, torch.Generator())
    crop = composed.parts.augment.crop
    change = transforms.Compose([transforms.RandomCrop(32, crop), transforms.RandomHorizontalFlip()]) if crop else None
    benchmark = to_avalanche(composed.stream, change)
    strategy = Naive(
        model=student,
        optimizer=torch.optim.SGD(student.parameters(), lr=work["lr"], momentum=0.9),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=work["batch"],
        train_epochs=1,
        device=device,
        plugins=[
            LwFPlugin(alpha=1, temperature=TEMPERATURE),
            ReplayPlugin(mem_size=MEMORY, batch_size=work["batch"], batch_size_mem=work["batch"]),
        ],
        evaluator=EvaluationPlugin(loggers=[]),
    )
    return strategy, benchmark


def timed(work: Callable[[], Any], rows: Callable[[], int], device: torch.device) -> float:
    """Rows per second of wall time."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return rows() / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-avalanche", action="store_true")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    work = WORK[given.work]
    contestants: dict[str, Callable[[], float]] = {
        "clkd": lambda: clkd_rate(work, device),
        "plain eager loop": lambda: plain_rate(work, device),
    }
    if not given.without_avalanche:
        contestants["Avalanche"] = lambda: avalanche_rate(work, device)
    print(table(f"training, {given.work}", contest(contestants, given.rounds)))
    print(f"\n{machine()}; `python benchmarks/training.py {given.work} --rounds {given.rounds}`")


if __name__ == "__main__":
    main()
