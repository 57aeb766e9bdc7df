"""Whole runs on a device that is not the CPU: it is never mixed with the CPU, numbers are the same, no step waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pretend
import pytest

from clkd.engine.execute import execute
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load
from clkd.scenario.methods import gdumb
from clkd.scenario.parts import parts
from clkd.scenario.request import RunRequest

pytestmark = pytest.mark.slow

PLUGINS = load_plugins()
NAMES = PLUGINS.registry.names
MLP: dict[str, Any] = {"kind": "mlp", "hidden": [16]}
CNN: dict[str, Any] = {"kind": "resnet8", "width": 4}
SGD = {"kind": "sgd", "lr": 0.05, "momentum": 0.9}
STREAM: dict[str, Any] = {
    "dataset": {"name": "digits", "rows_per_class": 12},
    "split": {"by": "class", "experiences": 3},
}
STRONG = {"rotate": 15, "noise": 0.1, "brightness": 0.2, "contrast": 0.2, "posterize": 2, "solarize": 0.5, "cutout": 2}
HALF = {**STREAM, "labelled": 0.5, "augment": {"crop": 1, "strong": {**STRONG, "translate": 0.1}}}
DOMAINS = {**STREAM, "split": {"by": "domain", "transform": "rotated", "experiences": 3}}
KEPT = {"kind": "reservoir", "size": 20}
BIG = {"kind": "fit", "model": CNN, "epochs": 1, "optimizer": SGD}
PAST = {"kind": "kd", "name": "past", "between": ["student", "previous"]}

LAYERED = ("attention", "features", "fitnet", "less_forget", "mgd", "nst", "ofd", "vid")
WHOLE = (
    "binary_kd",
    "cc",
    "crd",
    "dist",
    "dkd",
    "fsp",
    "hard",
    "irg",
    "mlkd",
    "nkd",
    "pkt",
    "relation",
    "review",
    "rkd",
)
BESIDE = ("adversarial", "sp", "srrl")
OWN = ("binary_cross_entropy", "supcon", "tfkd")
HELD = ("ewc", "mas", "rwalk", "si")
WEIGHTS = ("confidence", "cosine", "entropy", "imbalance", "linear", "new_fraction", "uncertainty", "warmup")
SUMMED = ("afn", "coral", "dan", "delta", "entropy", "feature_norm", "jan", "l2_sp", "mcc", "mmd")
ADVERSARIES = ("bsp", "cdan", "dann", "mcd")
OWN_HEAD = ("bic", "der", "derpp", "fdr", "icarl", "lucir", "ncm", "podnet", "slda", "wa", "xder")
UNLABELLED = ("fixmatch", "mean_teacher", "pseudo_label")
SHORT = {"gdumb": {"phases": [{**gdumb()["phases"][0], "epochs": 4}]}}
"""It trains for 256 epochs."""
WAITS = ("method agem", "method gem", "steps that may be left out")
"""Projections are computed on the CPU, and a guard looks at each step, as docs say."""
ELSEWHERE = {
    "teachers": {"checkpoint", "mlflow", "run", "torchvision"},
    "schedules": {"constant", "forgetting", "per_experience"},
}
"""What no run here names: teachers that come out of files, and numbers that the host says."""


def scenario(**changes: Any) -> dict[str, Any]:
    train = {"epochs": 2, "batch_size": 16, "evaluate_every": 3, "optimizer": SGD, **changes.pop("train", {})}
    base = {"name": "there", "stream": STREAM, "student": {"model": MLP, "head": "linear"}, "tracking": {"mode": "off"}}
    return {**base, "losses": ["cross_entropy"], **changes, "train": train}


def taught(*losses: Any, **changes: Any) -> dict[str, Any]:
    """A convolutional student with a fitted teacher and its previous self."""
    teachers = {**({"big": BIG} if losses else {}), "previous": "previous"}
    student = {"model": CNN, "head": "linear"}
    given = {"student": student, "teachers": teachers, "losses": ["cross_entropy", PAST, *losses], "memory": KEPT}
    return scenario(**{**given, **changes})


def moved(transfer: Any, **changes: Any) -> dict[str, Any]:
    student = {"model": CNN, "head": "linear"}
    return scenario(stream=DOMAINS, student=student, memory=KEPT, transfer=transfer, **changes)


def stored(memory: str) -> dict[str, Any]:
    """A memory that keeps logits, if it can."""
    if memory in ("none", "generator"):
        return scenario(memory=memory)
    said = {"kind": "kd", "between": ["student@replay", "stored@replay"]}
    student, kept = {"model": MLP, "head": "fixed"}, {"kind": memory, "size": 20, "store": ["logits"]}
    return scenario(student=student, teachers={"stored": "stored"}, losses=["cross_entropy", said], memory=kept)


def preset(name: str) -> dict[str, Any]:
    """A method with the losses, teachers and memory that it names."""
    student = {"model": CNN if name == "podnet" else MLP, **({} if name in OWN_HEAD else {"head": "linear"})}
    made = scenario(student=student, method=name, stream=HALF if name in UNLABELLED else STREAM, **SHORT.get(name, {}))
    return {key: value for key, value in made.items() if key != "losses"}


def weighted(weight: str) -> dict[str, Any]:
    return {"kind": "kd", "name": weight, "between": ["student", "previous"], "weight": weight}


RUNS: dict[str, dict[str, Any]] = {
    **{f"method {name}": preset(name) for name in NAMES("methods")},
    **{f"memory {name}": stored(name) for name in NAMES("memories")},
    **{f"head {name}": scenario(student={"model": MLP, "head": name}, memory=KEPT) for name in NAMES("heads")},
    "losses on layers": taught(*({"kind": name, "between": ["student.stage2", "big.stage2"]} for name in LAYERED)),
    "losses on all": taught(*({"kind": name, "between": ["student", "big"]} for name in WHOLE)),
    "losses with more networks": taught(*({"kind": name, "between": ["student", "big"]} for name in BESIDE)),
    "losses of one": scenario(losses=["cross_entropy", *OWN], memory=KEPT),
    "losses that hold": scenario(losses=["cross_entropy", *({"kind": name, "weight": 0.1} for name in HELD)]),
    "simkd": taught(losses=[{"kind": "simkd", "between": ["student", "big"]}], teachers={"big": BIG}),
    "weights": scenario(teachers={"previous": "previous"}, losses=["cross_entropy", *map(weighted, WEIGHTS)]),
    "a temperature that learns": scenario(
        teachers={"previous": "previous"}, losses=["cross_entropy", {**PAST, "temperature": "curriculum"}]
    ),
    "teachers": scenario(
        teachers={
            "ema": "ema",
            "old": "snapshot",
            "previous": "previous",
            "all": {"kind": "ensemble", "members": ["previous", "ema"]},
            "again": {"kind": "born_again", "model": MLP, "epochs": 1},
        },
        losses=["cross_entropy", *({"kind": "kd", "between": ["student", name]} for name in ("old", "all", "again"))],
    ),
    "strategies that are losses": moved(list(SUMMED)),
    **{f"transfer {name}": moved(name) for name in (*ADVERSARIES, "adabn", "average", "dsbn", "interpolate")},
    "fixed views": taught(stream={**STREAM, "augment": {"crop": 1, "flip": True, "views": 3}}),
    "mixed rows": scenario(stream={**STREAM, "augment": {"mix": "cutmix"}}, memory=KEPT),
    "rows of two domains": scenario(stream={**DOMAINS, "resident": False}, memory=KEPT, shift=True),
    "peers": scenario(
        peers={"mate": {"model": CNN, "head": "linear"}},
        losses=[
            "cross_entropy",
            {"kind": "cross_entropy", "between": ["mate"]},
            {"kind": "kd", "between": ["student", "mate"]},
        ],
    ),
    "an optimizer that is kept": scenario(
        train={"keep_optimizer": True, "clip_norm": 1.0, "clip_value": 0.5, "optimizer": {"kind": "adam", "lr": 0.01}}
    ),
    "steps that may be left out": scenario(train={"on_nan": "skip"}),
    "a teacher that sees some channels": taught(
        {"kind": "kd", "between": ["student", "big"]},
        teachers={"big": {**BIG, "view": {"channels": [0]}}, "previous": "previous"},
        stream={**STREAM, "augment": {"crop": 1}},
    ),
    "a report": taught(report=True),
}


@pytest.fixture(scope="module")
def elsewhere(session_cache: Path) -> Iterator[Callable[[Path], dict[str, Any]]]:
    """Runs a scenario on the second device, in a process that has one."""
    if pretend.SETUP is None:
        pytest.skip(reason="this version of torch has no backend that is written in Python")
    command, own = [sys.executable, pretend.__file__], {**os.environ, "CLKD_CACHE": str(session_cache)}
    with subprocess.Popen(command, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        asked, done = process.stdin, process.stdout
        assert asked is not None
        assert done is not None

        def run(scenario: Path) -> dict[str, Any]:
            print(scenario, file=asked, flush=True)
            assert done.readline() == "done\n"
            told: dict[str, Any] = json.loads(scenario.with_suffix(".json").read_text())
            return told

        yield run
        asked.close()


def written(home: Path, changes: dict[str, Any]) -> Path:
    home.mkdir()
    (home / "s.yaml").write_text(to_yaml({**changes, "output": str(home / "run")}))
    return home / "s.yaml"


@pytest.mark.parametrize("name", RUNS)
def test_a_run_on_another_device_is_the_run_on_the_cpu(
    name: str, tmp_path: Path, elsewhere: Callable[[Path], dict[str, Any]]
) -> None:
    there = elsewhere(written(tmp_path / "there", RUNS[name]))
    assert "error" not in there, there["error"]
    here = execute(RunRequest(scenario=written(tmp_path / "here", RUNS[name]), quiet=True), PLUGINS)
    assert there["metrics"] == pytest.approx(here["metrics"], nan_ok=True, rel=0, abs=0)
    assert bool(there["waits"]) == (name in WAITS), set(there["waits"])


def test_runs_name_all_that_clkd_brings(tmp_path: Path) -> None:
    """What comes to clkd comes to this file, or is named as left out."""
    named: dict[str, set[str]] = {}
    (tmp_path / "runs").mkdir()
    for place, changes in enumerate(RUNS.values()):
        scenario = load(written(tmp_path / "runs" / str(place), changes), (), PLUGINS.registry).scenario
        for _, part in parts(scenario):
            named.setdefault(part.kind, set()).add(part.name)
    for kind in ("losses", "teachers", "memories", "retrievals", "transfers", "heads", "schedules", "gradients"):
        assert set(NAMES(kind)) - named[kind] == ELSEWHERE.get(kind, set()), kind


REFUSED = """
import torch
from pretend import NAME, TwoDevicesError, device, pretended
import pytest

with pytest.MonkeyPatch.context() as patch, pretended(patch) as mode:
    there, here = torch.ones(3, device=device()), torch.ones(3)
    assert there.device.type == NAME
    with pytest.raises(TwoDevicesError):
        there + here
    assert (there + here[0]).tolist() == [2, 2, 2]
    assert there[torch.tensor([0, 2])].device == there.device
    mode.watched = True
    assert there.sum().item() == 3
    there[there > 0].to("cpu", non_blocking=True)
    here.to(device())
    there + there.to(device())
    here.to(device(), non_blocking=True)
    there[[0, 2]]
print(mode.waits)
"""


def test_the_device_refuses_what_a_gpu_refuses_and_sees_who_waits() -> None:
    own = {**os.environ, "PYTHONPATH": str(Path(pretend.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", REFUSED], env=own, capture_output=True, text=True, check=False)
    waits = ["_local_scalar_dense.default", "index.Tensor", "_to_copy.default", "_to_copy.default"]
    assert (done.returncode, done.stdout.strip()) == (0, str([f"aten.{each}" for each in waits])), done.stderr
