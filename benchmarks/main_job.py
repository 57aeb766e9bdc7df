"""The README's table: the main job beside fine-tuning and joint training, over seeds.

    python benchmarks/main_job.py --seeds 0 1 2

Finished runs are kept in the output directory, so an interrupted table goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

SCENARIOS = Path(__file__).parents[1] / "scenarios"
ROWS = {
    "fine-tuning": "baselines/finetune",
    "**main job**": "split_cifar",
    "joint training": "baselines/joint",
}
HEADLINES = ("average_accuracy", "average_accuracy_task_aware", "forgetting")


def result(scenario: str, seed: int, output: Path) -> dict[str, Any]:
    """The result of one run, from its file if it is there."""
    kept = output / f"{Path(scenario).name}_{seed}.json"
    if not kept.exists():
        command = [sys.executable, "-m", "clkd", "run", str(SCENARIOS / f"{scenario}.yaml"), "--seed", str(seed)]
        done = subprocess.run([*command, "--json", "-q"], stdout=subprocess.PIPE, text=True, check=True)
        kept.write_text(done.stdout)
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def spread(values: list[float]) -> str:
    """Mean ± standard deviation in percent."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.1f} ± {100 * deviation:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/main_job"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    print("| | class-incremental accuracy | task-aware | forgetting | seeds |\n|---|---|---|---|---|")
    for name, scenario in ROWS.items():
        found = [result(scenario, seed, given.output) for seed in given.seeds]
        columns = [spread([one["metrics"][headline] for one in found]) for headline in HEADLINES]
        each = ", ".join(f"{100 * one['metrics']['average_accuracy']:.1f}" for one in found)
        print(f"| {name} | {columns[0]} ({each}) | {columns[1]} | {columns[2]} | {len(found)} |")
    print(f"\ndata: {found[0]['stand_in'] or found[0]['dataset']}")


if __name__ == "__main__":
    main()
