"""Plain PyTorch loops of methods on MNIST, which explain differences in docs/reproductions.md.

    CLKD_DATA=… python benchmarks/plain_mnist.py oewc --seeds 1     # permuted and rotated MNIST
    CLKD_DATA=… python benchmarks/plain_mnist.py si --seeds 1       # permuted and sequential MNIST
    CLKD_DATA=… python benchmarks/plain_mnist.py icarl --seeds 1    # sequential MNIST
    CLKD_DATA=… python benchmarks/plain_mnist.py fdr --seeds 1      # sequential MNIST
    CLKD_DATA=… python benchmarks/plain_mnist.py er --seeds 1       # rotated MNIST
    CLKD_DATA=… python benchmarks/plain_mnist.py agem_domains --seeds 1    # permuted and rotated MNIST

They follow a description of the code of Buzzega et al. 2020 (Mammoth), which is not copied here, and share nothing with
clkd but the data, and in some variants the angles of a seed. Each line is one variant: mean accuracy over the test rows
of all experiences, in percent.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clkd.seeding import generator

Rows = tuple[Tensor, Tensor]
Vectors = list[Tensor]
DOMAINS, TASKS = 20, 5


def mnist() -> tuple[Rows, Rows]:
    """Training and test rows, pixels in [0, 1]."""
    raw = Path(os.environ["CLKD_DATA"]) / "MNIST/raw"

    def read(name: str, head: int) -> Tensor:
        return torch.from_numpy(np.fromfile(raw / name, np.uint8)[head:].copy())

    def rows(part: str) -> Rows:
        pixels = read(f"{part}-images-idx3-ubyte", 16).view(-1, 784).float() / 255
        return pixels, read(f"{part}-labels-idx1-ubyte", 8).long()

    return rows("train"), rows("t10k")


def network() -> nn.Sequential:
    """784-100-100-10, Xavier."""
    made = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
    for layer in made[::2]:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return made


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return 100 * (model(x).argmax(1) == y).float().mean().item()


def copies(model: nn.Module) -> Vectors:
    return [p.detach().clone() for p in model.parameters()]


def zeros(model: nn.Module) -> Vectors:
    return [torch.zeros_like(p) for p in model.parameters()]


def penalty(model: nn.Module, importance: Vectors, anchor: Vectors) -> Tensor:
    terms = zip(importance, model.parameters(), anchor, strict=True)
    return torch.stack([(o * (p - q).square()).sum() for o, p, q in terms]).sum()


def fisher(model: nn.Sequential, x: Tensor, y: Tensor, weighted: bool) -> Vectors:
    """Mean over rows of the squared gradient of `log p_y`, which the authors weigh by `p_y`: δ² ⊗ a² for each layer."""
    total = zeros(model)
    for rows, labels in zip(x.split(1000), y.split(1000), strict=True):
        given, said, h = [], [], rows
        for layer in model:
            if isinstance(layer, nn.Linear):
                given.append(h.detach())
            h = layer(h)
            if isinstance(layer, nn.Linear):
                said.append(h)
        log = h.log_softmax(1).gather(1, labels[:, None])
        pulls = torch.autograd.grad(log.sum(), said)
        for i, (a, d) in enumerate(zip(given, pulls, strict=True)):
            squares = d.square() * (log.detach().exp() if weighted else 1)
            total[2 * i] += squares.T @ a.square()
            total[2 * i + 1] += squares.sum(0)
    return [t / (-(-len(x) // 128) * 128) for t in total]  # full batches, as the authors count


def domains() -> list[Tensor]:
    return [torch.randperm(784) for _ in range(DOMAINS)]


def oewc(strength: float, weighted: bool, kind: str = "permuted") -> float:
    """Learning rate 0.1, batches of 128, one epoch, γ = 1."""
    (x, y), test = mnist()
    seen_as, model = looks(kind), network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    importance, anchor = zeros(model), copies(model)
    for look in seen_as:
        moved = look(x)
        for at in torch.randperm(len(x)).split(128):
            loss = F.cross_entropy(model(moved[at]), y[at]) + strength * penalty(model, importance, anchor)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        importance = [a + b for a, b in zip(importance, fisher(model, moved, y, weighted), strict=True)]
        anchor = copies(model)
    return statistics.fmean(accuracy(model, look(test[0]), test[1]) for look in seen_as)


def si(stream: Iterator[Rows], tests: list[Rows], batch: int, c: float, damping: float, clip: float | None) -> float:
    """Learning rate 0.1, one epoch; gradients are clipped by value, before they are added up."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    importance, anchor = zeros(model), copies(model)
    for x, y in stream:
        path = zeros(model)
        for at in torch.randperm(len(x)).split(batch):
            loss = F.cross_entropy(model(x[at]), y[at]) + c * penalty(model, importance, anchor)
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_value_(model.parameters(), clip)
            optimizer.step()
            path = [w + 0.1 * p.grad.square() for w, p in zip(path, model.parameters(), strict=True)]
        steps = zip(importance, path, model.parameters(), anchor, strict=True)
        importance = [o + w / ((p.detach() - q).square() + damping) for o, w, p, q in steps]
        anchor = copies(model)
    return statistics.fmean(accuracy(model, *test) for test in tests)


