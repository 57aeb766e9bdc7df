"""Training speed: clkd beside a plain eager PyTorch loop and beside Avalanche, at equal work.

    python benchmarks/training.py mlp          # Split-MNIST, MLP 784-400-400, batch 128 + 128 replayed
    python benchmarks/training.py resnet8      # 10,000 images of CIFAR-10, ResNet-8, crop and flip, 128 + 128 replayed

All train the second experience of the stream (the first one with a previous self) for one epoch, with cross-entropy,
distillation from the previous self (T = 2) and replay from a memory of 1,000 rows. Making everybody ready for the
experience is in clkd's time, compiling is not (it happens once a run). Data is looked for in `$CLKD_DATA`. Contestants
whose name contains none of the words of `--only` are left out; without Avalanche installed, leave Avalanche out. What
is called bf16 has bfloat16 products, and is only of interest where the processor has instructions for them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import plain
import torch
from contest import Contestant, contest, machine, table

from clkd.cache import cache_directory
from clkd.engine.compose import Composer, Composition
from clkd.engine.loop import Loop
from clkd.options import Parsing
from clkd.plugins import load_plugins
from clkd.scenario.model import Scenario

WORK: dict[str, dict[str, Any]] = {
    "mlp": {"dataset": "mnist", "model": {"kind": "mlp", "hidden": [400, 400]}, "batch": 128, "lr": 0.05},
    "resnet8": {
        "dataset": {"name": "cifar10", "rows_per_class": 1000},
        "model": {"kind": "resnet8"},
        "batch": 128,
        "lr": 0.05,
    },
}
PLAIN = {"mlp": plain.mlp, "resnet8": plain.small_resnet}
SHAPE = {"mlp": (1, 28, 28), "resnet8": (3, 32, 32)}
MEMORY = 1000


def compose(work: dict[str, Any], device: torch.device, fused: bool = False, **train: Any) -> tuple[Composition, Loop]:
    """The work as a scenario."""
    optimizer = {"kind": "sgd", "lr": work["lr"], "momentum": 0.9, **({"fused": True} if fused else {})}
    kd = {"kind": "kd", "between": ["student", "previous"], "temperature": plain.TEMPERATURE}
    scenario = {
        "name": "benchmark",
        "stream": {"dataset": work["dataset"], "split": {"by": "class", "experiences": 5}},
        "student": {"model": work["model"], "head": "linear"},
        "teachers": {"previous": "previous"},
        "losses": ["cross_entropy", kd],
        "memory": {"kind": "reservoir", "size": MEMORY},
        "train": {"batch_size": work["batch"], "optimizer": optimizer, **train},
    }
    return composed_from(scenario, device, cache_directory())


def composed_from(data: dict[str, Any], device: torch.device, cache: Path) -> tuple[Composition, Loop]:
    """A scenario's parts, and the loop that trains them."""
    registry = load_plugins().registry
    scenario = Scenario.model_validate(data, context=Parsing(registry))
    composed = Composer(scenario, registry, device, cache, Path.cwd()).compose()
    return composed, Loop(composed.parts, scenario.train, seed=0)


class Clkd:
    """clkd's own engine, composed once, so that what is compiled once a run is compiled once here."""

    def __init__(self, composed: Composition, loop: Loop, device: torch.device, first: int | None = 20) -> None:
        """Trains the first experience, `first` batches of it."""
        self.composed, self.loop, self.device = composed, loop, device
        self._teach(0, batches=first)
        self.composed.parts.end(self.composed.stream[0])

    def _teach(self, experience: int, batches: int | None = None) -> None:
        self.loop.limit_batches = batches
        chunk = self.composed.stream[experience]
        self.loop.train(chunk, self.composed.parts.begin(chunk, 0))

    def __call__(self) -> float:
        """Rows per second of the second experience, replayed rows included."""
        before = self.loop.rows
        return timed(lambda: self._teach(1), lambda: self.loop.rows - before, self.device)


def plain_rate(name: str, device: torch.device, channels_last: bool = False, bf16: bool = False) -> float:
    """Rows per second of the loop in plain.py."""
    work = WORK[name]
    composed, _ = compose(work, device)
    epoch = plain.second_experience(composed, PLAIN[name](), work["batch"], work["lr"], MEMORY, channels_last, bf16)
    return timed(epoch, lambda: 2 * len(composed.stream[1].train), device)


def bound(name: str, device: torch.device) -> float:
    """What no eager loop can exceed: the student's forward and backward passes alone, channels-last."""
    size = 2 * WORK[name]["batch"]
    x = torch.randn(size, *SHAPE[name], device=device).contiguous(memory_format=torch.channels_last)
    model = PLAIN[name]().to(device, memory_format=torch.channels_last)

    def passes() -> None:
        for _ in range(20):
            model.zero_grad(set_to_none=True)
            model(x).sum().backward()

    return timed(passes, lambda: 20 * size, device)


def avalanche_rate(name: str, device: torch.device, own: bool) -> float:
    """Rows per second of Avalanche's strategy."""
    work = WORK[name]
    composed, _ = compose(work, device)
    benchmark = peers.own_mnist() if own else peers.fed_by_clkd(composed.stream, composed.parts.augment.crop)
    strategy = peers.strategy(PLAIN[name](), work["batch"], work["lr"], MEMORY, plain.TEMPERATURE, device)
    strategy.train(benchmark.train_stream[0])
    second = benchmark.train_stream[1]
    return timed(lambda: strategy.train(second), lambda: 2 * len(second.dataset), device)


def timed(work: Callable[[], Any], rows: Callable[[], int], device: torch.device) -> float:
    """Rows per second of wall time."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return rows() / (time.perf_counter() - start)


def contestants(name: str, device: torch.device) -> dict[str, Callable[[], Contestant]]:
    """Everybody who can take part, by name, to be made when it does."""
    work = WORK[name]
    everybody: dict[str, Callable[[], Contestant]] = {
        "clkd": lambda: Clkd(*compose(work, device), device),
        "plain eager loop": lambda: lambda: plain_rate(name, device),
        "the student's arithmetic alone": lambda: lambda: bound(name, device),
        "Avalanche, given the same tensors": lambda: lambda: avalanche_rate(name, device, own=False),
    }
    if name == "mlp":
        everybody["clkd, bf16, fused"] = lambda: Clkd(*compose(work, device, fused=True, precision="bf16"), device)
        everybody["plain eager loop, bf16, fused"] = lambda: lambda: plain_rate(name, device, bf16=True)
        everybody["Avalanche, its own SplitMNIST"] = lambda: lambda: avalanche_rate(name, device, own=True)
    else:
        fast = {"compile": True, "precision": "bf16"}
        everybody["clkd, compile: true, bf16"] = lambda: Clkd(*compose(work, device, **fast), device)
        everybody["plain eager loop, channels-last, bf16, fused"] = lambda: lambda: plain_rate(name, device, True, True)
        everybody["clkd, compile: true"] = lambda: Clkd(*compose(work, device, compile=True), device)
        everybody["plain eager loop, channels-last"] = lambda: lambda: plain_rate(name, device, channels_last=True)
    return everybody


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = {n: m() for n, m in contestants(given.work, device).items() if any(word in n for word in given.only)}
    print(table(f"training, {given.work}", contest(chosen, given.rounds)))
    print(f"\n{machine()}; `python benchmarks/training.py {given.work} --rounds {given.rounds}`")


if __name__ == "__main__":
    main()
