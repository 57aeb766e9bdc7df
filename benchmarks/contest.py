"""Paired timing: contestants take turns, so that a slow minute of the machine hits all of them."""

from __future__ import annotations

import platform
import statistics
import sys
from collections.abc import Callable

import torch

Contestant = Callable[[], float]
"""Does the work once and returns its rate: rows per second."""


def contest(contestants: dict[str, Contestant], rounds: int) -> dict[str, list[float]]:
    """Each contestant's rates, a round at a time; one round before them warms everything up."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, work in contestants.items():
            rate = work()
            if turn:
                rates[name].append(rate)
            print(f"  {turn}/{rounds} {name}: {rate:,.0f} rows/s", file=sys.stderr)
    return rates


def table(title: str, rates: dict[str, list[float]]) -> str:
    """Markdown: the median rate of each, and the median over rounds of the first one's ratio to it."""
    first = next(iter(rates.values()))
    lines = [f"**{title}**", "", "| | rows/s (median) | ratio (median, min – max of rounds) |", "|---|---|---|"]
    for name, own in rates.items():
        ratios = sorted(a / b for a, b in zip(first, own, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} – {ratios[-1]:.2f})" if own is not first else ""
        lines.append(f"| {name} | {statistics.median(own):,.0f} | {spread} |")
    return "\n".join(lines)


def machine() -> str:
    """What the numbers were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {gpu}, torch {torch.__version__}"
