"""Whether a teacher assistant helps: a small student of a large network, directly and by way of one in between.

    python benchmarks/chain.py --seeds 3

The scikit-learn digits, few of them, in one experience. Each seed has a student, a large network and assistants of
its own. Prints a Markdown row for each way to teach: mean and standard error over the seeds, and how far each student
is from the one that the large network taught.
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

PLUGINS = load_plugins()
LARGE, MIDDLE, SMALL = ({"kind": "mlp", "hidden": hidden} for hidden in ([512, 512], [48], [10]))
RECIPE: dict[str, Any] = {"kind": "fit", "epochs": 40, "batch_size": 32}
KD: dict[str, Any] = {"temperature": 4, "weight": 1.0}
DIRECT = "large → small"


def ways(seed: int) -> dict[str, dict[str, Any] | None]:
    """Who teaches the student."""
    recipe = {**RECIPE, "seed": 1000 + seed}
    large = {**recipe, "model": LARGE}
    return {
        "labels alone": None,
        DIRECT: large,
        "assistant (from labels) → small": {**recipe, "model": MIDDLE},
        "large → assistant → small": {**recipe, **KD, "model": MIDDLE, "teacher": large},
        "large, born again twice → small": {**recipe, "kind": "born_again", "model": LARGE},
        "all three generations → small": {**recipe, "kind": "born_again", "model": LARGE, "speak": "all"},
    }


def accuracy(teacher: dict[str, Any] | None, rows: int, seed: int) -> float:
    """Of the student on the test rows, in percent."""
    taught = [] if teacher is None else [{"kind": "kd", "between": ["student", "teacher"], **KD}]
    scenario = {
        "name": "chain",
        "seed": seed,
        "stream": {"dataset": {"name": "digits", "rows_per_class": rows}, "split": {"by": "class", "experiences": 1}},
        "student": {"model": SMALL, "head": "linear"},
        "teachers": {} if teacher is None else {"teacher": teacher},
        "losses": ["cross_entropy", *taught],
        "train": {"epochs": 40, "batch_size": 32, "optimizer": {"kind": "sgd", "lr": 0.01, "momentum": 0.9}},
        "tracking": {"mode": "off"},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.yaml"
        path.write_text(to_yaml({**scenario, "output": f"{folder}/run"}))
        result = execute(RunRequest(scenario=path, quiet=True), PLUGINS)
    return 100 * float(result["metrics"]["average_accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=40, help="training rows of each class")
    given = parser.parse_args()
    seeds = range(given.seeds)
    scores = {way: [accuracy(ways(seed)[way], given.rows, seed) for seed in seeds] for way in ways(0)}
    print("| who teaches | accuracy, % | above large → small |\n|---|---|---|")
    for way, each in scores.items():
        gains = [own - direct for own, direct in zip(each, scores[DIRECT], strict=True)]
        print(f"| {way} | {_mean(each)} | {'' if way == DIRECT else _mean(gains)} |")


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) / len(values) ** 0.5:.1f}"


if __name__ == "__main__":
    main()
