"""Distillation losses beside each other: the student's test accuracy with each of them, and with none, over seeds.

    python benchmarks/distillation.py                            # two CPU cores: one process of one thread on each
    python benchmarks/distillation.py --table                    # what is there so far; trains nothing
    python benchmarks/distillation.py --full --device cuda --teacher resnet56 --student resnet20
    python benchmarks/distillation.py --smoke                    # everything once, on scikit-learn's digits

CIFAR-10, all ten classes at once. A ResNet-20 is trained once on all 50,000 images; ResNet-8 students learn from the
first 250 images of each class, crop and flip, and are tested on all 10,000 test images after their last epoch. Seeds
share the teacher; with one seed all rows start from the same weights and see the same batches, so differences to no
distillation are paired. In the full variant students see all images for 240 epochs, and the teacher is asked in each
step.

No number was tuned, so nothing was selected on test rows. The student's recipe is RepDistiller's (SGD 0.05, momentum
0.9, weight decay 5e-4, batches of 64), its 240 epochs with steps at 150, 180 and 210 shortened in proportion; the
teacher's is that of clkd's kind `fit` (one cycle up to 0.1). Weights are those of the losses' authors or of
RepDistiller (`SOURCES`), most of them for CIFAR-100 and larger models.

Each training is a process of its own. A finished one is a line in the results file at once, so a table that was stopped
goes on where it was; lines of other settings are left alone. Data is looked for in `$CLKD_DATA`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clkd.scenario.document import to_yaml

BASE, TEACHER = "no distillation", "teacher"
PAIR = ["student", "external"]
SOURCES = {
    BASE: "cross-entropy alone",
    "kd": "0.1·CE + 0.9·T²KL, T = 4 (RepDistiller)",
    "features": "1, stage 2, 1 × 1 projector (RepDistiller's 100 made students diverge)",
    "attention": "1000, stages 1 to 3 (RepDistiller)",
    "rkd": "25·distance + 50·angle (the authors, RepDistiller)",
    "dist": "2, T = 1 (torchdistill's, for ImageNet)",
    "dkd": "α = 1, β = 8, T = 4, rising over the first twelfth (mdistiller)",
    "crd": "0.8 (RepDistiller), here of InfoNCE",
}
"""What each row's weights are, and where they are from."""


def losses(row: str, epochs: int) -> list[Any]:
    """A row's terms. mdistiller's DKD rises over 20 of 240 epochs."""
    rising = {"kind": "warmup", "epochs": epochs / 12}
    terms: dict[str, Any] = {
        "features": {"between": ["student.stage2", "external.stage2"], "align": "conv1x1", "weight": 1},
        "attention": {"between": PAIR, "layers": ["stage1", "stage2", "stage3"], "weight": 1000},
        "rkd": {"between": PAIR, "variant": "both", "weight": 25},
        "dist": {"between": PAIR, "weight": 2},
        "dkd": {"between": PAIR, "weight": rising},
        "crd": {"between": PAIR, "weight": 0.8},
    }
    if row == "kd":
        return [
            {"kind": "cross_entropy", "weight": 0.1},
            {"kind": "kd", "between": PAIR, "temperature": 4, "weight": 0.9},
        ]
    return ["cross_entropy", *([{"kind": row, **terms[row]}] if row != BASE else [])]


