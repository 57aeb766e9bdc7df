"""Seq-CIFAR-10 with ResNet-18 and a step like DER++'s, for a GPU: clkd beside a plain eager loop and Avalanche's DER++.

    python benchmarks/seq_cifar.py                              # 300 steps a round
    python benchmarks/seq_cifar.py --steps 3 --rounds 1         # a smoke test; works without a GPU
    python benchmarks/seq_cifar.py --variants eager bf16 --save h100

All train the second of five experiences for one epoch: 32 new rows and 32 from a memory of 500 in one forward pass,
crop and flip, cross-entropy of both, squared distance to the replayed rows' stored logits, SGD. Making everybody ready
for the experience is in clkd's time, compiling is not (it happens once a run). Each contestant is timed between two
`torch.cuda.synchronize()`. CIFAR-10 is looked for in `$CLKD_DATA`; without it the rows are noise of the same shape and
number, which takes the same time. Without Avalanche installed its row is left out. `--save NAME` writes
`benchmarks/results/NAME.md`.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import peers
import plain
import torch
from contest import Contestant, contest, machine, save, table
from training import Clkd, composed_from, timed

from clkd import __version__
from clkd.engine.compose import Composition
from clkd.vision import avalanche

BATCH, MEMORY, LR, ALPHA, BETA = 32, 500, 0.03, 0.1, 0.5
VARIANTS: dict[str, dict[str, Any]] = {
    "eager": {},
    "contiguous": {"channels_last": False},
    "bf16": {"precision": "bf16"},
    "compile": {"compile": True},
    "compile-bf16": {"compile": True, "precision": "bf16"},
    "reduce-overhead": {"compile": "reduce-overhead"},
    "reduce-overhead-bf16": {"compile": "reduce-overhead", "precision": "bf16"},
    "max-autotune-bf16": {"compile": "max-autotune", "precision": "bf16"},
}
"""clkd's switches under `train`. It is channels-last unless told otherwise."""
USUAL = {"cuda": ["eager", "bf16", "compile-bf16", "reduce-overhead-bf16"], "cpu": ["eager"]}


def scenario(steps: int, width: int, noise: Path, switches: dict[str, Any]) -> dict[str, Any]:
    """Two classes of `steps` half batches each make an experience."""
    dataset = {
        "name": "cifar10",
        "rows_per_class": steps * BATCH // 2,
        "offline": {"name": "arrays", "path": str(noise)},
    }
    return {
        "name": "seq_cifar",
        "stream": {
            "dataset": dataset,
            "split": {"by": "class", "experiences": 5},
            "augment": {"crop": 4, "flip": True, "views": 50},
        },
        "student": {"model": {"kind": "resnet18", "width": width}, "head": "linear"},
        "teachers": {"stored": "stored"},
        "losses": [
            {"kind": "cross_entropy", "between": ["student@new"]},
            {"kind": "kd", "between": ["student@replay", "stored@replay"], "variant": "mse", "weight": ALPHA},
            {"kind": "cross_entropy", "name": "replayed", "between": ["student@replay"], "weight": BETA},
        ],
        "memory": {"kind": "reservoir", "size": MEMORY, "store": ["logits"]},
        "train": {"batch_size": BATCH, "optimizer": {"kind": "sgd", "lr": LR}, **switches},
    }


def write_noise(path: Path, rows_per_class: int) -> None:
    """Rows of CIFAR-10's shape that show nothing."""
    y = np.arange(10 * rows_per_class) % 10
    x = np.random.default_rng(0).integers(0, 256, (len(y), 3, 32, 32), dtype=np.uint8)
    np.savez(path, x_train=x, y_train=y, x_test=x[:100], y_test=y[:100])


def plain_loop(composed: Composition, width: int, bf16: bool) -> Contestant:
    """The loop in plain.py."""
    model = plain.big_resnet(width)
    epoch = plain.dark_experience(composed, model, BATCH, LR, MEMORY, ALPHA, BETA, bf16)
    rows = 2 * len(composed.stream[1].train)
    return lambda: timed(epoch, lambda: rows, composed.parts.device)


def avalanche_der(composed: Composition, width: int, workers: int) -> Contestant:
    """Avalanche's strategy, given the same rows. It passes an experience's rows once more after it, to store logits."""
    device = composed.parts.device
    strategy = peers.dark_experience(plain.big_resnet(width), BATCH, LR, MEMORY, ALPHA, BETA, device)
    first, second, *_ = peers.fed_by_clkd(composed.stream, composed.parts.augment.crop).train_stream
    strategy.train(first, num_workers=workers)
    rows = 2 * len(second.dataset)
    return lambda: timed(lambda: strategy.train(second, num_workers=workers), lambda: rows, device)


def contestants(given: argparse.Namespace, device: torch.device, home: Path) -> dict[str, Contestant]:
    """Everybody who can take part here, ready to train the second experience."""
    noise = home / "noise.npz"
    write_noise(noise, given.steps * BATCH // 2)
    made: dict[str, Contestant] = {}
    for name in given.variants:
        data = scenario(given.steps, given.width, noise, VARIANTS[name])
        composed, loop = composed_from(data, device, home)
        made[f"clkd, {name}"] = Clkd(composed, loop, device, first=None)
    made["plain eager loop"] = plain_loop(composed, given.width, bf16=False)
    if any("bf16" in name for name in given.variants):
        made["plain eager loop, channels-last, bf16"] = plain_loop(composed, given.width, bf16=True)
    if composed.store.stand_in:
        print("Rows are noise: CIFAR-10 is not in $CLKD_DATA.\n")
    try:
        avalanche()
    except ImportError as error:
        print(f"Avalanche's row is left out: {error}\n")
    else:
        made["Avalanche's DER++"] = avalanche_der(composed, given.width, given.workers)
    return made


def arguments(device: torch.device) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300, help="steps in a round, 312 at most")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=USUAL[device.type])
    parser.add_argument("--width", type=int, default=64, help="of the ResNet's first stage; ResNet-18 has 64")
    parser.add_argument("--workers", type=int, default=0, help="worker processes of Avalanche's loaders")
    parser.add_argument("--save", metavar="NAME")
    return parser.parse_args()


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = arguments(device)
    os.environ.setdefault("CLKD_OFFLINE", "1")  # noise will do
    with tempfile.TemporaryDirectory() as home:
        rates = contest(contestants(given, device, Path(home)), given.rounds)
    words = f"--rounds {given.rounds} --steps {given.steps} --variants {' '.join(given.variants)}"
    command = f"python benchmarks/seq_cifar.py {words} --width {given.width} --workers {given.workers}"
    peer = f", avalanche-lib {version('avalanche-lib')}" if "Avalanche's DER++" in rates else ""
    versions = f"clkd {__version__}{peer}, Python {platform.python_version()}"
    title = f"training, Seq-CIFAR-10, ResNet-18 (width {given.width}), {BATCH} + {BATCH} rows a step"
    text = f"{table(title, rates)}\n\n{machine()}, {versions}; `{command}`"
    print(text)
    if given.save:
        print(f"\nsaved as {save(given.save, text)}")


if __name__ == "__main__":
    main()
