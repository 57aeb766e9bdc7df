"""clkd's methods beside Avalanche's own, with equal settings: accuracies and times on Split-Fashion-MNIST.

    python benchmarks/methods.py --write                       # trains what is not there yet, and prints the table
    python benchmarks/methods.py --table                       # what is there
    python benchmarks/methods.py --methods er lwf --seeds 0    # trains both anew, keeps nothing

Five experiences of two classes in a random order, MLP 784-256-256 with a column for each of ten classes from the start,
cross-entropy over all of them, SGD without momentum (lr 0.05), one epoch in batches of 128. With one seed both tools
have the same order of classes, the same pixels and the same initial weights, and take the same number of steps; rows
are shuffled, and drawn for memory, by each tool's own generator. Both accuracies are read from the network at the end:
all classes compete, or only the two of a row's experience (task-aware).

clkd's time is what `clkd run` says of training, of what comes before and after it (memory, Fisher information, the
previous self), and not of imports and evaluation; Avalanche's is that of `strategy.train`. In a row of two tools, they
take turns. `altered.py` has what is not Avalanche's own. A finished training is a line in the results file at once, so
a table that was stopped goes on where it was; lines of other settings are left alone. Data is looked for in
`$CLKD_DATA`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import altered
import peers
import torch
from contest import machine
from torch import Tensor, nn

from clkd import hookimpl
from clkd.cache import cache_directory
from clkd.compare.statistics import student_p
from clkd.engine.compose import Composer, Composition
from clkd.engine.execute import execute
from clkd.engine.run import Run
from clkd.options import Parsing
from clkd.plugins import Plugins, load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.model import Scenario
from clkd.scenario.request import RunRequest
from clkd.vision import avalanche

BATCH, LR, MEMORY, HIDDEN = 128, 0.05, 500, 256
GDUMB = {"epochs": 30, "batch_size": 16}
CPU = torch.device("cpu")

LABELS = {"kind": "cross_entropy", "over": "all"}
EWC = {"kind": "ewc", "fisher": "empirical", "over": "all", "weight": 10}
SI = {"kind": "si", "gradient": "total", "weight": 1, "damping": 0.1}
KD = {"kind": "kd", "between": ["student", "previous"], "preset": "avalanche"}
RETRAINED = {"name": "gdumb", "rows": "memory", "reset": True, "losses": ["cross_entropy"], **GDUMB}

OURS: dict[str, dict[str, Any]] = {
    "finetune": {"method": "finetune", "losses": [LABELS]},
    "er": {"method": "er", "losses": [LABELS], "memory": {"kind": "reservoir", "size": MEMORY}},
    "er, filled at the end": {
        "method": "er",
        "losses": [LABELS],
        "memory": {"kind": "experience_balanced", "size": MEMORY},
    },
    "ewc": {"method": "ewc", "losses": [LABELS, EWC]},
    "si": {"method": "si", "losses": [LABELS, SI]},
    "lwf": {"method": "lwf", "losses": [LABELS, KD]},
    "lwf, preset": {"method": "lwf"},
    "gdumb": {
        "method": "gdumb",
        "losses": [LABELS],
        "memory": {"kind": "class_balanced", "size": MEMORY},
        "phases": [{**RETRAINED, "optimizer": {"kind": "sgd", "lr": LR}}],
    },
}
"""What clkd trains: a scenario's sections."""
THEIRS: dict[str, dict[str, Any]] = {
    "finetune": {},
    "er": {"mem_size": MEMORY, "batch_size": BATCH, "batch_size_mem": BATCH},
    "ewc": {"ewc_lambda": EWC["weight"] / 2},
    "ewc, rows": {"ewc_lambda": EWC["weight"] / 2},
    "si": {"si_lambda": 2 * SI["weight"], "eps": SI["damping"]},
    "si, copied": {"si_lambda": 2 * SI["weight"], "eps": SI["damping"]},
    "si, unbounded": {"si_lambda": 2 * SI["weight"], "eps": SI["damping"]},
    "lwf": {"alpha": 1, "temperature": 2},
    "gdumb": {"mem_size": MEMORY},
}
"""What Avalanche trains: its plugin's options, in its own conventions. It has `λ Σ F Δ²` and `λ / 2 · Σ Ω Δ²` where
clkd has `weight / 2 · Σ F Δ²` and `weight · Σ Ω Δ²`."""


class Row(NamedTuple):
    """A line of the table: a training of each tool."""

    method: str
    label: str
    ours: str
    theirs: str
    seeds: tuple[int, ...] = ()
    """Those that the line is about, where they are not the table's."""


