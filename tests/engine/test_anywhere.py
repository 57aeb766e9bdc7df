"""A run that stops after any step goes on from there and ends with the same bits: for every kind of part."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from states import assert_same, state
from streams_cut import COMES_AGAIN, NO_BOUNDARIES

from clkd.engine.execute import execute
from clkd.errors import Interrupted
from clkd.optimizers import OPTIMIZERS, SCHEDULERS
from clkd.plugins import Plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.methods import xder
from clkd.scenario.request import RunRequest

TRAIN: dict[str, Any] = {"epochs": 2, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9}}
BASE: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 12}, "split": {"by": "class", "experiences": 2}},
    "student": {"model": {"kind": "mlp", "hidden": [16], "dropout": 0.2}, "head": "linear"},
    "teachers": {"previous": "previous"},
    "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "previous"], "weight": "old_fraction"}],
    "memory": {"kind": "reservoir", "size": 30},
    "train": TRAIN,
    "tracking": {"mode": "offline"},
    "checkpoint": {"every_minutes": None},
}
STEPS = 2 * 2 * 4
"""60 rows in batches of 16, two epochs, two experiences."""
BIG = {"kind": "fit", "model": {"kind": "mlp", "hidden": [24]}, "epochs": 1}
CNN = {"model": "resnet8", "head": "linear"}
CROPPED = {**BASE["stream"], "augment": {"crop": 1, "flip": True}}
XDER = xder()
SHIPPED = yaml.safe_load((Path(__file__).parents[2] / "scenarios" / "domains" / "composed.yaml").read_text())
FEW = {"name": "digits", "rows_per_class": 12}
COMPOSED: dict[str, Any] = {
    **SHIPPED,
    "stream": {**SHIPPED["stream"], "dataset": {**SHIPPED["stream"]["dataset"], "of": [FEW, FEW]}},
    "teachers": {**SHIPPED["teachers"], "external": {"kind": "fit", "model": "lenet", "epochs": 1}},
    "train": {**TRAIN, "epochs": 1},
    "tracking": {"mode": "offline"},
}
"""The shipped scenario on few rows, with a small teacher."""
PARTS: dict[str, dict[str, Any]] = {
    "the main one": {},
    "no boundaries": {
        "stream": {**BASE["stream"], **NO_BOUNDARIES},
        "teachers": {"slow": {"kind": "ema", "decay": 0.9}},
        "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "slow"]}],
        "memory": {"kind": "reservoir", "size": 20},
        "transfer": "none",
        "train": {**BASE["train"], "epochs": 1, "keep_optimizer": True},
    },
    "classes that come again": {
        "stream": {**BASE["stream"], **COMES_AGAIN},
    },
    "ema": {
        "teachers": {"slow": {"kind": "ema", "decay": 0.9}},
        "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "slow"]}],
    },
    "ensemble": {
        "teachers": {
            "previous": "previous",
            "slow": "ema",
            "both": {"kind": "ensemble", "members": ["previous", "slow"]},
        },
        "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "both"]}],
    },
    "layers, masks, variances, a queue and a borrowed classifier": {
        "student": {"model": {"kind": "resnet8", "width": 3}, "head": "linear"},
        "teachers": {"big": {"kind": "fit", "model": {"kind": "resnet8", "width": 4}, "epochs": 1}},
        "losses": [
            "cross_entropy",
            {"kind": "mgd", "between": ["student.stage2", "big.stage2"], "ratio": 0.3},
            {"kind": "vid", "between": ["student", "big"], "layers": ["stage1", "stage3"]},
            {"kind": "crd", "between": ["student", "big"], "queue": 24, "dim": 8},
            {"kind": "srrl", "between": ["student", "big"]},
        ],
    },
    "features, with a projector": {
        "teachers": {"big": BIG},
        "losses": [
            "cross_entropy",
            {"kind": "features", "between": ["student.penultimate", "big.penultimate"], "align": "linear"},
        ],
    },
    "snapshots": {
        "teachers": {"past": {"kind": "snapshot", "last": 2}},
        "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "past"]}],
    },
    "relation": {"losses": ["cross_entropy", {"kind": "relation", "between": ["student", "previous"]}]},
    "asked in every step": {
        "teachers": {"previous": {"kind": "previous", "recall": False}, "big": {**BIG, "recall": "memory"}},
        "losses": ["cross_entropy", *({"kind": "kd", "between": ["student", name]} for name in ("previous", "big"))],
    },
    "stored logits, two draws": {
        "teachers": {"stored": "stored"},
        "losses": [
            {"kind": "cross_entropy", "between": ["student@new"]},
            {"kind": "kd", "between": ["student@replay1", "stored"], "variant": "mse"},
            {"kind": "cross_entropy", "name": "replayed", "between": ["student@replay2"]},
        ],
        "memory": {"kind": "reservoir", "size": 30, "store": ["logits"]},
        "train": {**TRAIN, "replay_draws": 2},
    },
    "x-der": {
        "stream": {**BASE["stream"], "split": {"by": "class", "experiences": 5}, "augment": {"crop": 1, "views": 2}},
        "student": {**BASE["student"], "head": "fixed"},
        "teachers": XDER["teachers"],
        "losses": XDER["losses"],
        "memory": {**XDER["memory"], "size": 30},
        "train": {**TRAIN, **XDER["train"]},
    },
    "class balanced": {"memory": {"kind": "class_balanced", "size": 25}},
    "herding": {"memory": {"kind": "herding", "size": 25}},
    "ring, stored features": {
        "teachers": {"stored": "stored"},
        "losses": [
            "cross_entropy",
            {"kind": "features", "between": ["student.penultimate@replay", "stored.penultimate"]},
        ],
        "memory": {"kind": "ring", "size": 25, "store": ["penultimate"]},
    },
    "loss aware, retrieved by interference": {
        "memory": {"kind": "loss_aware", "size": 30, "retrieval": {"kind": "mir", "candidates": 20}},
    },
    "gss": {"memory": {"kind": "gss", "size": 25}},
    "generator, labels and a previous self": {"memory": {"kind": "generator", "hidden": [20], "latent": 5}},
    "no memory": {"memory": "none"},
    "learned temperature and weights": {
        "losses": [
            {"kind": "cross_entropy", "weight": "uncertainty"},
            {
                "kind": "kd",
                "between": ["student", "previous"],
                "weight": {"kind": "uncertainty", "value": 0.5},
                "temperature": {"kind": "curriculum", "epochs": 1},
            },
        ]
    },
    "students that teach each other, one in a view of its own": {
        "stream": CROPPED,
        "peers": {"mate": {"model": {"kind": "mlp", "hidden": [12]}, "head": "linear", "own_view": True}},
        "teachers": {
            "previous": {"kind": "previous", "of": "mate"},
            "slow": {"kind": "ema", "of": "mate"},
            "both": {"kind": "ensemble", "members": ["student", "mate"], "by": "min_logit"},
        },
        "losses": [
            "cross_entropy",
            {"kind": "cross_entropy", "between": ["mate"]},
            {"kind": "kd", "between": ["student", "mate"], "temperature": 1},
            *({"kind": "kd", "between": ["mate", name]} for name in ("previous", "slow", "both")),
            {"kind": "features", "between": ["mate.penultimate", "student.penultimate"], "align": "linear"},
        ],
        "train": {**TRAIN, "keep_optimizer": True, "clip_norm": 1.0},
    },
    "regularisers": {
        "teachers": {},
        "losses": [
            "cross_entropy",
            {"kind": "ewc", "weight": {"kind": "uncertainty", "value": 2}},
            {"kind": "mas", "weight": 0.1},
            {"kind": "si", "weight": 2},
            {"kind": "si", "name": "si_total", "gradient": "total"},
            {"kind": "rwalk", "every": 3},
        ],
    },
    "a-gem, beside si": {
        "losses": [*BASE["losses"], {"kind": "si", "weight": 2}],
        "train": {**TRAIN, "gradient": "agem", "clip_norm": 1.0},
    },
    "gem": {"train": {**TRAIN, "gradient": {"kind": "gem", "margin": 0.1}, "replay_batch_size": 30}},
    "a regularised convolutional network": {
        "student": {"model": {"kind": "resnet8", "width": 3}, "head": "linear"},
        "teachers": {},
        "losses": ["cross_entropy", {"kind": "ewc", "weight": 50}, {"kind": "si", "weight": 2}],
        "train": {**TRAIN, "epochs": 1},
    },
    "coral": {"transfer": {"kind": "coral", "weight": 0.5}},
    "strategies with a discriminator, a classifier or a starting point of their own": {
        "transfer": [
            {"kind": "coral", "form": "closed", "weight": 0.1},
            "dann",
            {"kind": "cdan", "random": 20, "reversal": {"kind": "warmup", "steps": 5}},
            {"kind": "mcd", "weight": 0.1},
            {"kind": "bsp", "weight": 0.0001},
            {"kind": "l2_sp", "weight": 0.01},
            {"kind": "delta", "weight": 0.01},
        ],
    },
    "strategies that compare, each with a weight, and fusion": {
        "transfer": [
            {"kind": "mmd", "weight": "old_fraction"},
            {"kind": "dan", "weight": 0.1, "estimator": "unbiased"},
            {"kind": "jan", "weight": 0.1},
            {"kind": "afn", "weight": 0.05},
            {"kind": "feature_norm", "weight": 0.01},
            {"kind": "mcc", "weight": 0.1},
            {"kind": "entropy", "weight": 0.1, "diversity": 1},
            {"kind": "interpolate", "previous": 0.3},
            {"kind": "average", "last": 2},
        ],
    },
    "statistics of each domain, and fusion by validation rows": {
        "stream": {
            **BASE["stream"],
            "split": {"by": "domain", "transform": "rotated", "experiences": 2, "validation": 0.2},
        },
        "student": {"model": {"kind": "resnet8", "width": 2}, "head": "linear"},
        "teachers": {"slow": {"kind": "ema", "decay": 0.9}, "previous": "previous"},
        "losses": [
            "cross_entropy",
            *({"kind": "kd", "between": ["student", name], "weight": 0.5} for name in ("slow", "previous")),
        ],
        "transfer": ["dsbn", {"kind": "interpolate", "previous": "validation", "grid": [0, 0.5]}],
        "train": {**TRAIN, "epochs": 1},
    },
    "statistics of new rows": {
        "student": {"model": {"kind": "resnet8", "width": 2}, "head": "linear"},
        "transfer": {"kind": "adabn", "share": 0.5},
        "train": {**TRAIN, "epochs": 1},
    },
    "a domain without labels, two teachers, replay, a discriminator and fusion": COMPOSED,
    "nearest class means, trained anew, then balanced": {
        "student": {**BASE["student"], "head": "ncm"},
        "memory": {"kind": "class_balanced", "size": 25},
        "phases": [
            {"name": "anew", "rows": "memory", "reset": True, "epochs": 2, "optimizer": {"kind": "adam", "lr": 0.01}},
            {"name": "even", "rows": "balanced", "trains": "head", "optimizer": "sgd", "losses": ["cross_entropy"]},
        ],
        "train": {**TRAIN, "optimizer": {"kind": "adam", "lr": 0.01}, "keep_optimizer": True},
    },
    "a projector that a phase makes": {
        "stream": {**BASE["stream"], "dataset": {"name": "digits", "rows_per_class": 6}},
        "student": {"model": {"kind": "resnet8", "width": 2}, "head": "linear"},
        "teachers": {"before": "before_phase"},
        "losses": [
            "cross_entropy",
            {"kind": "fitnet", "between": ["student.stage1", "before.stage1"]},
            {"kind": "cross_entropy", "name": "learned", "weight": "uncertainty"},
        ],
        "phases": [
            {"name": "first", "rows": "balanced", "optimizer": "sgd", "losses": ["cross_entropy", "fitnet_before"]},
            {"name": "second", "rows": "balanced", "trains": "head", "optimizer": "sgd", "losses": ["cross_entropy"]},
        ],
        "train": {**TRAIN, "epochs": 1, "optimizer": {"kind": "adam", "lr": 0.01}, "keep_optimizer": True},
    },
    "bias correction on held-out rows": {
        "student": {**BASE["student"], "head": "bias_corrected"},
        "phases": [
            {
                "name": "bias",
                "rows": "held_out",
                "trains": "bias",
                "epochs": 3,
                "optimizer": {"kind": "adam", "lr": 0.01},
                "scheduler": {"kind": "cosine", "every": "step"},
            }
        ],
    },
    "streaming discriminant analysis": {"student": {**BASE["student"], "head": "slda"}, "memory": "none"},
    "proxies, fixed old classes": {
        "student": {**BASE["student"], "head": {"kind": "split_cosine", "proxies": 3, "fixed_old": True}},
        "losses": [{"kind": "nca"}, {"kind": "margin_ranking"}],
        "teachers": {},
    },
    "fixed head": {"student": {**BASE["student"], "head": "fixed"}},
    "cosine head": {"student": {**BASE["student"], "head": "cosine"}},
    "multi head": {
        "stream": {**BASE["stream"], "split": {"by": "task", "experiences": 2}},
        "student": {**BASE["student"], "head": "multi"},
        "memory": "none",
    },
    "domains, validation, drop_last": {
        "stream": {
            **BASE["stream"],
            "split": {"by": "domain", "transform": "rotated", "experiences": 2, "validation": 0.5},
        },
        "train": {**TRAIN, "drop_last": True},
    },
    "streamed rows, fixed views": {
        "stream": {**CROPPED, "resident": False, "augment": {**CROPPED["augment"], "views": 2}},
    },
    "mixed rows, chosen changes": {
        "stream": {
            **CROPPED,
            "augment": {
                "crop": 1,
                "mix": "cutmix",
                "strong": {"rotate": 20, "solarize": 0.5, "cutout": 2, "choose": 2},
            },
        },
        "transfer": "none",
    },
    "a convolutional network, views drawn anew": {"student": CNN, "stream": CROPPED, "train": {**TRAIN, "epochs": 1}},
    "bf16, clipped, kept adam": {
        "train": {
            **TRAIN,
            "precision": "bf16",
            "clip_norm": 1.0,
            "optimizer": {"kind": "adam", "lr": 0.01},
            "keep_optimizer": True,
        }
    },
}
NEEDED: dict[str, dict[str, Any]] = {
    "step": {"step_size": 1},
    "multi_step": {"milestones": [1, 3]},
    "exponential": {"gamma": 0.9},
    "one_cycle": {"max_lr": 0.1, "cycle_momentum": False},
    "cosine_warm_restarts": {"T_0": 3},
}


def scheduled(place: int, optimizer: str) -> dict[str, Any]:
    """Every optimizer with one of the schedules; each schedule moves by steps here and by epochs there."""
    kind = list(SCHEDULERS)[place % len(SCHEDULERS)]
    schedule = {"kind": kind, "every": ("step", "epoch")[place % 2], **NEEDED.get(kind, {})}
    return {"train": {**TRAIN, "optimizer": {"kind": optimizer, "lr": 0.01}, "scheduler": schedule}}


TORCHS = {name: scheduled(place, name) for place, name in enumerate(OPTIMIZERS)}


def start(plugins: Plugins, home: Path, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    scenario = home / f"{name}.yaml"
    scenario.write_text(to_yaml({**BASE, **changes, "output": str(home / name)}))
    return execute(RunRequest(scenario=scenario, quiet=True), plugins)


def go_on(plugins: Plugins, home: Path, name: str) -> dict[str, Any]:
    return execute(RunRequest(resume=str(home / name), quiet=True), plugins)


def told(home: Path, name: str) -> list[dict[str, Any]]:
    """What `metrics.jsonl` says of epochs and experiences; what took time, or saved some, differs from run to run."""
    lines = map(json.loads, (home / name / "metrics.jsonl").read_text().splitlines())
    return [
        {
            **{key: line[key] for key in ("event", "experience", "step")},
            "epoch": line.get("epoch"),
            "metrics": {
                k: v for k, v in line["metrics"].items() if k.split("/")[0] not in ("time", "speed", "teacher_cache")
            },
        }
        for line in lines
        if line["event"] in ("epoch", "experience")
    ]


def assert_same_runs(home: Path, a: str, b: str) -> None:
    assert_same(state(home / a), state(home / b))
    assert told(home, a) == told(home, b)


ALONE = (
    *("class balanced", "herding", "gss", "no memory"),
    *("fixed head", "cosine head", "multi head"),
    *("relation", "ensemble", "coral", "statistics of new rows", "a regularised convolutional network"),
)
"""What each has is resumed also by the laws of its kind, or beside something else here."""
SLOW = [pytest.param(variant, marks=pytest.mark.slow) for variant in (*ALONE, *TORCHS)]
QUICK = [variant for variant in PARTS if variant not in ALONE]


@pytest.mark.parametrize("variant", [*QUICK, *SLOW])
def test_stopped_anywhere_it_ends_with_the_same_bits(
    plugins: Plugins, tmp_path: Path, variant: str, stop_after: list[int]
) -> None:
    changes = {**PARTS, **TORCHS}[variant]
    whole = start(plugins, tmp_path, "whole", changes)
    steps = state(tmp_path / "whole")["run"]["step"]
    stop_after += sorted(random.Random(variant).sample(range(1, steps + 1), 2))
    with pytest.raises(Interrupted):
        start(plugins, tmp_path, "cut", changes)
    with pytest.raises(Interrupted):
        go_on(plugins, tmp_path, "cut")
    cut = go_on(plugins, tmp_path, "cut")
    assert (whole["status"], cut["status"], stop_after) == ("finished", "finished", [])
    assert cut["accuracy_matrix"] == whole["accuracy_matrix"]
    assert cut["metrics"] == whole["metrics"]
    assert_same_runs(tmp_path, "whole", "cut")


OF_PHASES = ("bias correction on held-out rows", "a projector that a phase makes")


@pytest.mark.parametrize("variant", ["the main one", *(pytest.param(v, marks=pytest.mark.slow) for v in OF_PHASES)])
def test_stopped_after_every_single_step(plugins: Plugins, tmp_path: Path, variant: str, stop_after: list[int]) -> None:
    """Each boundary there is: within epochs, at their ends, at phases' and at experiences' ends."""
    start(plugins, tmp_path, "whole", PARTS[variant])
    steps = state(tmp_path / "whole")["run"]["step"]
    assert variant != "the main one" or steps == STEPS
    stop_after += range(1, steps + 1)
    with pytest.raises(Interrupted):
        start(plugins, tmp_path, "cut", PARTS[variant])
    for _ in range(steps - 1):
        with pytest.raises(Interrupted):
            go_on(plugins, tmp_path, "cut")
    assert go_on(plugins, tmp_path, "cut")["status"] == "finished"
    assert_same_runs(tmp_path, "whole", "cut")
