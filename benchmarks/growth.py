"""Growth: what an experience costs, and how much memory is held, as a stream gets longer.

    python benchmarks/growth.py

Fifty domains (permuted MNIST, 2,000 training rows each, 10,000 test rows each), MLP, distillation from the previous
self, 500 replayed rows. Training should cost the same every time, evaluation grow linearly with what was seen, memory
stay flat: the most that was held so far, freed memory included, which is kept as in a run. Data is looked for in
`$CLKD_DATA`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from contest import KEPT, allocate, machine

from clkd.cache import cache_directory
from clkd.engine.compose import Composer
from clkd.engine.evaluate import evaluate
from clkd.engine.loop import Loop
from clkd.options import Parsing
from clkd.plugins import load_plugins
from clkd.scenario.model import Scenario


def scenario(experiences: int) -> dict[str, object]:
    """A long stream of domains."""
    return {
        "name": "growth",
        "stream": {
            "dataset": {"name": "mnist", "rows_per_class": 200},
            "split": {"by": "domain", "transform": "permuted", "experiences": experiences},
        },
        "student": {"model": {"kind": "mlp", "hidden": [400, 400]}, "head": "linear"},
        "teachers": {"previous": "previous"},
        "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "previous"]}],
        "memory": {"kind": "reservoir", "size": 500},
        "train": {"epochs": 2, "optimizer": {"kind": "sgd", "lr": 0.05}},
    }


def anonymous_memory() -> float:
    """Megabytes this process holds that no file backs."""
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiences", type=int, default=50)
    given = parser.parse_args()
    allocate(KEPT)  # as a run does
    registry = load_plugins().registry
    checked = Scenario.model_validate(scenario(given.experiences), context=Parsing(registry))
    composed = Composer(checked, registry, torch.device("cpu"), cache_directory(), Path.cwd()).compose()
    parts, stream, loop = composed.parts, composed.stream, Loop(composed.parts, checked.train, seed=0)
    print("| experiences seen | training, s | evaluation, s | evaluation, ms per experience | most memory so far, MB |")
    print("|---|---|---|---|---|")
    most = 0.0
    for experience in stream:
        start = time.perf_counter()
        loop.train(experience, parts.begin(experience, 0))
        parts.end(experience)
        trained = time.perf_counter()
        evaluate(parts.student, stream[: experience.index + 1], parts.augment, 512, 10)
        most = max(most, anonymous_memory())
        trains, tests = trained - start, time.perf_counter() - trained
        seen = experience.index + 1
        if seen in (1, 2) or seen % 10 == 0:
            print(f"| {seen} | {trains:.2f} | {tests:.2f} | {1e3 * tests / seen:.0f} | {most:.0f} |")
    print(f"\n{machine()}; `python benchmarks/growth.py --experiences {given.experiences}`")


if __name__ == "__main__":
    main()
