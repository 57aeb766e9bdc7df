"""`clkd tune` as it is typed."""

import json
import subprocess
import sys
from importlib.metadata import entry_points

import clkd_optuna
import pytest
import yaml
from clkd_optuna.command import command

from clkd.cli.common import State
from clkd.errors import UserError

FOUND = [entry.name for entry in entry_points(group="clkd")]
installed = pytest.mark.skipif("optuna" not in FOUND, reason="clkd-optuna is not installed")


@pytest.fixture
def clkd_plugins():
    return [clkd_optuna]


@pytest.fixture
def tune(clkd_tiny, tmp_path, monkeypatch, capsys):
    """The command in this process: what it prints, and what it says on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLKD_LOAD_PLUGINS", "")
    (tmp_path / "s.yaml").write_text(clkd_tiny.scenario(output=None).read_text())

    def run(*arguments):
        command.main(["s.yaml", *arguments], standalone_mode=False, obj=State())
        return capsys.readouterr()

    return run


RANGE = ["--set", "train.optimizer.lr=log:0.01..1", "--trials", "2"]


def test_it_prints_the_choice_and_what_to_do_next(tune, tmp_path):
    said = tune(*RANGE)
    place, _, value = said.out.strip().partition(": ")
    assert place == "train.optimizer.lr"
    assert 0.01 <= float(value) <= 1
    assert said.err.splitlines()[-1] == "next: clkd run s.tuned.yaml"
    assert "[2/2] train.optimizer.lr=" in said.err
    assert "validation rows of experience 0; " in said.err
    written = yaml.safe_load((tmp_path / "s.tuned.yaml").read_text())
    assert written["train"]["optimizer"]["lr"] == float(value)
    (search,) = (tmp_path / "tune").iterdir()
    assert search.name.startswith("tiny-")
    assert [path.name for path in search.iterdir()] == ["study.db"]
    quiet = tune(*RANGE, "-q")
    assert quiet.err == ""
    assert quiet.out == said.out, "the same command is the same search"


def test_json_is_one_object(tune, tmp_path):
    said = json.loads(tune(*RANGE, "--json", "-q", "--seed", "0", "1", "--experience", "1", "--out", "here").out)
    assert {*said["values"]} == {"train.optimizer.lr"}
    assert (said["experience"], said["trials"], said["scenario"], said["out"]) == (1, 2, "s.tuned.yaml", "here")
    assert 0 <= said["accuracy"] <= 1
    assert (tmp_path / "here" / "base-1.done").exists()


def test_nothing_to_choose_is_a_mistake(tune):
    with pytest.raises(UserError, match="nothing to choose: give --set"):
        tune()


@installed
def test_a_process_tunes_and_runs_what_it_wrote(clkd_tiny, tmp_path):
    (tmp_path / "s.yaml").write_text(clkd_tiny.scenario(output=None).read_text())
    for arguments in (["tune", "s.yaml", *RANGE], ["run", "s.tuned.yaml", "--tracking", "off"]):
        done = subprocess.run(
            [sys.executable, "-m", "clkd", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@installed
def test_help_stays_light():
    """The command is listed, and neither torch nor optuna is loaded for it."""
    code = (
        "import sys\nfrom clkd.cli.main import main\nmain(['--help'])\n"
        "print([name for name in ('torch', 'optuna', 'sqlalchemy', 'mlflow', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("[]")
    assert "tune" in done.stdout
