"""What transfer strategies gain on a new domain and lose on the old one: all of them beside none, over seeds.

    CLKD_DATA=/path/to/data python benchmarks/domains.py            # trains what is missing, and prints the tables
    python benchmarks/domains.py --table                            # what is there so far; trains nothing
    python benchmarks/domains.py --table --write docs/transfer.md   # puts it between its marks there, too
    python benchmarks/domains.py --tasks digits_mnist --rows none dann --seeds 0 1

A small LeNet with batch norm, grey images of 16 × 16 pixels, normalised by the first domain. In the unlabelled tasks
the target has no label: labels come from the source's rows alone, which memory replays (a reservoir of 500), as many as
there are new ones. All rows of a seed start from the same weights, see the same first experience (but for strategies
that change it: `afn`, and all that compare new rows with replayed ones of the same domain), and differ from then on, so
differences to none are paired.

No number was chosen by test rows: weights are their papers' or 1 (`ROWS`); epochs and learning rate were set beforehand
and not changed. `target` is the accuracy on each later domain's test rows after its own experience (the mean, where
there are several), `source` that on the first domain's after the last one. `seconds` are processor time of the
whole run on one thread.

All trainings run in one process. A finished one is a line in the results file at once, so that a table that was
stopped goes on where it was; lines of other settings are left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from clkd.engine.execute import execute, make_room
from clkd.engine.guard import NonFiniteError
from clkd.plugins import load_plugins
from clkd.reproduce.report import put
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

BASE = "none"
MNIST, DIGITS = {"name": "mnist", "rows_per_class": 200}, {"name": "digits"}
LENET = {"kind": "lenet", "batch_norm": True}
AUGMENT = {"cifar10": {"crop": 4, "flip": True}}
"""What is standard for a data set, which a strong view is made of."""
STRONG = {"strong": {"rotate": 15, "contrast": 0.3, "cutout": 3, "rows": "unlabelled"}}
ROWS: dict[str, tuple[dict[str, Any], str]] = {
    BASE: ({}, "replayed labels alone"),
    "coral": ({"kind": "coral"}, "1"),
    "coral, closed": ({"kind": "coral", "form": "closed"}, "1"),
    "mmd": ({"kind": "mmd"}, "1"),
    "dan": ({"kind": "dan"}, "1"),
    "jan": ({"kind": "jan"}, "1"),
    "dann": ({"kind": "dann"}, "1"),
    "cdan": ({"kind": "cdan"}, "1"),
    "bsp": ([{"kind": "dann"}, {"kind": "bsp", "weight": 1e-4}], "dann 1 + 0.0001"),
    "mcd": ({"kind": "mcd"}, "1"),
    "feature_norm": ({"kind": "feature_norm"}, "1"),
    "afn": ({"kind": "afn", "weight": 0.05}, "0.05"),
    "entropy": ({"kind": "entropy", "diversity": 1}, "1, diversity 1"),
    "mcc": ({"kind": "mcc"}, "1"),
    "l2_sp": ({"kind": "l2_sp", "weight": 0.01}, "0.01"),
    "delta": ({"kind": "delta", "weight": 0.01}, "0.01"),
    "adabn": ({"kind": "adabn"}, "–"),
    "dsbn": ({"kind": "dsbn"}, "–"),
    "interpolate": ({"kind": "interpolate"}, "0.5"),
    "interpolate, balanced": ({"kind": "interpolate", "reestimate": "balanced"}, "0.5"),
    "average": ({"kind": "average", "last": 2}, "last 2"),
    "pseudo_label": ({}, "threshold 0.95"),
    "fixmatch": ({}, "threshold 0.95"),
    "mean_teacher": ({}, "1, decay 0.99"),
    "dann + interpolate": ([{"kind": "dann"}, {"kind": "interpolate"}], "1; 0.5"),
}
"""Each row's strategy, and with what weight; `METHODS` are no strategies, but presets of losses and teachers."""
METHODS = ("pseudo_label", "fixmatch", "mean_teacher")


