"""Plain PyTorch loops of ER, DER and DER++ on Seq-CIFAR-10 with few rows, beside `clkd reproduce seq_cifar10_small`.

    CLKD_DATA=… python benchmarks/plain_cifar.py der --seeds 1                 # the table's rows of one method
    CLKD_DATA=… python benchmarks/plain_cifar.py er --buffer 500 --epochs 25

They follow a description of the code of Buzzega et al. 2020 (Mammoth), which is not copied here, and share nothing with
clkd but the rows. Memory keeps images as they are; what the student said belongs to the view that it saw, and a
row is replayed in another one, as the authors do (clkd replays it in the view that the answer is about). A line is the
mean accuracy over the test rows of all classes after the last experience, in percent.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clkd.cache import cache_directory
from clkd.engine.compose import Composer
from clkd.plugins import load_plugins
from clkd.scenario.load import load

BATCH, WIDTH = 32, 8
LR = {"er": 0.1, "der": 0.03, "derpp": 0.03}
ALPHA = {"er": {}, "der": {200: 0.3, 500: 0.3, 5120: 0.3}, "derpp": {200: 0.1, 500: 0.2, 5120: 0.1}}
"""By rows in memory, as in `clkd/reproduce/tables/seq_cifar10.yaml`; other sizes have those of 500."""
BETA = {200: 0.5, 500: 0.5, 5120: 1.0}
SCENARIO = Path(__file__).parents[1] / "scenarios" / "paper" / "seq_cifar10_er.yaml"
SMALL = ["stream.dataset={name: cifar10, rows_per_class: 500}"]
MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)
STD = torch.tensor([0.2470, 0.2435, 0.2615]).view(1, 3, 1, 1)


class Block(nn.Module):
    """A residual block of two 3×3 convolutions."""

    def __init__(self, given: int, width: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(given, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        short = nn.Sequential(nn.Conv2d(given, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.short = nn.Identity() if given == width and stride == 1 else short

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.two(self.one(x)) + self.short(x))


def network() -> nn.Sequential:
    """ResNet-8 of half the usual width, with all ten columns."""
    stem = nn.Sequential(nn.Conv2d(3, WIDTH, 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU())
    blocks = [Block(WIDTH, WIDTH, 1), Block(WIDTH, 2 * WIDTH, 2), Block(2 * WIDTH, 4 * WIDTH, 2)]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * WIDTH, 10))


def view(x: Tensor) -> Tensor:
    """`[B, 3, 32, 32]` pixels: padded by 4, cut out and mirrored at random, row by row, and normalised."""
    padded = F.pad(x, (4, 4, 4, 4))
    cuts = []
    for row in padded:
        top, left = torch.randint(0, 9, (2,)).tolist()
        cut = row[:, top : top + 32, left : left + 32]
        cuts.append(cut.flip(-1) if torch.rand(()) < 0.5 else cut)
    return plain(torch.stack(cuts))


def plain(x: Tensor) -> Tensor:
    return (x / 255 - MEAN) / STD


class Memory:
    """A reservoir of images as they are, labels, and what was said."""

    def __init__(self, size: int) -> None:
        self.x, self.y, self.z = torch.empty(size, 3, 32, 32), torch.empty(size).long(), torch.empty(size, 10)
        self.size, self.seen = size, 0

    def draw(self) -> Tensor:
        return torch.randperm(min(self.seen, self.size))[:BATCH]

    def offer(self, x: Tensor, y: Tensor, z: Tensor) -> None:
        for i in range(len(x)):
            at = self.seen if self.seen < self.size else int(torch.randint(0, self.seen + 1, ()))
            self.seen += 1
            if at < self.size:
                self.x[at], self.y[at], self.z[at] = x[i], y[i], z[i]


def loss_of(method: str, model: nn.Module, memory: Memory, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and what was said about the new rows. ER passes new and old rows together, DER one after another."""
    if not memory.seen:
        said = model(view(x))
        return F.cross_entropy(said, y), said
    at = memory.draw()
    if method == "er":
        said = model(view(torch.cat([x, memory.x[at]])))
        return F.cross_entropy(said, torch.cat([y, memory.y[at]])), said[: len(x)]
    said = model(view(x))
    alpha, beta = ALPHA[method].get(memory.size, ALPHA[method][500]), BETA.get(memory.size, BETA[500])
    loss = F.cross_entropy(said, y) + alpha * F.mse_loss(model(view(memory.x[at])), memory.z[at])
    if method == "derpp":
        at = memory.draw()
        loss = loss + beta * F.cross_entropy(model(view(memory.x[at])), memory.y[at])
    return loss, said


def run(method: str, size: int, epochs: int, seed: int) -> float:
    registry = load_plugins().registry
    scenario = load(SCENARIO, SMALL, registry).scenario
    stream = Composer(scenario, registry, torch.device("cpu"), cache_directory(), Path.cwd()).compose().stream
    torch.manual_seed(seed)
    model, memory = network(), Memory(size)
    optimizer = torch.optim.SGD(model.parameters(), LR[method])
    for experience in stream:
        rows = experience.train
        x, y = rows.x[rows.index].float(), rows.y
        for _ in range(epochs):
            for at in torch.randperm(len(x)).split(BATCH):
                loss, said = loss_of(method, model, memory, x[at], y[at])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                memory.offer(x[at], y[at], said.detach())
    model.eval()
    tests = [experience.test for experience in stream]
    return statistics.mean(accuracy(model, test.x[test.index].float(), test.y) for test in tests)


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    answers = torch.cat([model(plain(part)).argmax(1) for part in x.split(500)])
    return 100 * (answers == y).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=ALPHA)
    parser.add_argument("--buffer", type=int, nargs="+", default=[200, 500, 5120])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for size in given.buffer:
        for seed in range(given.seeds):
            start = time.perf_counter()
            found = run(given.method, size, given.epochs, seed)
            print(f"{given.method}_{size}, seed {seed}: {found:.1f}, {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
