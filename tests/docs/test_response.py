"""What docs/losses/response.md shows is what happens."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from processes import clkd

from clkd.losses import KD_PRESETS
from clkd.plugins import load_plugins

TEXT = (Path(__file__).parents[2] / "docs/losses/response.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_its_scenario_runs_and_so_does_its_own_loss(tmp_path: Path) -> None:
    (scenario,), (command,) = blocks("yaml"), blocks("bash")
    (tmp_path / "answers.yaml").write_text(scenario)
    (tmp_path / "my_plugins").mkdir()
    (tmp_path / "my_plugins" / "reverse.py").write_text(blocks("python")[0])
    for line in ("clkd run answers.yaml", command.strip()):
        words = [*shlex.split(line)[1:], "--limit-batches", "3"]
        done = clkd(*words, cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_its_own_loss_keeps_the_contract() -> None:
    exec("\n".join(blocks("python")), {})


def test_its_own_loss_is_short() -> None:
    code = [line for line in blocks("python")[0].splitlines() if line.strip() and not line.startswith("#")]
    assert len(code) <= 15


def test_it_names_every_preset_as_it_is() -> None:
    for name, options in KD_PRESETS.items():
        t2 = "yes" if options["convention"] == "t2" else "no"
        assert f"| `{name}` | {options['temperature']:g} | `{options['variant']}` | {t2} |" in TEXT


def test_the_losses_it_names_exist() -> None:
    named = set(re.findall(r"^\| `(\w+)`", TEXT, re.MULTILINE)) - set(KD_PRESETS) - {"preset", "standardize", "top_k"}
    assert named >= {"kd", "dkd", "nkd", "dist", "mlkd", "hard", "tfkd"}
    assert named <= set(load_plugins().registry.names("losses"))
