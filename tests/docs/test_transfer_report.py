"""What docs/transfer_report.md shows is what happens."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from processes import clkd

from clkd.engine.report import TEACHER_COUNTS
from clkd.scenario.measures import ReportOptions

TEXT = (Path(__file__).parents[2] / "docs/transfer_report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_its_scenario_runs_and_its_commands_work(tmp_path: Path) -> None:
    (scenario,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "told.yaml").write_text(scenario)
    (block,) = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    said = []
    for command in [line.partition("#")[0].strip() for line in block.splitlines()]:
        words = shlex.split(command)[1:]
        words += ["--tracking", "off"] if words[0] == "run" else []
        done = clkd(*words, cwd=tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        said.append(done.stdout)
    _, whole, third, _, without = said
    assert "external: 3" in whole
    assert "no other teacher is right on" in whole
    told = json.loads(third)
    assert told["experience"] == 2
    assert told["teachers"]["external"].keys() - {"classes"} == {*TEACHER_COUNTS, "agreement"} - {"agreed"}
    assert all(f"`{key}`" in TEXT for key in told["teachers"]["external"] if key != "classes")
    assert whole != without, "the external teacher was silent"


def test_every_option_is_told_with_its_default() -> None:
    for name, field in ReportOptions.model_fields.items():
        default = field.default if name == "rows" else f"`{field.default}`"
        shown = f"`[{', '.join(field.default)}]`" if isinstance(field.default, tuple) else default
        assert f"| `{name}` | {shown} |" in TEXT
