from pathlib import Path

import pytest

from clkd.plugins import load_plugins
from clkd.scenario.load import ScenarioErrors, load

EXAMPLE = """\
name: split_cifar
stream:
  dataset: {name: cifar10, offline: digits}
  split: {by: class, experiences: 5}
student: {model: resnet8, head: linear}
teachers:
  previous: {kind: previous}
  external: {kind: fit, model: resnet20, epochs: 4}
losses:
  - cross_entropy
  - {kind: kd, between: [student, previous], temperature: 2, weight: old_fraction}
  - {kind: kd, between: [student, external], temperature: 4, weight: 0.5}
  - {kind: features, between: [student.stage3, external.stage3], align: conv1x1, weight: 0.1}
memory:   {kind: reservoir, size: 500}
transfer: {kind: coral, weight: 0.1}
train:    {epochs: 1, batch_size: 64, optimizer: {kind: sgd, lr: 0.05, momentum: 0.9}}
"""


@pytest.fixture(scope="session")
def registry():
    return load_plugins().registry


@pytest.fixture
def example(tmp_path) -> Path:
    """The design's example, in a file."""
    path = tmp_path / "split_cifar.yaml"
    path.write_text(EXAMPLE)
    return path


@pytest.fixture
def write(tmp_path):
    """Write the example with some text changed: `write(old, new, …)`."""

    def change(*pairs: str) -> Path:
        text = EXAMPLE
        for old, new in zip(pairs[::2], pairs[1::2], strict=True):
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "s.yaml"
        path.write_text(text)
        return path

    return change


@pytest.fixture
def mistakes(registry):
    """The lines of errors that a file and settings give, the directory cut off."""

    def find(path: Path, *settings: str) -> list[str]:
        with pytest.raises(ScenarioErrors) as caught:
            load(path, settings, registry)
        assert caught.value.exit_code == 2
        return [line.removeprefix(f"{path.parent}/") for line in caught.value.lines]

    return find
