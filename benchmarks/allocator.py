"""What it is worth that freed memory is kept: whole `clkd run`s with clkd's settings of glibc's allocator and without.

    python benchmarks/allocator.py --rounds 5

Both runs are cut short: four experiences of DER++ on Rotated MNIST (an MLP), and two of the main job (a ResNet-8), 60
steps of each epoch. Start-up is in no rate. Data is looked for in `$CLKD_DATA`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from contest import contest, machine, table

SCENARIOS = Path(__file__).parents[1] / "scenarios"
WORK = {
    "DER++ on Rotated MNIST": ["derpp_rotated_mnist.yaml", "--limit-experiences", "4"],
    "main job": ["split_cifar.yaml", "--limit-experiences", "2", "--limit-batches", "60"],
}
START = "from clkd.cli.main import main; main()"
WITHOUT = "from clkd.engine import allocator; allocator.KEPT.clear(); "


def rate(work: list[str], code: str) -> float:
    """Rows trained per second of training and evaluation."""
    scenario, *limits = work
    words = ["run", str(SCENARIOS / scenario), *limits, "--tracking", "off", "--json", "-q"]
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=home, stdout=subprocess.PIPE, text=True, check=True
        )
    result = json.loads(done.stdout)
    seconds = result["seconds"]["train"] + result["seconds"]["evaluate"]
    print(f"  evaluation {result['seconds']['evaluate']:.1f} s, accuracies {result['metrics']}", file=sys.stderr)
    return float(result["compute"]["training_rows"] / seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    for name, work in WORK.items():
        starts = {"clkd": START, "freed memory given back": WITHOUT + START}
        rates = contest({title: partial(rate, work, code) for title, code in starts.items()}, given.rounds)
        print(table(name, rates) + "\n")
    print(f"{machine()}; `python benchmarks/allocator.py --rounds {given.rounds}`")


if __name__ == "__main__":
    main()
