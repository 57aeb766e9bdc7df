"""What a step gives back, the next one finds: nothing is asked of the system anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT

from clkd.engine.execute import execute
from clkd.plugins import load_plugins
from clkd.scenario.request import RunRequest

GLIBC = "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})
FAULTS = """
import resource, sys
from clkd.engine.allocator import keep_freed_memory
print(keep_freed_memory() if "keep" in sys.argv else None)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(15):
    if turn == 10:  # the heap has grown by then
        before = faults()
    for megabytes in (60, 5, 40):
        b"x" * (megabytes * 2**20 - turn)  # which is no constant
print(faults() - before)
"""


def run(*words: str, **environment: str) -> list[str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, *words],
        env=bare | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.skipif(not GLIBC, reason="other C libraries have no such settings")
def test_the_system_is_not_asked_again() -> None:
    told, kept = run("keep")
    assert told == "True"
    assert int(kept) * 5 < int(run()[1])


@pytest.mark.skipif(not GLIBC, reason="other C libraries have no such settings")
@pytest.mark.parametrize(
    "environment", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}]
)
def test_settings_of_whoever_started_the_process_stay(environment: dict[str, str]) -> None:
    told, faults = run("keep", **environment)
    assert told == "False"
    assert int(faults) > 0


def test_a_run_asks_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class AskedError(Exception):
        pass

    def asked() -> bool:
        raise AskedError

    monkeypatch.setattr("clkd.engine.execute.keep_freed_memory", asked)
    with pytest.raises(AskedError):
        execute(RunRequest(scenario=tmp_path / "scenario.yaml", quiet=True), load_plugins())
