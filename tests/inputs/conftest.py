"""Commands through the front door of the command line, and how they end."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from clkd.cli.main import main


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line that it said of what is wrong."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]

    @property
    def matrix(self) -> list[list[float]]:
        """The accuracy matrix that `--json` printed."""
        assert self.code == 0, self.err
        found: list[list[float]] = json.loads(self.out)["accuracy_matrix"]
        return found


@pytest.fixture
def clkd(capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command in this process."""

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        log = logging.StreamHandler(sys.stderr)  # pytest takes the place of the one that `main` would make
        log.setFormatter(logging.Formatter("clkd: %(message)s"))
        logging.getLogger("clkd").addHandler(log)
        try:
            code = main([str(argument) for argument in arguments])
        finally:
            logging.getLogger("clkd").removeHandler(log)
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return Done(code, said.out, said.err)

    return run