ROWS = (
    Row("finetune", "`finetune`", "finetune", "finetune"),
    Row("er", "`er`", "er", "er"),
    Row("er", "`er`, clkd's memory `experience_balanced`", "er, filled at the end", "er"),
    Row("ewc", "`ewc`", "ewc", "ewc"),
    Row("ewc", "`ewc`, Avalanche's Fisher of each row", "ewc", "ewc, rows"),
    Row("si", "`si`", "si", "si"),
    Row("si", "`si`, Avalanche's weights copied", "si", "si, copied"),
    Row("si", "`si`, Avalanche's weights copied, Ω cut off at 0 instead of 0.001", "si", "si, unbounded"),
    Row("lwf", "`lwf`", "lwf", "lwf"),
    Row("lwf", "`lwf`, clkd's as its preset", "lwf, preset", "lwf"),
    Row("gdumb", "`gdumb`, seeds 0 to 11", "gdumb", "gdumb", tuple(range(12))),
)
METHODS = tuple(dict.fromkeys(row.method for row in ROWS))
Training = tuple[str, str]
"""The tool, and which of its trainings."""
Results = dict[tuple[str, str, int], dict[str, Any]]
"""Lines of the results file, by tool, training and seed."""


def scenario(sections: dict[str, Any], output: Path | str = "run") -> dict[str, Any]:
    """All that is the same in each training of clkd's, and what is not."""
    return {
        "name": "methods",
        "device": "cpu",
        "output": str(output),
        "stream": {
            "dataset": "fashion_mnist",
            "split": {"by": "class", "experiences": 5, "order": "random"},
            "augment": "none",
        },
        "student": {"model": {"kind": "mlp", "hidden": [HIDDEN, HIDDEN]}, "head": "fixed"},
        "train": {"batch_size": BATCH, "optimizer": {"kind": "sgd", "lr": LR}},
        "tracking": {"mode": "off"},
        **sections,
    }


class Clock:
    """What a run took until its last experience was evaluated: a plugin, since the result leaves some purposes out."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @hookimpl
    def clkd_experience_end(self, run: Run) -> None:
        self.seconds = dict(run.seconds)


def clkd_line(name: str, seed: int, plugins: Plugins) -> dict[str, Any]:
    """One `clkd run`."""
    clock = Clock()
    plugins.manager.register(clock)
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "methods.yaml"
        path.write_text(to_yaml(scenario(OURS[name], Path(home) / "run")))
        result = execute(RunRequest(scenario=path, quiet=True, seed=seed), plugins)
    plugins.manager.unregister(clock)
    found, seconds = result["metrics"], clock.seconds
    return {
        "accuracy": found["average_accuracy"],
        "task_aware": found["average_accuracy_task_aware"],
        "seconds": seconds["train"] + seconds["teachers"],
    }


def avalanche_line(name: str, seed: int, plugins: Plugins) -> dict[str, Any]:
    """One training of Avalanche's, on the stream and from the weights that clkd has with this seed."""
    parsed = Scenario.model_validate({**scenario(OURS["finetune"]), "seed": seed}, context=Parsing(plugins.registry))
    composed = Composer(parsed, plugins.registry, CPU, cache_directory(), Path.cwd()).compose()
    benchmark = peers.fed_by_clkd(composed.stream, 0)
    torch.manual_seed(seed)
    strategy = their_strategy(name, network(composed))
    start = time.perf_counter()
    for experience in benchmark.train_stream:
        strategy.train(experience)
    seconds = time.perf_counter() - start
    accuracy, task_aware = scores(strategy.model, composed)
    return {"accuracy": accuracy, "task_aware": task_aware, "seconds": seconds}


def network(composed: Composition) -> nn.Module:
    """clkd's student as a plain module, with its initial weights."""
    wide = [nn.Linear(784, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10)]
    model = nn.Sequential(nn.Flatten(), *wide)
    with torch.no_grad():
        for own, initial in zip(model.parameters(), composed.parts.student.parameters(), strict=True):
            own.copy_(initial)
    return model


def their_strategy(name: str, model: nn.Module) -> Any:
    """Avalanche's fine-tuning with the training's plugin."""
    avalanche()
    from avalanche.training.plugins import (
        EWCPlugin,
        GDumbPlugin,
        LwFPlugin,
        ReplayPlugin,
        SynapticIntelligencePlugin,
    )

    made: dict[str, Callable[..., Any]] = {
        "er": ReplayPlugin,
        "ewc": EWCPlugin,
        "ewc, rows": altered.row_fisher_ewc,
        "si": SynapticIntelligencePlugin,
        "si, copied": altered.copying_si,
        "si, unbounded": partial(altered.copying_si, unbounded=True),
        "lwf": LwFPlugin,
        "gdumb": GDumbPlugin,
    }
    plugins = [made[name](**THEIRS[name])] if name in made else []
    batch, epochs = (GDUMB["batch_size"], GDUMB["epochs"]) if name == "gdumb" else (BATCH, 1)
    return peers.naive(model, batch, LR, plugins, CPU, epochs=epochs)


@torch.no_grad()
def scores(model: nn.Module, composed: Composition) -> tuple[float, float]:
    """Mean over experiences of the share of test rows that are right: among all classes, among the experience's own."""
    model.eval()
    found = []
    for experience in composed.stream:
        rows = experience.test
        logits, own = model(composed.parts.augment.plain(rows.x[rows.index])), list(experience.classes)
        aware = torch.tensor(own)[logits[:, own].argmax(1)]
        found.append([share(logits.argmax(1), rows.y), share(aware, rows.y)])
    accuracy, task_aware = (statistics.mean(column) for column in zip(*found, strict=True))
    return accuracy, task_aware


