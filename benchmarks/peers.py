"""Avalanche at the same work: its own strategy with its LwF and replay plugins, its own data path where it has one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clkd.streams.avalanche import to_avalanche
from clkd.streams.base import Stream
from clkd.vision import avalanche, torchvision


def strategy(model: nn.Module, batch: int, lr: float, memory: int, temperature: float, device: torch.device) -> Any:
    """LwF and replay, by SGD with momentum."""
    avalanche(), torchvision()
    from avalanche.training.plugins import LwFPlugin, ReplayPlugin

    plugins = [
        LwFPlugin(alpha=1, temperature=temperature),
        ReplayPlugin(mem_size=memory, batch_size=batch, batch_size_mem=batch),
    ]
    return naive(model, batch, lr, plugins, device, momentum=0.9)


def naive(
    model: nn.Module,
    batch: int,
    lr: float,
    plugins: list[Any],
    device: torch.device,
    momentum: float = 0,
    epochs: int = 1,
) -> Any:
    """Fine-tuning with plugins. It keeps the numbers that clkd keeps, too: mean loss, accuracy of each experience."""
    avalanche(), torchvision()
    from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Naive

    model = model.to(device)
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch,
        eval_mb_size=512,
        train_epochs=epochs,
        device=device,
        plugins=plugins,
        evaluator=EvaluationPlugin(
            loss_metrics(epoch=True), accuracy_metrics(experience=True, stream=True), loggers=[]
        ),
    )


def dark_experience(
    model: nn.Module, batch: int, lr: float, memory: int, alpha: float, beta: float, device: torch.device
) -> Any:
    """Avalanche's own DER++: one forward pass for new and replayed rows, as many of each."""
    avalanche(), torchvision()
    from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import DER

    model = model.to(device)
    return DER(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr),
        mem_size=memory,
        batch_size_mem=batch,
        alpha=alpha,
        beta=beta,
        train_mb_size=batch,
        eval_mb_size=512,
        device=device,
        evaluator=EvaluationPlugin(
            loss_metrics(epoch=True), accuracy_metrics(experience=True, stream=True), loggers=[]
        ),
    )


def own_mnist() -> Any:
    """Avalanche's SplitMNIST as its users write it: PIL images, ToTensor, Normalize. Data: `$CLKD_DATA/MNIST/raw`."""
    avalanche(), torchvision()
    from avalanche.benchmarks.classic import SplitMNIST

    root = Path(os.environ.get("CLKD_DATA", "."))
    if not (root / "MNIST" / "raw").is_dir():
        raise SystemExit("set CLKD_DATA to a folder with MNIST/raw/*-ubyte (unpacked) for Avalanche's own SplitMNIST")
    return SplitMNIST(5, fixed_class_order=list(range(10)), dataset_root=root)


def fed_by_clkd(stream: Stream, crop: int) -> Any:
    """clkd's resident rows as an Avalanche benchmark, changed row by row with torchvision's transforms."""
    torchvision()
    from torchvision import transforms

    change = transforms.Compose([transforms.RandomCrop(32, crop), transforms.RandomHorizontalFlip()]) if crop else None
    return to_avalanche(stream, change)