def si_permuted(clip: float | None) -> float:
    (x, y), test = mnist()
    orders = domains()
    stream = ((x[:, order], y) for order in orders)
    return si(stream, [(test[0][:, order], test[1]) for order in orders], 128, 0.5, 1.0, clip)


def si_sequential(clip: float | None) -> float:
    train, test = mnist()
    return si(iter(tasks(*train)), tasks(*test), 10, 1.0, 0.9, clip)


def tasks(x: Tensor, y: Tensor) -> list[Rows]:
    return [(x[y // 2 == t], y[y // 2 == t]) for t in range(TASKS)]


def herded(features: Tensor, size: int) -> list[int]:
    """Rows whose mean comes nearest to the class's, one after another."""
    total, left, chosen = torch.zeros(features.shape[1]), features.clone(), []
    for i in range(size):
        best = int((features.mean(0) - (left + total) / (i + 1)).norm(dim=1).argmin())
        chosen.append(best)
        total += features[best]
        left[best] = torch.inf
    return chosen


def halving(features: Tensor) -> Tensor:
    """The authors' mean: of each ten rows in turn, by half with what came before. Of many rows the last ones decide."""
    mean = features[:10].mean(0)
    for ten in features[10:].split(10):
        mean = (mean + ten.mean(0)) / 2
    return mean


def blackened(rows: Tensor) -> Tensor:
    """Pixels in [0, 1] taken for bytes, and read as such: 1 becomes 1/255, and all others 0."""
    return rows.byte().float() / 255


def icarl(
    size: int,
    replayed: int | None,
    unit: bool,
    center: Callable[[Tensor], Tensor] = lambda rows: rows.mean(0),
    mixed: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> float:
    """Sequential MNIST, learning rate 0.1, batches of 10; memory mixed into the data, or so many rows beside 10 new."""
    train, tests = tasks(*(parts := mnist())[0]), tasks(*parts[1])
    model, scale = network(), F.normalize if unit else lambda features: features
    optimizer, old, memory = torch.optim.SGD(model.parameters(), 0.1), None, dict[int, Tensor]()
    for t, (x, y) in enumerate(train):
        kept, labels = _all(memory)
        rows, answers = (torch.cat([x, mixed(kept)]), torch.cat([y, labels])) if replayed is None else (x, y)
        for at in torch.randperm(len(rows)).split(10):
            bx, by = rows[at], answers[at]
            if replayed is not None and len(kept):
                more = torch.randperm(len(kept))[:replayed]
                bx, by = torch.cat([bx, kept[more]]), torch.cat([by, labels[more]])
            target = F.one_hot(by, 10).float()
            if old is not None:
                with torch.no_grad():
                    target[:, : 2 * t] = old(bx)[:, : 2 * t].sigmoid()
            seen = slice(2 * t + 2)
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(bx)[:, seen], target[:, seen]).backward()
            optimizer.step()
        room, old = size // (2 * t + 2), copy.deepcopy(model)
        with torch.no_grad():
            memory = {k: rows[:room] for k, rows in memory.items()}
            for k in (2 * t, 2 * t + 1):
                memory[k] = (own := x[y == k])[herded(scale(model[:-1](own)), min(room, len(own)))]
    with torch.no_grad():
        means = torch.stack([scale(scale(model[:-1](memory[k])).mean(0), dim=0) if unit else
                             center(model[:-1](memory[k])) for k in range(10)])  # fmt: skip
    return statistics.fmean(accuracy(lambda x: -torch.cdist(scale(model[:-1](x)), means), *test) for test in tests)


def _all(memory: dict[int, Tensor]) -> Rows:
    rows = torch.cat([*memory.values(), torch.zeros(0, 784)])
    return rows, torch.cat([torch.full((len(own),), k) for k, own in memory.items()] or [torch.zeros(0)]).long()


def fdr(size: int, lr: float, at_end: bool, apart: bool) -> float:
    """Sequential MNIST, batches of 128 and 128 of memory, which has an equal share of random rows of each experience.

    Answers are stored when an experience ends, or when a row is new; the two losses have a step each, or one for both.
    """
    train, tests = tasks(*(parts := mnist())[0]), tasks(*parts[1])
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr)
    memory: list[Rows] = []

    def learn(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for t, (x, y) in enumerate(train):
        told = torch.zeros(len(x), 10)
        kept, wanted = (torch.cat(part) for part in zip(*memory, strict=True)) if memory else (x[:0], told[:0])
        for at in torch.randperm(len(x)).split(128):
            said = model(x[at])
            told[at] = said.detach()
            loss = F.cross_entropy(said, y[at])
            if apart or not len(kept):
                learn(loss)
            if len(kept):
                some = torch.randperm(len(kept))[:128]
                off = (model(kept[some]).softmax(1) - wanted[some].softmax(1)).norm(dim=1).mean()
                learn(off if apart else loss + off)
        with torch.no_grad():
            told = model(x) if at_end else told
        some = torch.randperm(len(x))[: size // (t + 1)]
        memory = [(rows[: size // (t + 1)], said[: size // (t + 1)]) for rows, said in memory]
        memory.append((x[some], told[some]))
    return statistics.fmean(accuracy(model, *test) for test in tests)


def agem(eps: float = 1e-7) -> float:
    """Class-incremental Split MNIST, 2,000 steps of 128 rows, 100 rows of each class: A-GEM of van de Ven et al."""
    train, tests = mnist()
    classes = torch.randperm(10)
    model = nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10))
    optimizer, parameters = torch.optim.Adam(model.parameters(), 0.001), list(model.parameters())
    kept: list[Rows] = []

    def gradient(x: Tensor, y: Tensor) -> Vectors:
        return list(torch.autograd.grad(F.cross_entropy(model(x), y), parameters))

    for t in range(TASKS):
        own = torch.isin(train[1], classes[2 * t : 2 * t + 2])
        x, y = train[0][own], train[1][own]
        memory = [torch.cat(part) for part in zip(*kept, strict=True)]
        coming, replayed = forever(len(y)), forever(len(memory[1]) if kept else 128)
        for _ in range(2000):
            at, back = next(coming), next(replayed)
            new = gradient(x[at], y[at])
            if kept:
                old = gradient(memory[0][back], memory[1][back])
                along = sum((a * b).sum() for a, b in zip(new, old, strict=True))
                if along < 0:
                    share = along / (sum(b.square().sum() for b in old) + eps)
                    new = [a - share * b for a, b in zip(new, old, strict=True)]
            for p, g in zip(parameters, new, strict=True):
                p.grad = g
            optimizer.step()
        for k in classes[2 * t : 2 * t + 2]:
            rows = (y == k).nonzero().squeeze(1)
            some = rows[torch.randperm(len(rows))[:100]]
            kept.append((x[some], y[some]))
    return accuracy_by_class(model, classes, *tests)


def turned(x: Tensor, degrees: float, mode: str) -> Tensor:
    """Rows turned about their centre; `mode` is `nearest`, as the authors do, or `bilinear`, as clkd does."""
    a = math.radians(degrees)
    turn = torch.tensor([[math.cos(a), -math.sin(a), 0.0], [math.sin(a), math.cos(a), 0.0]])
    images = x.view(-1, 1, 28, 28)
    grid = F.affine_grid(turn[None], [1, 1, 28, 28], align_corners=False)
    parts = [F.grid_sample(p, grid.expand(len(p), -1, -1, -1), mode, align_corners=False) for p in images.split(5000)]
    return torch.cat(parts).view(-1, 784)


def looks(kind: str) -> list[Callable[[Tensor], Tensor]]:
    """Twenty domains: `permuted`, or rotated, `nearest` or `bilinear`; `clkd` is bilinear by the angles of its seed."""
    if kind == "permuted":
        return [lambda x, order=order: x[:, order] for order in domains()]
    if kind == "clkd":
        draws, kind = [generator(torch.initial_seed(), "rotated", i) for i in range(DOMAINS)], "bilinear"
        angles = [180 * torch.rand((), generator=each).item() for each in draws]
    else:
        angles = (180 * torch.rand(DOMAINS)).tolist()
    return [lambda x, angle=angle: turned(x, angle, kind) for angle in angles]


class Reservoir:
    """Rows of all that came, evenly."""

    def __init__(self, size: int) -> None:
        self.x, self.y, self.size, self.seen = torch.zeros(size, 784), torch.zeros(size, dtype=torch.long), size, 0

    def add(self, x: Tensor, y: Tensor) -> None:
        for row, label in zip(x, y, strict=True):
            slot = self.seen if self.seen < self.size else int(torch.randint(self.seen + 1, ()))
            self.seen += 1
            if slot < self.size:
                self.x[slot], self.y[slot] = row, label

    def draw(self, count: int) -> Rows:
        at = torch.randperm(min(self.seen, self.size))[:count]
        return self.x[at], self.y[at]


def er(size: int, mode: str) -> float:
    """Rotated MNIST, learning rate 0.2, one epoch, 128 new rows and 128 of the reservoir in a step."""
    (x, y), test = mnist()
    seen_as, model, memory = looks(mode), network(), Reservoir(size)
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    for look in seen_as:
        moved = look(x)
        for at in torch.randperm(len(x)).split(128):
            back_x, back_y = memory.draw(128)
            loss = F.cross_entropy(model(torch.cat([moved[at], back_x])), torch.cat([y[at], back_y]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            memory.add(moved[at], y[at])
    return statistics.fmean(accuracy(model, look(test[0]), test[1]) for look in seen_as)


def agem_domains(size: int, kind: str, batch: bool) -> float:
    """Learning rate 0.1, one epoch. At a domain's end memory is offered a `batch` of 128 rows, or gets its share."""
    (x, y), test = mnist()
    seen_as, model, memory = looks(kind), network(), Reservoir(size)
    optimizer, parameters = torch.optim.SGD(model.parameters(), 0.1), list(model.parameters())

    def gradient(x: Tensor, y: Tensor) -> Vectors:
        return list(torch.autograd.grad(F.cross_entropy(model(x), y), parameters))

    for look in seen_as:
        moved = look(x)
        for at in torch.randperm(len(x)).split(128):
            new = gradient(moved[at], y[at])
            if memory.seen:
                old = gradient(*memory.draw(128))
                along = sum((a * b).sum() for a, b in zip(new, old, strict=True))
                if along < 0:
                    share = along / sum(b.square().sum() for b in old)
                    new = [a - share * b for a, b in zip(new, old, strict=True)]
            for p, g in zip(parameters, new, strict=True):
                p.grad = g
            optimizer.step()
        some = torch.randperm(len(x))[: 128 if batch else size // DOMAINS]
        memory.add(moved[some], y[some])
    return statistics.fmean(accuracy(model, look(test[0]), test[1]) for look in seen_as)


def forever(rows: int) -> Iterator[Tensor]:
    """Full batches of 128, shuffled anew each time that all have come."""
    while True:
        yield from (at for at in torch.randperm(rows).split(128) if len(at) == 128)


def accuracy_by_class(model: nn.Module, classes: Tensor, x: Tensor, y: Tensor) -> float:
    """Mean over the experiences, which have two classes each."""
    pairs = (torch.isin(y, classes[2 * t : 2 * t + 2]) for t in range(TASKS))
    return statistics.fmean(accuracy(model, x[own], y[own]) for own in pairs)


VARIANTS: dict[str, dict[str, Callable[[], float]]] = {
    "oewc": {
        "λ 0.7, squares weighted by p (the authors')": lambda: oewc(0.7, True),
        "λ 0.7, squares of the labels' gradients": lambda: oewc(0.7, False),
        "λ 7, weighted by p": lambda: oewc(7.0, True),
        "rotated, at the angles of clkd's seeds, λ 0.7, weighted by p (the authors')": lambda: oewc(0.7, True, "clkd"),
        "rotated, λ 0.7, weighted by p (the authors')": lambda: oewc(0.7, True, "nearest"),
    },
    "si": {
        "sequential, clipped at 1 (the authors')": lambda: si_sequential(1.0),
        "sequential, not clipped": lambda: si_sequential(None),
        "permuted, clipped at 1 (the authors')": lambda: si_permuted(1.0),
        "permuted, not clipped": lambda: si_permuted(None),
    },
    "icarl": {
        "200 rows mixed into the data as black images, plain features (as published)": lambda: icarl(
            200, None, False, mixed=blackened
        ),
        "500 rows mixed into the data as black images, plain features (as published)": lambda: icarl(
            500, None, False, mixed=blackened
        ),
        "5120 rows mixed into the data as black images, plain features (as published)": lambda: icarl(
            5120, None, False, mixed=blackened
        ),
        "200 rows mixed into the data, plain features (clkd's)": lambda: icarl(200, None, False),
        "500 rows mixed into the data, plain features (clkd's)": lambda: icarl(500, None, False),
        "5120 rows mixed into the data, plain features (clkd's)": lambda: icarl(5120, None, False),
        "200 rows mixed into the data, unit features": lambda: icarl(200, None, True),
        "500 rows mixed into the data, plain features, halved means (the present code)": lambda: icarl(
            500, None, False, halving
        ),
        "5120 rows mixed into the data, plain features, halved means (the present code)": lambda: icarl(
            5120, None, False, halving
        ),
    },
    "agem": {
        "Split MNIST, class-incremental, ε 1e-7 (the authors')": agem,
        "Split MNIST, class-incremental, ε 0": lambda: agem(0.0),
    },
    "er": {
        f"{size} rows, {mode}": partial(er, size, mode)
        for size in (200, 500)
        for mode in ("nearest", "bilinear", "clkd")
    },
    "agem_domains": {
        f"{size} rows, {kind}, {told}": partial(agem_domains, size, kind, batch)
        for size in (200, 500, 5120)
        for kind in ("permuted", "nearest", "bilinear", "clkd")
        for told, batch in (("a batch of each domain", True), ("a share for each domain", False))
    },
    "fdr": {
        "200 rows, stored at the end, a step for each loss (the authors')": lambda: fdr(200, 0.03, True, True),
        "200 rows, stored at the end, one step": lambda: fdr(200, 0.03, True, False),
        "200 rows, stored when new, a step for each loss": lambda: fdr(200, 0.03, False, True),
        "200 rows, stored when new, one step": lambda: fdr(200, 0.03, False, False),
        "500 rows, stored at the end, a step for each loss (the authors')": lambda: fdr(500, 0.1, True, True),
        "500 rows, stored at the end, one step": lambda: fdr(500, 0.1, True, False),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=VARIANTS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="", help="the variants whose name has this in it")
    given = parser.parse_args()
    for name, variant in VARIANTS[given.method].items():
        if given.only not in name:
            continue
        values = []
        for seed in range(given.seeds):
            torch.manual_seed(seed)
            values.append(variant())
        print(f"{name}: {statistics.fmean(values):.2f}  ({', '.join(f'{v:.2f}' for v in values)})", flush=True)


if __name__ == "__main__":
    main()