def share(said: Tensor, y: Tensor) -> float:
    """Of right answers."""
    return (said == y).float().mean().item()


TOOLS: dict[str, Callable[[str, int, Plugins], dict[str, Any]]] = {"clkd": clkd_line, "Avalanche": avalanche_line}


def key(tool: str, name: str) -> str:
    """What a result belongs to: everything that decides it but the seed."""
    made = scenario(OURS[name]) if tool == "clkd" else [scenario(OURS["finetune"]), THEIRS[name], name, GDUMB]
    return hashlib.sha256(json.dumps([tool, made], sort_keys=True).encode()).hexdigest()[:12]


def trainings(rows: list[Row], seeds: list[int]) -> list[tuple[str, str, int]]:
    """Tool, training and seed, each once, the tools in turn."""
    each = ((row, seed) for row in rows for seed in row.seeds or seeds)
    return list(dict.fromkeys((*one, s) for row, s in each for one in (("clkd", row.ours), ("Avalanche", row.theirs))))


def kept(results: Path, wanted: list[tuple[str, str, int]]) -> Results:
    """The lines that are there."""
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    keys = {key(tool, training) for tool, training, _ in wanted}
    return {(line["tool"], line["training"], line["seed"]): line for line in lines if line["key"] in keys}


def train(tool: str, name: str, seed: int, plugins: Plugins, results: Path | None) -> dict[str, Any]:
    """A line of the results, in the file if there is one."""
    line = {"key": key(tool, name), "tool": tool, "training": name, "seed": seed, **TOOLS[tool](name, seed, plugins)}
    line |= {what: round(line[what], 4) for what in ("accuracy", "task_aware", "seconds")}
    if results:
        results.parent.mkdir(parents=True, exist_ok=True)
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
    print(
        f"  {tool} {name}, seed {seed}: {line['accuracy']:.4f}, {line['task_aware']:.4f}, {line['seconds']:.1f} s",
        file=sys.stderr,
    )
    return line


def table(found: Results, rows: list[Row], seeds: list[int]) -> str:
    """Markdown: mean ± standard deviation in percent; the paired difference ± its standard error; median seconds."""
    accuracies = "clkd | Avalanche | difference"
    heading = f"| | all classes: {accuracies} | task-aware: {accuracies} | seconds: clkd | Avalanche | ratio |"
    lines = [heading, "|---" * 10 + "|"]
    for row in rows:
        own = row.seeds or seeds
        pairs = [(found.get(("clkd", row.ours, s)), found.get(("Avalanche", row.theirs, s))) for s in own]
        both = [(ours, theirs) for ours, theirs in pairs if ours and theirs]
        if len(both) > 1:
            cells = [*compared(both, "accuracy"), *compared(both, "task_aware"), *timed(both)]
            lines.append(f"| {row.label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def compared(pairs: list[tuple[dict[str, Any], dict[str, Any]]], what: str) -> list[str]:
    """Both tools' accuracies and clkd's less Avalanche's, bold where chance gives as much not once in twenty times."""
    ours, theirs = ([100 * line[what] for line in side] for side in zip(*pairs, strict=True))
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean, error = statistics.mean(differences), statistics.stdev(differences) / math.sqrt(len(differences))
    difference = f"{mean:+.1f} ± {error:.1f}"
    return [
        spread(ours),
        spread(theirs),
        f"**{difference}**" if _more_than_chance(mean, error, len(pairs)) else difference,
    ]


def _more_than_chance(mean: float, error: float, pairs: int) -> bool:
    return student_p(mean / error, pairs - 1) < 0.05 if error else mean != 0


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def timed(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    """Median seconds of both, and the median of how many times as long Avalanche took with the same seed."""
    ours, theirs = ([line["seconds"] for line in side] for side in zip(*pairs, strict=True))
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return [f"{statistics.median(ours):.1f}", f"{statistics.median(theirs):.1f}", f"{statistics.median(ratios):.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="but for lines that have seeds of their own"
    )
    parser.add_argument("--write", action="store_true", help="go on from the results file, and add to it")
    parser.add_argument("--table", action="store_true", help="print what is there; train nothing")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "methods.jsonl")
    given = parser.parse_args()
    rows = [row for row in ROWS if row.method in given.methods]
    wanted = trainings(rows, given.seeds)
    found = kept(given.results, wanted) if given.write or given.table else {}
    if not given.table:
        learn = partial(train, plugins=load_plugins(), results=given.results if given.write else None)
        found |= {place: learn(*place) for place in wanted if place not in found}
    print(table(found, rows, given.seeds))
    print(f"\nseeds {', '.join(map(str, given.seeds))}; {machine()}; `python benchmarks/methods.py --write`")


if __name__ == "__main__":
    main()
