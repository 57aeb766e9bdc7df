"""DER++ on Rotated MNIST, whole: `clkd run` of the shipped scenario beside a plain eager loop.

    python benchmarks/derpp.py                                  # 20 experiences
    python benchmarks/derpp.py --experiences 2 --rounds 1       # a short look

MLP 784-100-100-10, SGD (lr 0.2), one epoch of each domain in batches of 128, and two draws of 128 rows a step from a
reservoir of 1,000, one for the stored logits and one for the labels; all domains so far are tested after each. clkd's
time is that of the whole process, with imports, the table of accuracies and checkpoints; it also tests each domain
before it is trained. The plain loops' is rotation, training and evaluation only, in this process, on resident
normalised images. One makes one forward pass for all rows of a step; the other makes one for the new rows and one for
each draw from the buffer, as the method's published code does. All take the same number of steps. What is called bf16
has bfloat16 products, and takes part where the processor is faster in them. MNIST is looked for in
`$CLKD_DATA`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from contest import contest, machine, table
from plain import reservoir
from torch import Tensor, nn

from clkd.cache import cache_directory
from clkd.engine.compose import Composer, Composition
from clkd.experience import Rows
from clkd.models.precision import is_faster_in_bf16
from clkd.plugins import load_plugins
from clkd.scenario.load import load

SCENARIO = Path(__file__).parents[1] / "scenarios" / "derpp_rotated_mnist.yaml"
BATCH, MEMORY, LR, ALPHA, BETA = 128, 1000, 0.2, 0.5, 1.0


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


def plain_rate(composed: Composition, experiences: int, passes: int, bf16: bool = False) -> float:
    """Rows per second of the loop that a good engineer would write (`passes` 1), or that was published (3)."""
    device = composed.parts.device
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    memory_x = torch.empty(MEMORY, 1, 28, 28, device=device)
    memory_y = torch.empty(MEMORY, dtype=torch.long, device=device)
    memory_z = torch.empty(MEMORY, 10, device=device)
    seen, rows, tests, start = 0, 0, [], time.perf_counter()
    for experience in composed.stream[:experiences]:
        x, y = resident(composed, experience.train)
        tests.append(resident(composed, experience.test))
        for at in torch.randperm(len(x)).to(device).split(BATCH):
            new_x, new_y, n, kept = x[at], y[at], len(at), min(seen, MEMORY)
            a, b = (torch.randperm(kept)[:BATCH].to(device) for _ in range(2))
            parts = [new_x, memory_x[a], memory_x[b]] if kept else [new_x]
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                if passes == 1:
                    said = model(torch.cat(parts)).float().split([len(part) for part in parts])
                else:
                    said = [model(part).float() for part in parts]
            loss = F.cross_entropy(said[0], new_y)
            if kept:
                loss = loss + ALPHA * F.mse_loss(said[1], memory_z[a])
                loss = loss + BETA * F.cross_entropy(said[2], memory_y[b])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            slots, kept_at = reservoir(seen, n, MEMORY)
            slots, kept_at = slots.to(device), kept_at.to(device)
            memory_x[slots], memory_y[slots], memory_z[slots] = (
                new_x[kept_at],
                new_y[kept_at],
                said[0].detach()[kept_at],
            )
            seen += n
            rows += sum(map(len, parts))
        with torch.no_grad():
            accuracy = [(model(u).argmax(1) == v).float().mean() for u, v in tests]
        mean = torch.stack(accuracy).mean().item()
    print(f"  average accuracy {mean:.4f}", file=sys.stderr)
    return rows / (time.perf_counter() - start)


def resident(composed: Composition, rows: Rows) -> tuple[Tensor, Tensor]:
    """One domain's rotated, normalised images and labels, on the device."""
    ready = rows.ready(composed.parts.device)
    return composed.parts.augment.plain(ready.x), ready.y


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
    registry = load_plugins().registry
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    composer = Composer(load(SCENARIO, [], registry).scenario, registry, device, cache_directory(), Path.cwd())
    composed = composer.compose()
    rows = rows_trained(given.experiences, len(composed.stream[0].train))
    contestants = {
        "clkd": lambda: clkd_rate(given.experiences, rows),
        "plain loop, one pass": lambda: plain_rate(composed, given.experiences, 1),
        "plain loop, three passes": lambda: plain_rate(composed, given.experiences, 3),
    }
    if is_faster_in_bf16(device):
        contestants["clkd, bf16"] = lambda: clkd_rate(given.experiences, rows, "bf16")
        contestants["plain loop, one pass, bf16"] = lambda: plain_rate(composed, given.experiences, 1, bf16=True)
    rates = contest(contestants, given.rounds)
    print(table(f"DER++ on Rotated MNIST, {given.experiences} experiences, whole", rates))
    seconds = ", ".join(f"{name} {rows / sorted(own)[len(own) // 2]:.1f} s" for name, own in rates.items())
    options = f"--experiences {given.experiences} --rounds {given.rounds}"
    print(f"\n{seconds}; {machine()}; `python benchmarks/derpp.py {options}`")


if __name__ == "__main__":
    main()
