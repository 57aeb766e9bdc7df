"""What a run takes of the machine's memory: bounded by what is declared, and not growing with the stream."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clkd.scenario.document import to_yaml

MB = 10**6
KD = {"kind": "kd", "weight": 0.5}
LONG: dict[str, Any] = {
    "name": "long",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 20}, "split": {"by": "data", "experiences": 12}},
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "teachers": {"previous": "previous", "slow": "ema"},
    "losses": ["cross_entropy", {**KD, "between": ["student", "previous"]}, {**KD, "between": ["student", "slow"]}],
    "memory": {"kind": "reservoir", "size": "1920B"},
    "transfer": {"kind": "coral", "weight": 0.1},
    "train": {"epochs": 1, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9}},
    "tracking": {"mode": "offline"},
}
PERMUTED = {"by": "domain", "transform": "permuted"}
PROBE = """
import os
from clkd.hooks import hookimpl

@hookimpl
def clkd_experience_end(run, experience, result):
    "How much is in memory now, and how much ever was."
    with open("/proc/self/status") as status:
        kilobytes = {line.split()[0]: line.split()[1] for line in status if line.startswith(("VmRSS", "VmHWM"))}
    with open(os.environ["PROBE"], "a") as file:
        print(kilobytes["VmRSS:"], kilobytes["VmHWM:"], file=file)
"""


GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "262144"}
"""Lets glibc return a tensor's memory when it is freed. As it is, it may keep some for later, which hides what a run
needs."""


def held(scenario: dict[str, Any]) -> list[tuple[int, int]]:
    """Bytes in the memory of a real process at each experience's end, and the most there ever were until then.

    (`getrusage` would count what the process that started this one had.)
    """
    Path("plugins").mkdir(exist_ok=True)
    Path("plugins/probe.py").write_text(PROBE)
    Path("long.yaml").write_text(to_yaml(scenario))
    Path("probe.txt").write_text("")
    command = [sys.executable, "-m", "clkd", "run", "long.yaml", "--quiet", "--plugins-dir", "plugins"]
    done = subprocess.run(
        command, env={**os.environ, "PROBE": "probe.txt", **GIVES_BACK}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in Path("probe.txt").read_text().splitlines()]
    return [(1024 * int(now), 1024 * int(most)) for now, most in lines]


def wide(experiences: int, size: str) -> dict[str, Any]:
    """Rows of 12,288 bytes: 1,437 of them in each experience, and 360 to test on."""
    data = {"name": "digits", "size": 64, "channels": 3}
    return {
        **LONG,
        "stream": {"dataset": data, "split": {**PERMUTED, "experiences": experiences}},
        "memory": {"kind": "reservoir", "size": size},
        "train": {**LONG["train"], "batch_size": 64, "eval_batch_size": 128, "optimizer": {"kind": "sgd", "lr": 0.001}},
    }


WIDE_TEST = 360 * 3 * 64 * 64
"""Bytes of one domain's test rows, which are kept in its guise up to 256 MB."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_peak_is_bounded_by_the_budget_and_not_by_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    held(wide(1, "4MB"))  # decodes, which takes more than training
    short, long, large = (held(wide(*which))[-1][1] for which in ((4, "4MB"), (12, "4MB"), (4, "44MB")))
    print(f"4 experiences {short / MB:.0f} MB, 12 {long / MB:.0f} MB, with 40 MB more of memory {large / MB:.0f} MB")
    assert long - short < 8 * WIDE_TEST + 5 * MB, (short, long)
    assert 30 * MB < large - short < 3 * 40 * MB + 15 * MB, (short, large)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_experiences_show_no_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allowed are the test rows kept in each domain's guise (2.6 kB) and the matrices, 200 × 200 twice."""
    monkeypatch.chdir(tmp_path)
    stream = {**LONG["stream"], "split": {**PERMUTED, "experiences": 200}}
    now = [size for size, _ in held({**LONG, "stream": stream})]
    print({i: f"{now[i - 1] / MB:.1f} MB" for i in (1, 10, 50, 100, 150, 200)})
    assert len(now) == 200
    allowed = 40 * 64 + 2 * 200 * 40
    assert now[199] - now[49] < 150 * allowed + 10 * MB, now
    assert now[199] - now[99] < 100 * allowed + 8 * MB, now
