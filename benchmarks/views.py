"""What fixed views cost: average accuracy by the number of views each row has, one teacher for all.

    CLKD_DATA=/path/to/data python benchmarks/views.py --data cifar10 --seeds 3

Prints one Markdown row per number of views; `anew` draws each view anew, as without the teacher cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from clkd.engine.execute import execute
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

VIEWS = (1, 2, 4, 8, 16, None)
PLUGINS = load_plugins()
DATA: dict[str, dict[str, Any]] = {
    "digits": {
        "dataset": {"name": "digits", "rows_per_class": 40},
        "augment": {"crop": 1},
        "student": {"kind": "mlp", "hidden": [64]},
        "teacher": {"kind": "mlp", "hidden": [256, 256]},
    },
    "cifar10": {
        "dataset": {"name": "cifar10", "rows_per_class": 200, "size": 16},
        "augment": {"crop": 2, "flip": True},
        "student": {"kind": "resnet8"},
        "teacher": {"kind": "resnet20"},
    },
}


def scenario(data: str, teacher: dict[str, Any], views: int | None, seed: int) -> dict[str, Any]:
    given = DATA[data]
    return {
        "name": "views",
        "seed": seed,
        "stream": {
            "dataset": given["dataset"],
            "split": {"by": "class", "experiences": 2},
            "augment": {**given["augment"], "views": views},
        },
        "student": {"model": given["student"], "head": "linear"},
        "teachers": {"external": teacher},
        "losses": [
            "cross_entropy",
            {"kind": "kd", "between": ["student", "external"], "temperature": 4, "weight": 0.5},
        ],
        "memory": {"kind": "reservoir", "size": 100},
        "train": {
            "epochs": 16,
            "batch_size": 32,
            "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9},
        },
        "tracking": {"mode": "off"},
    }


def accuracy(data: str, teacher: dict[str, Any], views: int | None, seed: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "views.yaml"
        path.write_text(to_yaml({**scenario(data, teacher, views, seed), "output": f"{folder}/run"}))
        result = execute(RunRequest(scenario=path, quiet=True), PLUGINS)
    return 100 * float(result["metrics"]["average_accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=DATA, default="digits")
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    teacher = {"kind": "fit", "model": DATA[given.data]["teacher"], "epochs": 60, "batch_size": 32, "seed": 1000}
    print("| views | average accuracy, % |\n|---|---|")
    for views in VIEWS:
        scores = [accuracy(given.data, teacher, views, seed) for seed in range(given.seeds)]
        error = statistics.stdev(scores) / len(scores) ** 0.5
        print(f"| {views or 'anew'} | {statistics.mean(scores):.1f} ± {error:.1f} |", flush=True)


if __name__ == "__main__":
    main()
