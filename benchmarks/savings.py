"""What each of clkd's own savings is worth: whole `clkd run`s as they are, and with one of them left out.

    python benchmarks/savings.py --rounds 5

Freed memory is kept for the next tensors (`clkd.engine.allocator`), and what the optimizer remembers is set to 0 where
it has become subnormal (`clkd.optimizers.drop_subnormals`). Neither moves a weight: the accuracies have to be the same.
All runs are cut short: four experiences of DER++ on Rotated MNIST (an MLP, SGD), two of the main job (a ResNet-8,
momentum), 60 steps of each epoch, and three of Learning without Forgetting on Split-MNIST (an MLP, Adam), 2,000 steps
each. Start-up is in no rate. Data is looked for in `$CLKD_DATA`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import lwf
from contest import contest, machine, table

SCENARIOS = Path(__file__).parents[1] / "scenarios"
WORK = {
    "DER++ on Rotated MNIST": [SCENARIOS / "derpp_rotated_mnist.yaml", "--limit-experiences", "4"],
    "main job": [SCENARIOS / "split_cifar.yaml", "--limit-experiences", "2", "--limit-batches", "60"],
    "LwF on Split-MNIST": ["lwf.yaml", "--limit-experiences", "3"],
}
START = "from clkd.cli.main import main; main()"
WITHOUT = {
    "clkd": "",
    "freed memory given back": "from clkd.engine import allocator; allocator.KEPT.clear(); ",
    "subnormals kept": "from clkd.engine import loop; loop.drop_subnormals = lambda optimizer: None; ",
}


def rate(work: list[str | Path], code: str) -> float:
    """Rows trained per second of training and evaluation."""
    scenario, *limits = work
    words = ["run", scenario, *limits, "--tracking", "off", "--json", "-q"]
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "lwf.yaml").write_text(lwf.SCENARIO)
        done = subprocess.run(
            [sys.executable, "-c", code + START, *words], cwd=home, stdout=subprocess.PIPE, text=True, check=True
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
        rates = contest({title: partial(rate, work, code) for title, code in WITHOUT.items()}, given.rounds)
        print(table(name, rates) + "\n")
    print(f"{machine()}; `python benchmarks/savings.py --rounds {given.rounds}`")


if __name__ == "__main__":
    main()
