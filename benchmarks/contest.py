"""Paired timing: contestants take turns, so that a slow minute of the machine hits all of them."""

from __future__ import annotations

import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from clkd.engine.allocator import KEPT, M_MMAP_THRESHOLD, M_TOP_PAD, M_TRIM_THRESHOLD, allocate

Contestant = Callable[[], float]
"""Does the work once and returns its rate: rows per second."""
OTHERS = ("plain", "tuned plain", "Avalanche")
"""How the names of contestants begin who are none of clkd's."""
USUAL = {M_MMAP_THRESHOLD: 32 * 2**20, M_TRIM_THRESHOLD: 64 * 2**20, M_TOP_PAD: 128 * 2**10}
"""Bytes: where glibc's own thresholds end as a process frees large tensors, and where they begin for its heap."""


def contest(contestants: dict[str, Contestant], rounds: int) -> dict[str, list[float]]:
    """Each contestant's rates, a round at a time; one round before them warms everything up.

    The others have what glibc comes to by itself; clkd, and the bare arithmetic that bounds it, keep freed memory, as
    `clkd run` has its process do.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, work in contestants.items():
            allocate(USUAL if name.startswith(OTHERS) else KEPT)
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
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {gpu()}, torch {torch.__version__}"


def gpu() -> str:
    """Its name, CUDA's version and the driver's; `no GPU` without one."""
    if not torch.cuda.is_available():
        return "no GPU"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True, check=False) if shutil.which(query[0]) else None
    driver = told.stdout.split()[0] if told and told.stdout.split() else "unknown"
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, driver {driver}"


def save(name: str, text: str) -> Path:
    """Keep a table, with what stands below it, in `benchmarks/results/`."""
    path = Path(__file__).parent / "results" / f"{name}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n")
    return path
