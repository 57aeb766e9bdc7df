"""Seconds from `clkd run` to the end of the first optimiser step, in fresh processes with warm caches.

    CLKD_OFFLINE=1 python benchmarks/startup.py [scenarios/split_cifar.yaml] [--runs 5]

A plugin file notes the time when plugins are configured (torch is imported), when the run starts (everything is
composed, trackers were told) and when the first of the student's steps ends. Prints medians as a Markdown table; CPU
seconds count all threads and do not depend on who else uses the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCENARIO = Path(__file__).parents[1] / "scenarios" / "split_cifar.yaml"
PLUGIN = """
import json, os, time
import clkd

seen = []

def note(name):
    seen.append((name, time.time(), time.process_time()))

@clkd.hookimpl
def clkd_configure(scenario, registry):
    note("imports")

@clkd.hookimpl
def clkd_run_start(run):
    note("compose and start trackers")
    from clkd.engine.step import Step
    plain = Step.__call__

    def first(self, *given):
        Step.__call__ = plain
        said = plain(self, *given)
        note("first step (with teachers' answers and the baseline)")
        with open(os.environ["STARTUP_NOTES"], "w") as file:
            json.dump(seen, file)
        return said

    Step.__call__ = first
"""
COMMON = ["--limit-batches", "1", "--limit-experiences", "1", "--quiet"]


def once(scenario: Path, home: Path) -> list[tuple[str, float, float]]:
    """Per phase: its name, wall seconds since the process was started, CPU seconds."""
    notes = home / "notes.json"
    start = time.time()
    subprocess.run(
        [sys.executable, "-m", "clkd", "run", str(scenario), *COMMON, "--plugins-dir", str(home / "plugins")],
        check=True,
        cwd=home,
        env={**os.environ, "STARTUP_NOTES": str(notes)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return [(name, wall - start, cpu) for name, wall, cpu in json.loads(notes.read_text())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="?", type=Path, default=SCENARIO)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "plugins").mkdir()
        (home / "plugins" / "startup_notes.py").write_text(PLUGIN)
        once(given.scenario.absolute(), home)  # decodes the data and fits the teacher, if the cache lacks them
        runs = [once(given.scenario.absolute(), home) for _ in range(given.runs)]
    print(f"`{' '.join(sys.argv)}`: median of {given.runs}, {platform.machine()}, {os.cpu_count()} cores, "
          f"load {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    print("| until the end of | seconds | CPU seconds |\n|---|---|---|")
    for phase in zip(*runs, strict=True):
        wall, cpu = (statistics.median(each[i] for each in phase) for i in (1, 2))
        print(f"| {phase[0][0]} | {wall:.2f} | {cpu:.2f} |")


if __name__ == "__main__":
    main()