@dataclass(frozen=True)
class Work:
    """How much is done: the data, who teaches whom, and for how long."""

    dataset: dict[str, Any]
    teacher: Any
    student: Any
    rows_per_class: int | None
    epochs: int
    teacher_epochs: int
    fixed_views: bool
    device: str

    def stream(self, rows_per_class: int | None, views: int | None) -> dict[str, Any]:
        """Normalised in one way for teacher and student, whatever rows they see."""
        cifar = self.dataset["name"] == "cifar10"
        normalize = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]}
        return {
            "dataset": {**self.dataset, "rows_per_class": rows_per_class},
            "split": {"by": "class", "experiences": 1},
            "augment": {**({"crop": 4, "flip": True} if cifar else {"crop": 1}), "views": views},
            "normalize": normalize if cifar else {"mean": [0.3], "std": [0.35]},
        }

    def teaching(self) -> dict[str, Any]:
        """The scenario that makes the teacher."""
        recipe = {"kind": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
        return {
            "name": "distillation_teacher",
            "device": self.device,
            "output": "run",
            "stream": self.stream(None, None),
            "student": {"model": self.teacher, "head": "linear"},
            "train": {
                "epochs": self.teacher_epochs,
                "batch_size": 128,
                "optimizer": recipe,
                "scheduler": {"kind": "one_cycle", "every": "step", "max_lr": 0.1},
            },
            "checkpoint": {"every_minutes": 2},
            "tracking": {"mode": "off"},
        }

    def learning(self, row: str, weights: str) -> dict[str, Any]:
        """The scenario of a student, taught by the network in the file `weights`.

        Views are fixed, as many as epochs, so that the teacher is asked about each once for all seeds; but three
        stages' maps take 57 kB a row and view, so attention's are asked for in each step.
        """
        recall = {} if row != "attention" else {"recall": False}
        external = {"kind": "checkpoint", "path": weights, "model": self.teacher, **recall}
        milestones = [round(self.epochs * share) for share in (5 / 8, 3 / 4, 7 / 8)]
        return {
            "name": "distillation",
            "device": self.device,
            "stream": self.stream(self.rows_per_class, self.epochs if self.fixed_views else None),
            "student": {"model": self.student, "head": "linear"},
            "teachers": {} if row == BASE else {"external": external},
            "losses": losses(row, self.epochs),
            "train": {
                "epochs": self.epochs,
                "batch_size": 64,
                "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
                "scheduler": {"kind": "multi_step", "milestones": milestones},
            },
            "tracking": {"mode": "off"},
        }

    def key(self, row: str) -> str:
        """What a result belongs to: everything that decides it but the seed."""
        made = [self.teaching(), *([self.learning(row, "")] if row != TEACHER else [])]
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:12]


def work(given: argparse.Namespace) -> Work:
    """What was asked for on the command line."""
    if given.smoke:
        tiny = {"kind": "resnet8", "width": 4}
        return Work({"name": "digits", "size": 16}, {**tiny, "width": 6}, tiny, 12, 2, 1, True, "cpu")
    rows = None if given.full else given.rows_per_class
    epochs, teacher_epochs = (240, 240) if given.full else (given.epochs, given.teacher_epochs)
    return Work(
        {"name": "cifar10"}, given.teacher, given.student, rows, epochs, teacher_epochs, not given.full, given.device
    )


def clkd_run(*words: str, cwd: Path, threads: int) -> dict[str, Any]:
    """The result of `clkd run`, in a process with so many threads."""
    command = [sys.executable, "-m", "clkd", "run", *words, "--json", "-q"]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def teach(todo: Work, home: Path, threads: int) -> tuple[Path, dict[str, Any]]:
    """The file of the trained teacher's weights, and its line. One that was stopped goes on where it was saved."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "teacher.yaml").write_text(to_yaml(todo.teaching()))
    told = home / "run" / "result.json"
    if not told.exists() or json.loads(told.read_text())["status"] != "finished":
        if not any(home.glob("run/checkpoints/*")):
            shutil.rmtree(home / "run", ignore_errors=True)
        begun = (home / "run").is_dir()
        clkd_run(*(["--resume", "run"] if begun else ["teacher.yaml"]), cwd=home, threads=threads)
    result = json.loads(told.read_text())
    (weights,) = home.glob("run/checkpoints/exp_*/state.safetensors")
    return weights.resolve(), line(todo, TEACHER, 0, result, result["seconds"]["total"])


def train(todo: Work, row: str, seed: int, weights: Path, threads: int) -> dict[str, Any]:
    """One student, whole: a line of the results."""
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "scenario.yaml").write_text(to_yaml(todo.learning(row, str(weights))))
        start = time.perf_counter()
        result = clkd_run("scenario.yaml", "--seed", str(seed), cwd=Path(home), threads=threads)
    return line(todo, row, seed, result, time.perf_counter() - start)


def line(todo: Work, row: str, seed: int, result: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What the results file says of a training."""
    accuracy = result["metrics"]["average_accuracy"]
    return {"key": todo.key(row), "row": row, "seed": seed, "accuracy": accuracy, "seconds": round(seconds, 1)}