def two(*of: dict[str, Any]) -> dict[str, Any]:
    """A data set with labels, and one without."""
    return {
        "stream": {
            "dataset": {"name": "domains", "of": list(of), "size": 16, "channels": 1},
            "split": {"by": "domain"},
            "labelled": [1, 0],
            "normalize": "first",
        }
    }


def corrupted(labelled: list[float]) -> dict[str, Any]:
    """CIFAR-10 clean, then noise, blur and low contrast."""
    looks = [{"kind": "gaussian_noise", "severity": 5}, {"kind": "motion_blur", "severity": 4}]
    return {
        "stream": {
            "dataset": {"name": "cifar10", "rows_per_class": 200},
            "split": {"by": "domain", "domains": ["clean", *looks, {"kind": "contrast", "severity": 5}]},
            "labelled": labelled,
            "normalize": "first",
        },
        "student": {"model": {"kind": "resnet8", "width": 8}, "head": "linear"},
    }


TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "mnist_digits": ("MNIST → digits, the target without labels", two(MNIST, DIGITS)),
    "digits_mnist": ("digits → MNIST, the target without labels", two(DIGITS, MNIST)),
    "rotated": (
        "MNIST turned by 0°, 20°, 40°, 60° and 80°, with labels",
        {
            "stream": {
                "dataset": {"name": "mnist", "rows_per_class": 100, "size": 16},
                "split": {"by": "domain", "transform": "rotated", "angles": [0, 20, 40, 60, 80]},
                "normalize": "first",
            },
            "memory": {"kind": "reservoir", "size": 200},
            "epochs": 1,
        },
    ),
    "cifar_unlabelled": ("CIFAR-10 clean → noise → blur → contrast, labels for clean rows", corrupted([1, 0, 0, 0])),
    "cifar_labelled": ("CIFAR-10 clean → noise → blur → contrast, with labels", corrupted([1, 1, 1, 1])),
}


def scenario(task: str, row: str) -> dict[str, Any]:
    """All but the seed."""
    given = {"student": {"model": LENET, "head": "linear"}, "memory": {"kind": "reservoir", "size": 500}, "epochs": 5}
    given |= TASKS[task][1]
    stream = given["stream"]
    strategy = ROWS[row][0]
    chosen = {"method": row} if row in METHODS else {"losses": ["cross_entropy"], "transfer": strategy or "none"}
    if row in ("fixmatch", "mean_teacher"):
        stream = {**stream, "augment": {**AUGMENT.get(stream["dataset"]["name"], {}), **STRONG}}
    return {
        "name": "domains",
        **chosen,
        "stream": stream,
        "student": given["student"],
        "memory": given["memory"],
        "train": {
            "epochs": given["epochs"],
            "batch_size": 32,
            "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9},
        },
        "metrics": ["average_accuracy"],
        "checkpoint": {"every_minutes": None},
        "tracking": {"mode": "off"},
    }


def key(task: str, row: str) -> str:
    """What a result belongs to: everything that decides it but the seed."""
    return hashlib.sha256(json.dumps(scenario(task, row), sort_keys=True).encode()).hexdigest()[:12]


def train(task: str, row: str, seed: int) -> dict[str, Any]:
    """One run, whole: a line of the results; its matrix is None if it diverged."""
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "scenario.yaml"
        path.write_text(to_yaml({**scenario(task, row), "seed": seed, "output": f"{home}/run"}))
        make_room()
        start = time.process_time()
        try:
            matrix = execute(RunRequest(scenario=path, quiet=True), load_plugins())["accuracy_matrix"]
        except NonFiniteError as error:
            print(f"  {task}, {row}, seed {seed}: {error}", file=sys.stderr, flush=True)
            matrix = None
    seconds = round(time.process_time() - start, 1)
    told = matrix and [[value if value is None else round(value, 4) for value in line] for line in matrix]
    return {"key": key(task, row), "task": task, "row": row, "seed": seed, "matrix": told, "seconds": seconds}


