"""Evaluation speed: both accuracies of all five experiences' test rows, clkd beside Avalanche.

python benchmarks/evaluation.py mlp
"""

from __future__ import annotations

import argparse

import torch
from contest import contest, machine, table
from training import WORK, avalanche_strategy, compose, timed

from clkd.engine.evaluate import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    composed, _ = compose(WORK[given.work], device)
    student, stream = composed.parts.student, composed.stream
    student.grow(range(10), 0, torch.Generator())
    strategy, benchmark = avalanche_strategy(WORK[given.work], device)
    rows = sum(len(experience.test) for experience in stream)
    rates = contest(
        {
            "clkd": lambda: timed(
                lambda: evaluate(student, stream, composed.parts.augment, 512, 10), lambda: rows, device
            ),
            "Avalanche": lambda: timed(lambda: strategy.eval(benchmark.test_stream), lambda: rows, device),
        },
        given.rounds,
    )
    print(table(f"evaluation, {given.work}", rates))
    print(f"\n{machine()}; `python benchmarks/evaluation.py {given.work} --rounds {given.rounds}`")


if __name__ == "__main__":
    main()
