"""Learning without Forgetting on class-incremental Split-MNIST, whole: `clkd run` beside a plain eager loop.

    python benchmarks/lwf.py

MLP 784-400-400-10, Adam (lr 1e-3, carried from one experience to the next), batch 128, about 2,000 steps in each of
five experiences, cross-entropy over the classes seen so far plus distillation from the previous self (T = 2). clkd's
time is that of the whole process, with imports and evaluation; the plain loop's is training and evaluation only, on
resident normalised images. Both take the same number of steps. MNIST is looked for in `$CLKD_DATA`.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from contest import contest, machine, table
from torch import Tensor, nn
from training import WORK, compose, resident

STEPS, BATCH, TEMPERATURE = 2000, 128, 2.0
SCENARIO = f"""\
name: lwf
stream: {{dataset: mnist, split: {{by: class, experiences: 5}}}}
student: {{model: {{kind: mlp, hidden: [400, 400]}}, head: linear}}
teachers: {{previous: previous}}
losses: [cross_entropy, {{kind: kd, between: [student, previous], temperature: {TEMPERATURE}}}]
train:
  {{batch_size: {BATCH}, min_steps: {STEPS}, drop_last: true, keep_optimizer: true,
   optimizer: {{kind: adam, lr: 1e-3, fused: true}}}}
tracking: {{mode: "off"}}
"""


def epochs_of(rows: int) -> int:
    """Whole epochs that make at least STEPS steps."""
    return -(-STEPS // (rows // BATCH))


def clkd_rate(rows: int) -> float:
    """Rows per second of the whole process."""
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "lwf.yaml").write_text(SCENARIO)
        start = time.perf_counter()
        command = [sys.executable, "-m", "clkd", "run", "lwf.yaml", "--json", "-q"]
        done = subprocess.run(command, cwd=home, stdout=subprocess.PIPE, text=True, check=True)
        seconds = time.perf_counter() - start
    print(f"  average accuracy {json.loads(done.stdout)['metrics']['average_accuracy']:.3f}", file=sys.stderr)
    return rows / seconds


def plain_rate(data: list[tuple[Tensor, Tensor]], test: list[tuple[Tensor, Tensor]]) -> float:
    """Rows per second of the loop that a good engineer would write."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    previous, rows, start = model, 0, time.perf_counter()
    for experience, (x, y) in enumerate(data):
        known = 2 * experience
        for _ in range(epochs_of(len(x))):
            order = torch.randperm(len(x))
            for at in order[: len(x) // BATCH * BATCH].split(BATCH):
                logits = model(x[at])[:, : known + 2]
                loss = F.cross_entropy(logits, y[at])
                if known:
                    with torch.no_grad():
                        target = previous(x[at])[:, :known]
                    loss = loss + TEMPERATURE**2 * F.kl_div(
                        F.log_softmax(logits[:, :known] / TEMPERATURE, 1),
                        F.log_softmax(target / TEMPERATURE, 1),
                        reduction="batchmean",
                        log_target=True,
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                rows += len(at)
        previous = copy.deepcopy(model).eval().requires_grad_(False)
        with torch.no_grad():
            accuracy = [(model(u)[:, : known + 2].argmax(1) == v).float().mean() for u, v in test[: experience + 1]]
    print(f"  average accuracy {torch.stack(accuracy).mean():.3f}", file=sys.stderr)
    return rows / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    composed, _ = compose(WORK["mlp"], torch.device("cpu"))
    data = [resident(composed, i) for i in range(5)]
    plain = composed.parts.augment.plain
    test = [(plain(e.test.x[e.test.index]), e.test.y) for e in composed.stream]
    rows = sum(epochs_of(len(y)) * (len(y) // BATCH) * BATCH for _, y in data)
    rates = contest({"clkd": lambda: clkd_rate(rows), "plain eager loop": lambda: plain_rate(data, test)}, given.rounds)
    print(table("LwF on Split-MNIST, whole", rates))
    print(f"\n{machine()}; `python benchmarks/lwf.py --rounds {given.rounds}`")


if __name__ == "__main__":
    main()