def numbers(matrix: list[list[float]]) -> tuple[float, float]:
    """Target and source, in percent.

    >>> numbers([[0.9, 0.25, 0.25], [0.75, 0.5, 0.5], [0.5, 0.5, 0.75]])
    (62.5, 50.0)
    """
    later = [100 * matrix[j][j] for j in range(1, len(matrix))]
    return statistics.mean(later), 100 * matrix[-1][0]


Kept = dict[tuple[str, str, int], dict[str, Any]]


def kept(results: Path) -> Kept:
    """The lines that belong to the settings of today, by task, row and seed."""
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    return {
        (one["task"], one["row"], one["seed"]): one
        for one in lines
        if one["task"] in TASKS and one["row"] in ROWS and one["key"] == key(one["task"], one["row"])
    }


def keep(results: Path, one: dict[str, Any]) -> None:
    """Add a line, in one write, which no kill cuts in two."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as file:
        file.write(json.dumps(one) + "\n")
    where = f"{one['task']}, {one['row']}, seed {one['seed']}"
    if one["matrix"]:
        target, source = numbers(one["matrix"])
        print(f"  {where}: target {target:.1f}, source {source:.1f}, {one['seconds']} s", file=sys.stderr, flush=True)


def table(there: Kept, task: str, rows: list[str], seeds: list[int]) -> str:
    """Markdown, in percent: mean ± standard deviation, and the mean paired difference ± its standard error.

    Runs that diverged are in no mean; how many there were is said beside the seeds.
    """
    lines = [
        "| strategy | target, % | difference to none | source, % | difference to none | seconds | seeds | weight |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lost = {place for place, one in there.items() if not one["matrix"]}
    there = {place: one for place, one in there.items() if place not in lost}
    for row in rows:
        own = {seed: numbers(there[task, row, seed]["matrix"]) for seed in seeds if (task, row, seed) in there}
        base = {seed: numbers(there[task, BASE, seed]["matrix"]) for seed in own if (task, BASE, seed) in there}
        if not own:
            continue
        cells = []
        for side in (0, 1):
            values = [each[side] for each in own.values()]
            pairs = [own[seed][side] - base[seed][side] for seed in base]
            cells.append(f"{statistics.mean(values):.1f}{spread(values, 1)}")
            paired = f"{statistics.mean(pairs):+.1f}{spread(pairs, len(pairs))}" if pairs and row != BASE else "–"
            cells.append(paired)
        seconds = statistics.mean(there[task, row, seed]["seconds"] for seed in own)
        gone = sum((task, row, seed) in lost for seed in seeds)
        count = f"{len(own)}{f' ({gone} diverged)' if gone else ''}"
        lines.append(f"| {row} | {' | '.join(cells)} | {seconds:.1f} | {count} | {ROWS[row][1]} |")
    return "\n".join(lines)


def spread(values: list[float], count: int) -> str:
    """` ± ` the standard deviation, divided by √count; nothing for a single value."""
    return f" ± {statistics.stdev(values) / count**0.5:.1f}" if len(values) > 1 else ""


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="two, or all with --table")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--table", action="store_true", help="print what is there; train nothing")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put each table between its marks there")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "domains.jsonl")
    return parser


def main() -> None:
    parser = options()
    given = parser.parse_args()
    if given.write and (given.rows, given.seeds) != (parser.get_default("rows"), parser.get_default("seeds")):
        parser.error("--write fills in whole tables: leave out --rows and --seeds")
    tasks = given.tasks or (list(TASKS) if given.table else ["mnist_digits", "digits_mnist"])
    torch.set_num_threads(1)
    there = kept(given.results)
    wanted = [(task, row, seed) for task in tasks for seed in given.seeds for row in given.rows]
    for place in [] if given.table else wanted:
        if place not in there:
            keep(given.results, train(*place))
    there = kept(given.results)
    for task in tasks:
        made = table(there, task, given.rows, given.seeds)
        print(f"{TASKS[task][0]}\n\n{made}\n")
        if given.write:
            put(given.write, "benchmarks/domains.py", task, made)
    print(f"{platform.machine()}, one thread, torch {version('torch')}")


if __name__ == "__main__":
    main()
