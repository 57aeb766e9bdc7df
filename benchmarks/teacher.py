"""The teacher cache: ResNet-8 distilled from ResNet-56 for eight epochs, with the cache and without.

    python benchmarks/teacher.py --seeds 0 1 2 3 4

CIFAR-10, 500 images of each class, crop and flip, cross-entropy + KD (T = 4). `off` draws every view anew and asks the
teacher in each step. With V views the teacher is asked about each row V times at most, and never again by later runs:
the first seed of a row fills the cache, the others find it full. Each row has answers of its own: those of one view are
among those of eight. Whole `clkd run` processes, seeds in the outer loop, so that all rows share the moods of the
machine; the teacher is fitted before the clock starts. Finished runs are kept in the output directory, so an
interrupted table goes on. Data is looked for in `$CLKD_DATA`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from contest import machine

from clkd.cache import cache_directory

SCENARIO = """\
name: teacher_cache
stream:
  dataset: {name: cifar10, rows_per_class: 500}
  split: {by: class, experiences: 1}
  augment: {crop: 4, flip: true}
student: {model: resnet8, head: linear}
teachers: {external: {kind: fit, model: resnet56, epochs: 12, batch_size: 64}}
losses: [cross_entropy, {kind: kd, between: [student, external], temperature: 4}]
train: {epochs: 8, batch_size: 64, optimizer: {kind: sgd, lr: 0.1, momentum: 0.9}}
tracking: {mode: "off"}
"""
ROWS: dict[str, list[str]] = {
    "off": ["teachers.external.recall=false"],
    "8 views, off": ["stream.augment.views=8", "teachers.external.recall=false"],
    "8 views": ["stream.augment.views=8"],
    "4 views": ["stream.augment.views=4"],
    "2 views": ["stream.augment.views=2"],
    "1 view": ["stream.augment.views=1"],
}


def own_cache(output: Path, row: str) -> Path:
    """A row's cache: data and teachers are the usual one's, answers its own, and none at first."""
    place = output / f"cache_{plain(row)}"
    place.mkdir(exist_ok=True)
    for name in ("data", "teachers"):
        if not (place / name).exists():
            (place / name).symlink_to(cache_directory() / name)
    return place


def plain(row: str) -> str:
    """A row's name as that of a file."""
    return row.replace(" ", "_").replace(",", "")


def run(output: Path, row: str, seed: int) -> dict[str, Any]:
    """One run's accuracy and wall time, from its file if it is there."""
    kept = output / f"{plain(row)}_{seed}.json"
    if not kept.exists():
        settings = [word for setting in ROWS[row] for word in ("--set", setting)]
        command = [sys.executable, "-m", "clkd", "run", "scenario.yaml", "--seed", str(seed), *settings, "--json", "-q"]
        own = {**os.environ, "CLKD_CACHE": str(own_cache(output, row).absolute())}
        start = time.perf_counter()
        done = subprocess.run(command, cwd=output, env=own, stdout=subprocess.PIPE, text=True, check=True)
        wall = time.perf_counter() - start
        accuracy = json.loads(done.stdout)["metrics"]["average_accuracy"]
        kept.write_text(json.dumps({"accuracy": 100 * accuracy, "seconds": wall}))
        print(f"  {row}, seed {seed}: {accuracy:.3f} in {wall:.0f} s", file=sys.stderr)
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--output", type=Path, default=Path("runs/teacher_cache"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "scenario.yaml").write_text(SCENARIO)
    fit = [sys.executable, "-m", "clkd", "run", "scenario.yaml", "--limit-batches", "1", "-q"]
    subprocess.run([*fit, "--set", "teachers.external.recall=false"], cwd=given.output, check=True)
    for seed in given.seeds:
        for row in given.rows:
            run(given.output, row, seed)
    print("| teacher cache | accuracy, % | first run, s | later runs, s | all seeds, s | speed-up, all seeds |")
    print("|---|---|---|---|---|---|")
    base = sum(run(given.output, given.rows[0], seed)["seconds"] for seed in given.seeds)
    for row in given.rows:
        found = [run(given.output, row, seed) for seed in given.seeds]
        accuracy, first, *later = [one["accuracy"] for one in found], *(one["seconds"] for one in found)
        spread = f"{statistics.mean(accuracy):.1f} ± {statistics.stdev(accuracy):.1f}"
        total = first + sum(later)
        print(f"| {row} | {spread} | {first:.0f} | {statistics.median(later):.0f} | {total:.0f} | {base / total:.2f} |")
    rows = "" if given.rows == list(ROWS) else " --rows " + shlex.join(given.rows)
    print(f"\n{machine()}; `python benchmarks/teacher.py --seeds {' '.join(map(str, given.seeds))}{rows}`")


if __name__ == "__main__":
    main()
