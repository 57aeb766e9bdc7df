"""docs/plugins.md: its commands and code run, and every hook, law, kind and fixture is on it as it is in the code."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from clkd import hooks
from clkd.cli.main import main
from clkd.registry import REGISTER_HOOKS
from clkd.scaffold import KINDS, new
from clkd.testing import contract, plugin
from clkd.testing.audit import audit
from clkd.testing.contract import LAWS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())
FILE, TEST = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
START, COMPLETION = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
SPECS = {name: spec for name, spec in vars(hooks).items() if name.startswith("clkd_")}


@pytest.mark.parametrize("name", SPECS)
def test_every_hook_is_on_the_page_with_its_exact_signature_and_meaning(name: str) -> None:
    signature = str(inspect.signature(SPECS[name])).replace("'", "")
    meaning = " ".join((inspect.getdoc(SPECS[name]) or "").split())
    assert f"- `{name}{signature}` {meaning}" in WORDS


def test_every_hook_has_a_test() -> None:
    """Those that register are tried by tests/plugins/test_loading.py, one by one."""
    files = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    tests = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [name for name in SPECS if name not in REGISTER_HOOKS.values() and f"def {name}(" not in tests] == []


def test_every_law_is_on_the_page_in_its_own_words() -> None:
    for laws in LAWS.values():
        for name, law in laws.items():
            assert f"- `{name}`: {' '.join((law.__doc__ or '').split())}" in WORDS


def test_every_kind_fixture_and_check_is_named() -> None:
    fixtures = [name for name in vars(plugin) if name.startswith("clkd_")]
    checks = [name for name in vars(contract) if name.startswith("check_")]
    assert len(checks) == len(LAWS)
    for word in (*KINDS, *fixtures, *checks):
        assert f"`{word}`" in PAGE


def test_the_plugin_file_keeps_the_laws(tmp_path: Path) -> None:
    (tmp_path / "entropy.py").write_text(FILE)
    (told,) = audit(str(tmp_path / "entropy.py"))
    assert told.verdict == "ok (1 part tried)", [law for part in told.parts for law in part.laws]


@pytest.mark.slow
def test_the_test_file_passes(tmp_path: Path) -> None:
    new("my-kd", "loss", tmp_path)
    (tmp_path / "test_page.py").write_text(TEST)
    words = ["test_page.py", "-q", "-p", "no:cacheprovider"]
    if not any(entry.value == "clkd.testing.plugin" for each in distributions() for entry in each.entry_points):
        words += ["-p", "clkd.testing.plugin"]  # an older installation of clkd, beside its present sources
    path = os.pathsep.join(map(str, [tmp_path / "clkd-my-kd", ROOT]))
    command, here = [sys.executable, "-m", "pytest", *words], {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=here)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_the_first_command_writes_the_files_that_the_page_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = START.splitlines()[0].partition("#")[0].split()
    assert main(first[1:]) == 0
    named = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
    assert all(
        (tmp_path / "clkd-my-kd" / place).exists() for place in named if not place.startswith("clkd_") or "/" in place
    )


def test_completion_is_the_one_that_tests_cli_proves() -> None:
    assert [line.partition("_CLKD_COMPLETE=")[2].split("_")[0] for line in COMPLETION.splitlines()] == [
        "bash", "zsh", "fish"
    ]  # fmt: skip
