"""What each switch of `train` does for training speed: ResNet-8 on CIFAR-10, crop and flip, batch 128 + 128 replayed.

    python benchmarks/modes.py --rounds 5

The work is that of `training.py`: the second experience, with the previous self and replay. Modes take turns. Each is
composed once; what compiles, the first experience and the first turn, is not in its rate but printed beside it, as
seconds. Data is looked for in `$CLKD_DATA`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from contest import contest, machine, table
from training import WORK, compose, timed

from clkd.engine.speed import speed_up
from clkd.models.precision import is_faster_in_bf16

MODES: dict[str, dict[str, Any]] = {
    "eager": {},
    "channels_last: false": {"channels_last": False},
    "compile: true": {"compile": True},
}
BF16_MODES: dict[str, dict[str, Any]] = {
    "precision: bf16": {"precision": "bf16"},
    "compile: true, bf16": {"compile": True, "precision": "bf16"},
}
GPU_MODES: dict[str, dict[str, Any]] = {
    "compile: reduce-overhead, bf16": {"compile": "reduce-overhead", "precision": "bf16"},
}


class Mode:
    """One way of training, composed once; each call trains the second experience for `batches` steps more."""

    def __init__(self, switches: dict[str, Any], device: torch.device, batches: int) -> None:
        self.device = device
        composed, self.loop = compose(WORK["resnet8"], device)
        self.parts, self.second = composed.parts, composed.stream[1]
        student = self.parts.student
        if not switches.get("channels_last", True):
            student.channels_last = False
            student.to(memory_format=torch.contiguous_format)
        # As many epochs as that takes: the second experience alone has fewer steps.
        steps = -(-len(self.second.train) // self.loop.options.batch_size)
        epochs = -(-batches // steps)
        self.loop.options = self.loop.options.model_copy(update={**switches, "epochs": epochs})
        speed_up(self.parts, self.loop.options)
        start = time.perf_counter()
        self.loop.limit_batches = 20
        self.loop.train(composed.stream[0], self.parts.begin(composed.stream[0], 0))
        self.parts.end(composed.stream[0])
        self.loop.limit_batches = batches
        self()
        self.once = time.perf_counter() - start

    def __call__(self) -> float:
        """Rows per second."""
        before = self.loop.rows
        work, rows = (
            lambda: self.loop.train(self.second, self.parts.begin(self.second, 0)),
            lambda: self.loop.rows - before,
        )
        return timed(work, rows, self.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=100, help="steps in a round, at least")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = MODES | (BF16_MODES if is_faster_in_bf16(device) else {}) | (GPU_MODES if device.type == "cuda" else {})
    modes = {name: Mode(switches, device, given.batches) for name, switches in wanted.items()}
    contestants: dict[str, Callable[[], float]] = dict(modes)
    print(table("training, resnet8, by switches", contest(contestants, given.rounds)))
    print("\nonce, before that: " + ", ".join(f"{name} {mode.once:.0f} s" for name, mode in modes.items()))
    print(f"\n{machine()}; `python benchmarks/modes.py --rounds {given.rounds} --batches {given.batches}`")


if __name__ == "__main__":
    main()
