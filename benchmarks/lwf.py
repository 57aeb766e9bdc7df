"""Learning without Forgetting on class-incremental Split-MNIST, whole: `clkd run` beside a plain eager loop.

    python benchmarks/lwf.py

MLP 784-400-400-10, Adam (lr 1e-3, carried from one experience to the next), batch 128, at least 2,000 steps in each of
five experiences, cross-entropy over the classes seen so far plus distillation from the previous self (T = 2). clkd's
time is that of the whole process, with imports and evaluation; the plain loop's is training and evaluation only, on
resident normalised images. All take the same number of steps. clkd's Adam is fused, the plain loop's is torch's
default. The tuned plain loop has the fused Adam too, and asks the previous self once per experience: it is the least
arithmetic that this work can be done with. A third one drops subnormal numbers from the optimizer's memory as clkd
does, and so is the bound of what any engine could reach. What is called bf16 has bfloat16 products; it takes part
where the processor is faster in them. MNIST is looked for in `$CLKD_DATA`.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import plain
import torch
from contest import contest, machine, table
from torch import Tensor
from training import WORK, compose

from clkd.models.precision import is_faster_in_bf16

STEPS, BATCH = 2000, 128
SCENARIO = f"""\
name: lwf
stream: {{dataset: mnist, split: {{by: class, experiences: 5}}}}
student: {{model: {{kind: mlp, hidden: [400, 400]}}, head: linear}}
teachers: {{previous: previous}}
losses: [cross_entropy, {{kind: kd, between: [student, previous], temperature: {plain.TEMPERATURE}}}]
train:
  {{batch_size: {BATCH}, min_steps: {STEPS}, drop_last: true, keep_optimizer: true,
   optimizer: {{kind: adam, lr: 1e-3, fused: true}}}}
tracking: {{mode: "off"}}
"""


def clkd_rate(rows: int, precision: str = "float32") -> float:
    """Rows per second of the whole process."""
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "lwf.yaml").write_text(SCENARIO)
        start = time.perf_counter()
        command = [sys.executable, "-m", "clkd", "run", "lwf.yaml", "--json", "-q"]
        command += ["--set", f"train.precision={precision}"]
        done = subprocess.run(command, cwd=home, stdout=subprocess.PIPE, text=True, check=True)
        seconds = time.perf_counter() - start
    result = json.loads(done.stdout)
    print(f"  accuracy {result['metrics']['average_accuracy']:.3f}, seconds {result['seconds']}", file=sys.stderr)
    return rows / seconds


def plain_rate(data: list[tuple[Tensor, Tensor]], test: list[tuple[Tensor, Tensor]], **how: bool) -> float:
    """Rows per second of the loop in plain.py."""
    start = time.perf_counter()
    rows, accuracy = plain.lwf(data, test, STEPS, BATCH, **how)
    seconds = time.perf_counter() - start
    print(f"  accuracy {accuracy:.3f}, seconds {seconds:.1f}", file=sys.stderr)
    return rows / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    composed, _ = compose(WORK["mlp"], torch.device("cpu"))
    data = [plain.resident(composed, i) for i in range(5)]
    look = composed.parts.augment.plain
    test = [(look(e.test.x[e.test.index]), e.test.y) for e in composed.stream]
    rows = sum(math.ceil(STEPS / (len(y) // BATCH)) * (len(y) // BATCH) * BATCH for _, y in data)
    contestants = {
        "clkd": lambda: clkd_rate(rows),
        "plain eager loop": lambda: plain_rate(data, test),
        "tuned plain loop": lambda: plain_rate(data, test, tuned=True),
        "tuned plain loop without subnormals": lambda: plain_rate(data, test, tuned=True, normal=True),
    }
    if is_faster_in_bf16(torch.device("cpu")):
        contestants["clkd, bf16"] = lambda: clkd_rate(rows, "bf16")
        contestants["tuned plain loop, bf16"] = lambda: plain_rate(data, test, tuned=True, normal=True, bf16=True)
    rates = contest(contestants, given.rounds)
    print(table("LwF on Split-MNIST, whole", rates))
    print(f"\n{machine()}; `python benchmarks/lwf.py --rounds {given.rounds}`")


if __name__ == "__main__":
    main()
