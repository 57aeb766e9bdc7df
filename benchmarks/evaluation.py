"""Evaluation speed: all five experiences' test rows after the last one, clkd beside Avalanche.

    python benchmarks/evaluation.py mlp
    python benchmarks/evaluation.py resnet8

clkd's pass gives class-incremental and task-aware accuracy and the confusion matrix; Avalanche's gives one accuracy.
"Arithmetic alone" is the student's forward pass in the same batches, which no loop in float32 can exceed.
"""

from __future__ import annotations

import argparse
from functools import partial

import peers
import plain
import torch
from contest import Contestant, contest, machine, table
from training import MEMORY, PLAIN, SHAPE, WORK, compose, timed

from clkd.engine.compose import Composition
from clkd.engine.evaluate import evaluate

BATCH = 512


def clkd(composed: Composition, rows: int) -> Contestant:
    """Its evaluation, with a head for all classes."""
    parts, stream = composed.parts, composed.stream
    parts.student.grow(range(10), 0, torch.Generator())
    work = partial(evaluate, parts.student, stream, parts.augment, BATCH, 10)
    return lambda: timed(work, lambda: rows, parts.device)


@torch.no_grad()
def bound(name: str, rows: int, device: torch.device) -> float:
    """Rows per second of the student's forward pass alone, channels-last."""
    model = PLAIN[name]().to(device, memory_format=torch.channels_last).eval()
    x = torch.randn(BATCH, *SHAPE[name], device=device).contiguous(memory_format=torch.channels_last)
    batches = rows // BATCH
    return timed(lambda: [model(x) for _ in range(batches)], lambda: batches * BATCH, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    device, work = torch.device("cuda" if torch.cuda.is_available() else "cpu"), WORK[given.work]
    composed, _ = compose(work, device)
    parts, stream = composed.parts, composed.stream
    rows = sum(len(experience.test) for experience in stream)
    contestants: dict[str, Contestant] = {
        "clkd": clkd(composed, rows),
        "clkd, bf16": clkd(compose(work, device, precision="bf16")[0], rows),
        "the student's arithmetic alone": lambda: bound(given.work, rows, device),
    }
    benchmarks = {"Avalanche, given the same tensors": peers.fed_by_clkd(stream, parts.augment.crop)}
    if given.work == "mlp":
        benchmarks["Avalanche, its own SplitMNIST"] = peers.own_mnist()
    for name, benchmark in benchmarks.items():
        strategy = peers.strategy(PLAIN[given.work](), work["batch"], work["lr"], MEMORY, plain.TEMPERATURE, device)
        contestants[name] = lambda s=strategy, b=benchmark: timed(lambda: s.eval(b.test_stream), lambda: rows, device)
    print(table(f"evaluation, {given.work}", contest(contestants, given.rounds)))
    print(f"\n{machine()}; `python benchmarks/evaluation.py {given.work} --rounds {given.rounds}`")


if __name__ == "__main__":
    main()
