"""Every memory, and retrieval by interference, with experience replay on a small real stream: what they come to.

    python benchmarks/memories.py

Digits (1,797 pictures of 8×8, in scikit-learn), two classes an experience, MLP 64-100-100, cross-entropy of 16 new and
16 replayed rows, SGD 0.05 with momentum, memory of 50 rows, five epochs an experience or one. Each number is the mean
over seeds, which change weights, order and draws, and its standard deviation.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from contest import machine, save

from clkd.engine.execute import execute
from clkd.plugins import Plugins, load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

SIZE = 50
MIR = {"kind": "mir", "candidates": 50}
MEMORIES: dict[str, str | dict[str, Any]] = {
    "none": "none",
    "random": {"kind": "random", "size": SIZE},
    "class_balanced": {"kind": "class_balanced", "size": SIZE},
    "experience_balanced": {"kind": "experience_balanced", "size": SIZE},
    "herding": {"kind": "herding", "size": SIZE},
    "reservoir": {"kind": "reservoir", "size": SIZE},
    "ring": {"kind": "ring", "size": SIZE},
    "ring, per: experience": {"kind": "ring", "size": SIZE, "per": "experience"},
    "loss_aware": {"kind": "loss_aware", "size": SIZE},
    "gss": {"kind": "gss", "size": SIZE},
    "reservoir, retrieval: mir": {"kind": "reservoir", "size": SIZE, "retrieval": MIR},
    "class_balanced, retrieval: mir": {"kind": "class_balanced", "size": SIZE, "retrieval": MIR},
}


def scenario(memory: str | dict[str, Any], epochs: int, output: Path) -> dict[str, Any]:
    return {
        "name": "memories",
        "output": str(output),
        "stream": {"dataset": "digits", "split": {"by": "class", "experiences": 5}, "augment": "none"},
        "student": {"model": {"kind": "mlp", "hidden": [100, 100]}, "head": "linear"},
        "memory": memory,
        "train": {"epochs": epochs, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9}},
        "tracking": {"mode": "off"},
    }


def accuracies(memory: str | dict[str, Any], epochs: int, seeds: int, plugins: Plugins) -> list[float]:
    """The average accuracy at the end, class-incremental, of each seed."""
    found = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as home:
            path = Path(home) / "memories.yaml"
            path.write_text(to_yaml(scenario(memory, epochs, Path(home) / "run")))
            result = execute(RunRequest(scenario=path, quiet=True, seed=seed), plugins)
            found.append(100 * result["metrics"]["average_accuracy"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    plugins = load_plugins()
    lines = ["| memory | five epochs | one epoch |", "|---|---|---|"]
    for name, memory in MEMORIES.items():
        found = [accuracies(memory, epochs, given.seeds, plugins) for epochs in (5, 1)]
        cells = [f"{statistics.mean(each):.1f} ± {statistics.stdev(each):.1f}" for each in found]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    text = "\n".join([*lines, "", f"{machine()}; `python benchmarks/memories.py --seeds {given.seeds}`"])
    print(f"\n{text}\n\n{save('memories', text)}")


if __name__ == "__main__":
    main()
