"""Do two students that teach each other do better than one alone? Digits, whole runs, several seeds.

    python benchmarks/mutual.py --seeds 0 1 2 3 4

Two MLPs of 64 hidden units, ten epochs of SGD with momentum and a cosine schedule, crop by one pixel: on all ten digits
at once (`all` rows, or `few`: 20 of each class), and as a stream of `five` experiences with replay. `alone` is the
student without the peer; `twins` trains the peer beside it and lets nobody learn from anybody (its column tells what
chance makes of the same recipe); `DML` is deep mutual learning; the others are KDCL with three ways to make the common
target, the last with a view of its own for the peer. In every row the student starts with the same weights and sees the
same batches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from contest import machine

from clkd.engine.execute import execute
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

MODEL = {"model": {"kind": "mlp", "hidden": [64]}, "head": "linear"}
SCENARIO: dict[str, Any] = {
    "name": "mutual",
    "student": MODEL,
    "train": {
        "epochs": 10,
        "batch_size": 32,
        "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9},
        "scheduler": "cosine",
    },
    "tracking": {"mode": "offline"},
}
STREAMS: dict[str, dict[str, Any]] = {
    "all": {"experiences": 1, "rows": None, "memory": "none"},
    "few": {"experiences": 1, "rows": 20, "memory": "none"},
    "five": {"experiences": 5, "rows": None, "memory": {"kind": "reservoir", "size": 100}},
}
LABELS = ["cross_entropy", {"kind": "cross_entropy", "between": ["mate"]}]


def kd(*sides: str, temperature: float) -> dict[str, Any]:
    return {"kind": "kd", "between": list(sides), "temperature": temperature}


def kdcl(own_view: bool = False, **target: str) -> dict[str, Any]:
    return {
        "peers": {"mate": {**MODEL, "own_view": own_view}},
        "teachers": {"both": {"kind": "ensemble", "members": ["student", "mate"], **target}},
        "losses": [*LABELS, kd("student", "both", temperature=2), kd("mate", "both", temperature=2)],
    }


DML = [kd("student", "mate", temperature=1), kd("mate", "student", temperature=1)]
ROWS: dict[str, dict[str, Any]] = {
    "alone": {},
    "twins": {"peers": {"mate": MODEL}, "losses": LABELS},
    "DML": {"peers": {"mate": MODEL}, "losses": [*LABELS, *DML]},
    "KDCL, mean logits": kdcl(mean="logits"),
    "KDCL, least loss": kdcl(by="least_loss"),
    "KDCL, min logit": kdcl(by="min_logit"),
    "KDCL, min logit, own view": kdcl(own_view=True, by="min_logit"),
}


def run(home: Path, stream: dict[str, Any], row: str, seed: int) -> tuple[float, float | None]:
    """Average accuracy at the end in percent, of the student and of the peer."""
    split = {"by": "class", "experiences": stream["experiences"]}
    dataset = {"name": "digits", "rows_per_class": stream["rows"]}
    made = {"stream": {"dataset": dataset, "split": split, "augment": {"crop": 1}}, "memory": stream["memory"]}
    place = home / f"{stream['experiences']}_{stream['rows']}_{list(ROWS).index(row)}_{seed}"
    scenario = home / "scenario.yaml"
    scenario.write_text(to_yaml({**SCENARIO, **made, **ROWS[row], "seed": seed, "output": str(place)}))
    result = execute(RunRequest(scenario=scenario, quiet=True), load_plugins())
    lines = map(json.loads, (place / "metrics.jsonl").read_text().splitlines())
    *_, last = (line["metrics"] for line in lines if line["event"] == "experience")
    peer = last.get("peers/mate/average_accuracy")
    return 100 * result["metrics"]["average_accuracy"], None if peer is None else 100 * peer


def shown(values: list[float]) -> str:
    """Mean ± standard deviation."""
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=list(STREAMS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        for name in given.streams:
            stream = STREAMS[name]
            print(f"| {name} | student, % | student less alone | peer, % |\n|---|---|---|---|")
            alone: list[float] = []
            for row in ROWS:
                pairs = [run(Path(home), stream, row, seed) for seed in given.seeds]
                students, peers = [pair[0] for pair in pairs], [pair[1] for pair in pairs if pair[1] is not None]
                alone = alone or students
                gain = shown([a - b for a, b in zip(students, alone, strict=True)])
                print(f"| {row} | {shown(students)} | {gain} | {shown(peers) if peers else ''} |")
            print()
    options = f"--seeds {' '.join(map(str, given.seeds))} --streams {' '.join(given.streams)}"
    print(f"{machine()}; `python benchmarks/mutual.py {options}`")


if __name__ == "__main__":
    main()
