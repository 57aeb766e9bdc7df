"""DER++ on Rotated MNIST, whole: `clkd run` of the shipped scenario beside a plain eager loop.

    python benchmarks/derpp.py                                  # 20 experiences
    python benchmarks/derpp.py --experiences 2 --rounds 1       # a short look

MLP 784-100-100-10, SGD (lr 0.2), one epoch of each domain in batches of 128, and two draws of 128 rows a step from a
reservoir of 1,000, one for the stored logits and one for the labels; all domains so far are tested after each. clkd's
time is that of the whole process, with imports, the table of accuracies and checkpoints; it also tests each domain
before it is trained. The plain loops' is rotation, training and evaluation only, in this process, on resident
normalised images. One makes one forward pass for all rows of a step; the other makes one for the new rows and one for
each draw from the buffer, as the method's published code does. All take the same number of steps. A loop "as a program"
is a process of its own, as clkd's run is: its time is that of its imports and of opening the data, too. What is called
bf16 has bfloat16 products, and takes part where the processor is faster in them. MNIST is looked for in `$CLKD_DATA`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import plain_derpp
import torch
from contest import contest, machine, table
from plain_derpp import BATCH, Work, train

from clkd.cache import cache_directory
from clkd.engine.compose import Composer
from clkd.models.precision import is_faster_in_bf16
from clkd.plugins import load_plugins
from clkd.scenario.load import load

SCENARIO = Path(__file__).parents[1] / "scenarios" / "derpp_rotated_mnist.yaml"


def clkd_rate(experiences: int, rows: int, precision: str = "float32") -> float:
    """Rows per second of the whole process."""
    with tempfile.TemporaryDirectory() as home:
        limit = ["--limit-experiences", str(experiences), "--tracking", "off"]
        command = [sys.executable, "-m", "clkd", "run", str(SCENARIO), *limit, "--json", "-q"]
        command += ["--set", f"train.precision={precision}"]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=home, stdout=subprocess.PIPE, text=True, check=True)
        seconds = time.perf_counter() - start
    print(f"  average accuracy {json.loads(done.stdout)['metrics']['average_accuracy']:.4f}", file=sys.stderr)
    return rows / seconds


def program_rate(work: Path, passes: int, rows: int) -> float:
    """Rows per second of a plain loop as a process of its own."""
    start = time.perf_counter()
    subprocess.run([sys.executable, plain_derpp.__file__, str(work), str(passes)], check=True)
    return rows / (time.perf_counter() - start)


def rows_trained(experiences: int, rows: int) -> int:
    """New and replayed rows of all steps; the first one replays nothing, and the memory is small in those after it."""
    seen = total = 0
    for _ in range(experiences):
        for start in range(0, rows, BATCH):
            n = min(BATCH, rows - start)
            total += n + 2 * min(BATCH, seen)
            seen += n
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiences", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        compare(given, Path(scratch))


def compare(given: argparse.Namespace, scratch: Path) -> None:
    """All in turn; what the programs read lies in `scratch`."""
    registry = load_plugins().registry
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    composer = Composer(load(SCENARIO, [], registry).scenario, registry, device, cache_directory(), Path.cwd())
    composed = composer.compose()
    stream, augment = composed.stream[: given.experiences], composed.parts.augment
    work = Work([(experience.train, experience.test) for experience in stream], augment, device)
    rows = rows_trained(given.experiences, len(stream[0].train))
    saved = scratch / "work.pt"
    torch.save(work, saved)
    contestants = {
        "clkd": lambda: clkd_rate(given.experiences, rows),
        "plain loop, one pass": lambda: train(work, 1),
        "plain loop, three passes": lambda: train(work, 3),
        "plain loop, one pass, as a program": lambda: program_rate(saved, 1, rows),
        "plain loop, three passes, as a program": lambda: program_rate(saved, 3, rows),
    }
    if is_faster_in_bf16(device):
        contestants["clkd, bf16"] = lambda: clkd_rate(given.experiences, rows, "bf16")
        contestants["plain loop, one pass, bf16"] = lambda: train(work, 1, bf16=True)
    rates = contest(contestants, given.rounds)
    print(table(f"DER++ on Rotated MNIST, {given.experiences} experiences, whole", rates))
    seconds = ", ".join(f"{name} {rows / sorted(own)[len(own) // 2]:.1f} s" for name, own in rates.items())
    options = f"--experiences {given.experiences} --rounds {given.rounds}"
    print(f"\n{seconds}; {machine()}; `python benchmarks/derpp.py {options}`")


if __name__ == "__main__":
    main()
