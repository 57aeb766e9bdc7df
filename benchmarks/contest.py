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
    """Markdown: the median rate of each contestant, and how much faster each of clkd's is, round by round."""
    ours = [name for name in rates if name.startswith("clkd")]
    lines = [f"**{title}**", "", "| | rows/s | " + " | ".join(f"{name} ÷ it" for name in ours) + " |"]
    lines.append("|---" * (2 + len(ours)) + "|")
    for name, own in rates.items():
        cells = ["" if name == mine else ratio(rates[mine], own) for mine in ours]
        lines.append(f"| {name} | {statistics.median(own):,.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Median, and smallest and largest, of the rounds' own ratios."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f} – {ratios[-1]:.2f})"


def machine() -> str:
    """What the numbers were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {gpu}, torch {torch.__version__}"
