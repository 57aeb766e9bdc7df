"""What docs/teacher_cache.md shows is what happens."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from processes import clkd

TEXT = (Path(__file__).parents[2] / "docs/teacher_cache.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_its_scenario_runs_twice_and_its_commands_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLKD_CACHE", str(tmp_path / "cache"))
    (scenario,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "cached.yaml").write_text(scenario)
    (block,) = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    commands = [line.partition("#")[0].strip() for line in block.splitlines()]
    said = ""
    for command in [
        "clkd run cached.yaml --limit-experiences 1",
        "clkd run cached.yaml --limit-experiences 1",
        *commands,
    ]:
        words = shlex.split(command)[1:]
        done = clkd(*words, cwd=tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        said += done.stderr + done.stdout
    for line in ("external: 0.0 % hits", "external: 100.0 % hits, 0 rows asked", "RESULT", "deleted 1 "):
        assert line in said
