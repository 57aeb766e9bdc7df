"""Evaluation speed: all five experiences' test rows after the last one, clkd beside Avalanche.

    python benchmarks/evaluation.py mlp
    python benchmarks/evaluation.py resnet8

clkd's pass gives class-incremental and task-aware accuracy and the confusion matrix; Avalanche's gives one accuracy.
"""

from __future__ import annotations

import argparse

import peers
import plain
import torch
from contest import Contestant, contest, machine, table
from training import MEMORY, PLAIN, WORK, compose, timed

from clkd.engine.evaluate import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    device, work = torch.device("cuda" if torch.cuda.is_available() else "cpu"), WORK[given.work]
    composed, _ = compose(work, device)
    parts, stream = composed.parts, composed.stream
    parts.student.grow(range(10), 0, torch.Generator())
    rows = sum(len(experience.test) for experience in stream)
    contestants: dict[str, Contestant] = {
        "clkd": lambda: timed(lambda: evaluate(parts.student, stream, parts.augment, 512, 10), lambda: rows, device)
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
