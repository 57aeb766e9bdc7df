"""Real distributions, built and installed by pip, and real `clkd` processes that find them."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from processes import Done, clkd

PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{dist}"
version = "1.2"

[project.entry-points.clkd]
{entry} = "{module}"

[tool.setuptools]
py-modules = {modules}
"""

GOOD = '''
from clkd import Options, Scheduled, hookimpl


class PowerOptions(Options):
    power: float = 2.0
    """Of the difference between the two sides."""
    sharpness: Scheduled = 1.0


class FifoOptions(Options):
    size: int


class NudgeOptions(Options):
    strength: float = 0.5


@hookimpl
def clkd_register_losses(register):
    register("power", "good_parts:Power", config=PowerOptions, summary="a power of the difference")


@hookimpl
def clkd_register_memories(register):
    register("fifo", "good_parts:Fifo", config=FifoOptions, summary="the latest rows")
    register("stack", "good_parts:Stack")


@hookimpl
def clkd_register_transfers(register):
    register("nudge", "good_parts:Nudge", config=NudgeOptions)


@hookimpl
def clkd_register_commands(cli):
    import click

    @cli.command("hello")
    def hello():
        """Say hello."""
        click.echo("hello from good")
'''

GOOD_PARTS = """
import torch

from clkd import Batch, Loss, Memory, Needs, Transfer

COLUMNS = ("x", "y", "sample_id", "domain", "experience")


class Power(Loss):
    def __init__(self, power=2.0, sharpness=1.0):
        super().__init__()
        self.power = power

    def forward(self, batch, a, b=None):
        columns = min(a.logits.shape[1], b.logits.shape[1])
        return (a.logits[:, :columns] - b.logits[:, :columns]).abs().pow(self.power).mean(1)


class Fifo(Memory):
    def __init__(self, size):
        self.size, self.rows = size, {}

    def observe(self, batch, signals):
        new = {name: batch.stored() if name == "x" else getattr(batch, name) for name in COLUMNS}
        self.rows = {name: torch.cat([self.rows.get(name, row[:0]), row])[-self.size :] for name, row in new.items()}

    def sample(self, n, generator):
        if not len(self):
            return None
        at = torch.randperm(len(self), generator=generator)[:n].to(self.rows["y"].device)
        return Batch(**{name: row[at] for name, row in self.rows.items()}, new=0)

    def __len__(self):
        return len(self.rows.get("y", ()))

    def state_dict(self):
        return dict(self.rows)

    def load_state_dict(self, state):
        self.rows = dict(state)


class Stack(Fifo):
    def __init__(self, size: int, ordered: bool = True, seed=0):
        super().__init__(size)


class Nudge(Transfer):
    needs = Needs(logits=False, features=("penultimate",))

    def __init__(self, strength=0.5):
        super().__init__()
        self.strength = strength

    def forward(self, batch, a):
        return self.strength * a.features["penultimate"].square().mean()
"""

SCENARIO = """\
name: mine
stream: {dataset: digits, split: {by: class, experiences: 5}}
student: {model: mlp, head: linear}
teachers: {previous: previous}
losses:
  - cross_entropy
  - {kind: power, between: [student, previous], power: 3, sharpness: {kind: warmup, epochs: 1}, weight: 0.1}
memory: {kind: fifo, size: 20}
transfer: nudge
train: {optimizer: {kind: sgd, lr: 0.1}}
"""

PLAIN = """\
name: plain
stream: {dataset: digits, split: {by: class, experiences: 5}}
student: {model: mlp, head: linear}
train: {optimizer: sgd}
"""


class House:
    """A directory of installed distributions, and `clkd` run with it on the path."""

    def __init__(self, root: Path) -> None:
        self.root, self.site = root, root / "site"
        self.site.mkdir(parents=True)

    def source(self, dist: str, code: str, entry: str | None = None, **more: str) -> str:
        """The source of a distribution of the module `dist`, and of `more`."""
        modules = {dist: code, **more}
        source = self.root / "src" / dist
        source.mkdir(parents=True)
        text = PYPROJECT.format(dist=dist, entry=entry or dist, module=dist, modules=list(modules))
        (source / "pyproject.toml").write_text(text)
        for name, text in modules.items():
            (source / f"{name}.py").write_text(textwrap.dedent(text))
        return str(source)

    def install(self, *sources: str) -> None:
        """Build them and install them, by pip."""
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
        command = [*pip, "--disable-pip-version-check", "--target", str(self.site), *sources]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def clkd(self, *arguments: str, **environment: str) -> Done:
        """Run `clkd` with what is installed here."""
        return clkd(*map(str, arguments), cwd=self.root, **{"PYTHONPATH": str(self.site), **environment})

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> House:
    """One good and one broken plugin."""
    house = House(tmp_path_factory.mktemp("house"))
    house.install(house.source("good", GOOD, good_parts=GOOD_PARTS), house.source("bad", "import nosuchmodule_xyz\n"))
    house.write("mine.yaml", SCENARIO)
    house.write("plain.yaml", PLAIN)
    return house


@pytest.fixture
def house(tmp_path) -> House:
    made = House(tmp_path)
    made.write("plain.yaml", PLAIN)
    return made