def kept(results: Path, todo: Work, rows: Iterable[str], seeds: Iterable[int]) -> dict[tuple[str, int], float]:
    """The accuracies that are there, by row and seed."""
    wanted = {(todo.key(row), row, seed) for row in rows for seed in seeds}
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    return {
        (one["row"], one["seed"]): one["accuracy"] for one in lines if (one["key"], one["row"], one["seed"]) in wanted
    }


def keep(results: Path, one: dict[str, Any]) -> None:
    """Add a line, in one write, which no kill cuts in two."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as file:
        file.write(json.dumps(one) + "\n")
    print(f"  {one['row']}, seed {one['seed']}: {one['accuracy']:.4f} in {one['seconds']:.0f} s", file=sys.stderr)


def train_all(jobs: list[Callable[[], dict[str, Any]]], beside: int, results: Path) -> None:
    """So many at a time, each kept as soon as it is done. After a failure no further one is begun."""
    with ThreadPoolExecutor(beside) as pool:
        try:
            for done in as_completed([pool.submit(job) for job in jobs]):
                keep(results, done.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def table(accuracy: dict[tuple[str, int], float], rows: Iterable[str]) -> str:
    """Markdown, in percent: mean ± standard deviation, and the mean paired difference ± its standard error."""
    lines = ["| loss | accuracy, % | difference to none | seeds | weights |", "|---|---|---|---|---|"]
    for row in rows:
        own = {seed: 100 * value for (name, seed), value in accuracy.items() if name == row}
        pairs = [own[seed] - 100 * accuracy[BASE, seed] for seed in own if (BASE, seed) in accuracy]
        if own:
            mean = f"{statistics.mean(own.values()):.2f}{spread(list(own.values()), 1)}"
            gain = f"{statistics.mean(pairs):+.2f}{spread(pairs, len(pairs))}" if pairs and row != BASE else "–"
            lines.append(f"| {row} | {mean} | {gain} | {len(own)} | {SOURCES[row]} |")
    return "\n".join(lines)


def spread(values: list[float], count: int) -> str:
    """` ± ` the standard deviation, divided by √count; nothing for a single value."""
    return f" ± {statistics.stdev(values) / count**0.5:.2f}" if len(values) > 1 else ""


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=2, help="trainings beside each other")
    parser.add_argument("--threads", type=int, default=1, help="of each; the teacher has those of all")
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--rows-per-class", type=int, default=250)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--teacher-epochs", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full", action="store_true", help="all images, 240 epochs for everybody: for a GPU")
    parser.add_argument("--smoke", action="store_true", help="everything small, on digits")
    parser.add_argument("--table", action="store_true", help="print what is there; train nothing")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "distillation.jsonl")
    parser.add_argument("--output", type=Path, default=Path("runs/distillation"), help="where teachers are kept")
    return parser


def main() -> None:
    given = options().parse_args()
    todo = work(given)
    if not given.table:
        home = given.output / todo.key(TEACHER)
        weights, taught = teach(todo, home, given.threads * given.jobs)
        there = kept(given.results, todo, [TEACHER, *given.rows], [0, *given.seeds])
        if (TEACHER, 0) not in there:
            keep(given.results, taught)
        missing = [(row, seed) for seed in given.seeds for row in given.rows if (row, seed) not in there]
        jobs = [partial(train, todo, row, seed, weights, given.threads) for row, seed in missing]
        train_all(jobs, given.jobs, given.results)
    there = kept(given.results, todo, [TEACHER, *given.rows], [0, *given.seeds])
    if (TEACHER, 0) in there:
        print(f"{name(todo.teacher)}, accuracy {there[TEACHER, 0]:.2%}, teaches {name(todo.student)}\n")
    print(table({place: value for place, value in there.items() if place[1] in given.seeds}, given.rows))
    about = f"{platform.machine()}, {todo.device}, torch {version('torch')}"
    print(f"\n{about}; `python benchmarks/distillation.py {' '.join(sys.argv[1:])}`")


def name(model: Any) -> str:
    """What a scenario calls it."""
    return str(model["kind"] if isinstance(model, dict) else model)


if __name__ == "__main__":
    main()
