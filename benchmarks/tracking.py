"""What tracking costs: the main job with MLflow and metrics.jsonl, and with tracking off, in turn.

    python benchmarks/tracking.py                          # the main job as it is shipped
    python benchmarks/tracking.py --rows-per-class 500     # a tenth of it, where fixed costs weigh more

Whole processes from their start to their end, warm caches, a MLflow database of its own. The run's own account leaves
out imports and the end of the process. Data is looked for in `$CLKD_DATA`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from contest import machine

SCENARIO = Path(__file__).parents[1] / "scenarios" / "split_cifar.yaml"


def seconds(home: str, mode: str, settings: list[str]) -> dict[str, float]:
    """Wall time of the whole process, and the run's own account of it."""
    command = [sys.executable, "-m", "clkd", "run", str(SCENARIO), *settings, "--tracking", mode, "--json", "-q"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=home, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = {**json.loads(done.stdout)["seconds"], "process": time.perf_counter() - start}
    print(f"  {mode}: {found}", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows-per-class", type=int)
    given = parser.parse_args()
    limit = given.rows_per_class
    settings = ["--set", f"stream.dataset.rows_per_class={limit}"] if limit else []
    with tempfile.TemporaryDirectory() as home:
        seconds(home, "mlflow", settings)  # fits the teacher, decodes, makes the database
        rounds = [(seconds(home, "mlflow", settings), seconds(home, "off", settings)) for _ in range(given.rounds)]
    shares = sorted(100 * on["tracking"] / on["total"] for on, _ in rounds)
    ratios = sorted(on["process"] / off["process"] for on, off in rounds)
    within = sorted(on["total"] / off["total"] for on, off in rounds)
    middle = statistics.median
    print("| main job | median of the rounds |\n|---|---|")
    print(f"| seconds, tracking on | {middle(on['process'] for on, _ in rounds):.1f} |")
    print(f"| seconds, tracking off | {middle(off['process'] for _, off in rounds):.1f} |")
    print(f"| wall time on ÷ off | {middle(ratios):.3f} ({ratios[0]:.3f} – {ratios[-1]:.3f}) |")
    print(f"| the same by the run's own account | {middle(within):.3f} ({within[0]:.3f} – {within[-1]:.3f}) |")
    print(f"| share of wall time spent in trackers | {middle(shares):.1f} % ({shares[0]:.1f} – {shares[-1]:.1f}) |")
    options = f"--rounds {given.rounds}" + (f" --rows-per-class {limit}" if limit else "")
    print(f"\n{machine()}; `python benchmarks/tracking.py {options}`")


if __name__ == "__main__":
    main()
