"""DER++ as a good engineer would write it, or as it was published: the plain loop that `derpp.py` runs beside clkd.

    python benchmarks/plain_derpp.py WORK PASSES        # the loop as a program: WORK is what `derpp.py` saved

It imports nothing of clkd but what stored rows, their rotation and their normalization are made of.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clkd.data.augment import Augment
from clkd.experience import Rows

BATCH, MEMORY, LR, ALPHA, BETA = 128, 1000, 0.2, 0.5, 1.0


@dataclass(frozen=True)
class Work:
    """Training and test rows of each domain, as stored, and what makes floats of them."""

    domains: list[tuple[Rows, Rows]]
    augment: Augment
    device: torch.device

    def resident(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """One domain's rotated, normalised images and labels, on the device."""
        ready = rows.ready(self.device)
        return self.augment.plain(ready.x), ready.y


def train(work: Work, passes: int, bf16: bool = False) -> float:
    """Rows per second of the loop that makes one forward pass a step (`passes` 1), or three as was published."""
    device = work.device
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    memory_x = torch.empty(MEMORY, 1, 28, 28, device=device)
    memory_y = torch.empty(MEMORY, dtype=torch.long, device=device)
    memory_z = torch.empty(MEMORY, 10, device=device)
    seen, rows, tests, start = 0, 0, [], time.perf_counter()
    for train_rows, test_rows in work.domains:
        x, y = work.resident(train_rows)
        tests.append(work.resident(test_rows))
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


def reservoir(seen: int, n: int, size: int) -> tuple[Tensor, Tensor]:
    """Slots, and which of `n` arriving rows they take: the last one where several would take the same."""
    t = torch.arange(seen, seen + n)
    drawn = torch.where(t < size, t, (torch.rand(n, dtype=torch.float64) * (t + 1)).long())
    taken = {slot: row for row, slot in enumerate(drawn.tolist()) if slot < size}
    return torch.tensor(list(taken), dtype=torch.long), torch.tensor(list(taken.values()), dtype=torch.long)


if __name__ == "__main__":
    train(torch.load(sys.argv[1], weights_only=False, mmap=True), int(sys.argv[2]))
