"""Anonymous memory while a data set is decoded, and rows per second resident and streamed.

    python benchmarks/streaming.py [--megabytes 512]

Rows are noise, decoded lazily into a store of that size. `RssAnon` leaves out mapped files, whose pages the system
takes back when it needs them.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from contextlib import closing
from pathlib import Path

import torch

from clkd.data.source import Lazy, Raw, Split
from clkd.data.store import open_or_build
from clkd.engine.batches import batches
from clkd.experience import Rows

SHAPE = (3, 64, 64)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def anonymous() -> float:
    """Megabytes of this process's own memory."""
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def noise(count: int, peak: list[float]) -> Split:
    def make(at: torch.Tensor) -> torch.Tensor:
        x = torch.randint(0, 256, (len(at), *SHAPE), dtype=torch.uint8)
        peak.append(anonymous())
        return x

    return Split(Lazy((count, *SHAPE), make), torch.arange(count) % 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=512)
    count = parser.parse_args().megabytes * 2**20 // (3 * 64 * 64)
    before, peak = anonymous(), [0.0]
    with tempfile.TemporaryDirectory() as folder:
        names = tuple("0123456789")
        store = open_or_build("noise", "x", Path(folder), lambda _: Raw(noise(count, peak), noise(10, peak), names))
        print(f"{store.train.x.nbytes / 2**20:.0f} MB decoded with {max(peak) - before:.0f} MB of own memory at most\n")
        print(f"| {DEVICE} | rows/s | own MB |\n|---|---|---|")
        for resident in (True, False):
            index = torch.arange(count)
            rows = Rows(store.train.x, store.train.y, index, index, resident=resident).ready(DEVICE)
            start = time.perf_counter()
            with closing(batches(rows, torch.randperm(count), 256, DEVICE)) as coming:
                total = sum(batch.x.float().mean() for batch in coming)
            float(total)
            rate = count / (time.perf_counter() - start)
            print(f"| {'resident' if resident else 'streamed'} | {rate:,.0f} | {anonymous() - before:.0f} |")


if __name__ == "__main__":
    main()
