"""The worked example in `plugins/`: installed by pip as a stranger's would be, listed, checked, trained and resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import processes
import pytest

EXAMPLE = Path(__file__).parents[2] / "plugins" / "clkd-example"
SCENARIO = """\
name: with_plugin
stream:
  dataset: {name: digits, rows_per_class: 20}
  split: {by: class, experiences: 2}
student: {model: {kind: mlp, hidden: [16]}, head: linear}
losses:
  - {kind: focal, gamma: 1.5}
memory: {kind: latest, size: 30}
transfer: {kind: moments, weight: 0.1}
train: {batch_size: 16, optimizer: {kind: sgd, lr: 0.05}}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which pip installed the plugin."""
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "plugin"
    subprocess.run(["cp", "-r", EXAMPLE, source], check=True)  # building leaves files behind
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", target, source], check=True)
    return target


def clkd(site: Path, cwd: Path, *arguments: str) -> processes.Done:
    return processes.clkd(*arguments, cwd=cwd, PYTHONPATH=str(site))


def test_it_is_listed_with_its_options(site: Path, tmp_path: Path) -> None:
    listed = json.loads(clkd(site, tmp_path, "list", "losses", "--json").stdout)
    assert "focal" in [entry["name"] for entry in listed]
    assert "gamma" in clkd(site, tmp_path, "list", "losses", "focal").stdout
    assert "clkd-example" in clkd(site, tmp_path, "plugins").stdout


@pytest.mark.slow
def test_it_trains_and_resumes_as_if_never_stopped(site: Path, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SCENARIO)
    quick = ["--json", "--tracking", "off"]
    own = {"cwd": tmp_path, "PYTHONPATH": str(site)}
    whole = processes.clkd("run", "s.yaml", *quick, **own)
    assert whole.returncode == 0, whole.stderr
    cut = processes.clkd("run", "s.yaml", "--limit-experiences", "1", *quick, **own)
    resumed = processes.clkd("run", "--resume", "last", "--json", **own)
    a, b = json.loads(whole.stdout), json.loads(resumed.stdout)
    assert json.loads(cut.stdout)["status"] == "stopped"
    assert a["accuracy_matrix"] == b["accuracy_matrix"]
    assert " focal " in whole.stderr
    assert " transfer " in whole.stderr


def test_its_options_are_checked_as_strictly_as_our_own(site: Path, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SCENARIO.replace("gamma", "gama"))
    done = clkd(site, tmp_path, "validate", "s.yaml")
    assert done.returncode == 2
    assert "s.yaml:7:19: losses.0.gama: unknown key (did you mean 'gamma'?)" in done.stdout + done.stderr


def test_its_parts_keep_the_contract(site: Path, tmp_path: Path) -> None:
    """The same laws that built-in parts are held to, run where the plugin is installed."""
    script = (
        "from clkd.testing.contract import check_loss, check_memory, check_transfer\n"
        "from clkd_example.focal import Focal\n"
        "from clkd_example.latest import Latest\n"
        "from clkd_example.moments import Moments\n"
        "check_loss(Focal); check_memory(lambda: Latest(size=7), 7); check_transfer(Moments)\n"
    )
    process = processes.python(script, cwd=tmp_path, PYTHONPATH=str(site))
    assert process.wait() == 0, process.err.read_text()
