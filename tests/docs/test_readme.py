"""What the README shows is what happens: its scenario, its commands, its plugin, its own-data example."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from processes import Done, clkd

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCENARIOS = sorted((ROOT / "scenarios").rglob("*.yaml"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("clkd ")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a newcomer has it: the scenarios, the README's own plugin, and pictures that came later."""
    home = tmp_path_factory.mktemp("home")
    draw_pictures(home / "new_pictures", "yak", "zebra")
    shutil.copytree(ROOT / "scenarios", home / "scenarios")
    (home / "my_plugins").mkdir()
    (plugin,) = blocks("python")
    (home / "my_plugins" / "confident.py").write_text(plugin)
    return home


def run(line: str, cwd: Path) -> Done:
    """A command of the README, cut short where it would train: one batch of two experiences, a small teacher."""
    words = shlex.split(line.partition(">")[0])[1:]
    if words[0] in ("run", "sweep") and not {"--resume", "--from"} & set(words):
        words += ["--limit-batches", "1", "--set", "teachers.external.model=resnet8", "--set", "train.min_steps=0"]
        words += ["--set", "teachers.external.epochs=1", "--set", "stream.dataset.rows_per_class=5"]
        words += ["--set", "stream.split.experiences=2"]
    return clkd(*words, cwd=cwd)


def draw_pictures(folder: Path, *labels: str) -> None:
    draw = np.random.default_rng(0)
    for label in labels:
        (folder / label).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / label / f"{i}.png")


@pytest.mark.slow
def test_every_command_runs(home: Path) -> None:
    """In the README's order: `--resume last` finds the run before it."""
    lines = [line for line in commands() if not line.startswith("clkd ui")]  # it runs until it is stopped
    assert len(lines) >= 10
    for line in lines:
        done = run(line.replace("scenarios/*.yaml", "scenarios/split_cifar.yaml"), home)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_the_scenario_shown_is_the_scenario_shipped() -> None:
    shown = next(block for block in blocks("yaml") if block.startswith("name: split_cifar"))
    shipped = "".join(
        line for line in (ROOT / "scenarios/split_cifar.yaml").read_text().splitlines(True) if not line.startswith("#")
    )
    assert shown == shipped


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_every_shipped_scenario_is_valid_and_short(path: Path) -> None:
    done = run(f"clkd validate {path}", ROOT)
    assert done.returncode == 0, done.stderr
    assert len([line for line in path.read_text().splitlines() if not line.startswith("#")]) <= 25


def test_baselines_differ_from_the_main_job_only_in_what_they_leave_out() -> None:
    main, finetune, joint = (
        yaml.safe_load((ROOT / "scenarios" / f"{name}.yaml").read_text())
        for name in ("split_cifar", "baselines/finetune", "baselines/joint")
    )
    for key in ("student", "train"):
        assert main[key] == finetune[key] == joint[key]
    assert main["stream"] == finetune["stream"]
    assert joint["stream"] == {**main["stream"], "split": {"by": "class", "experiences": 1}}


def test_own_images_as_the_readme_says(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "my_images", "cat", "dog", "fox")
    stream = next(block for block in blocks("yaml") if "image_folder" in block)
    rest = "name: own\nstudent: {model: lenet, head: linear}\ntrain: {optimizer: {kind: adam}}\n"
    (tmp_path / "own.yaml").write_text(stream + rest)
    done = clkd("run", "own.yaml", "--tracking", "off", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_every_environment_variable_that_clkd_reads_is_in_the_readme_or_the_docs() -> None:
    told = README + "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    read = {
        name for path in (ROOT / "clkd").rglob("*.py") for name in re.findall(r'"(CLKD_[A-Z_]+)"', path.read_text())
    }
    assert read
    assert not {name for name in read if name not in told}


def test_every_metric_is_explained() -> None:
    from clkd.plugins import load_plugins

    shown = {name for name in re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE) if name.islower()}
    assert shown >= {"average_accuracy", "forgetting", "backward_transfer", "forward_transfer"}
    assert shown <= set(load_plugins().registry.names("metrics"))
