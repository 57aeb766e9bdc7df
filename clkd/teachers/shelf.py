"""What teachers weigh, in files: in the cache, and as copies in a run's directory, which may go on anywhere.

A file is written whole or not at all, and carries a checksum and what has to be known beside the weights.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from clkd.context import Context
from clkd.errors import one_line
from clkd.frozen import state_hash

log = logging.getLogger("clkd.teachers")

CHECKSUM, ABOUT = "state_sha256", "about"
"""Where a file tells the hash of what it holds, and what has to be known beside that."""


class DamagedError(Exception):
    """A file is not what was written."""


def save(network: nn.Module, path: Path, about: dict[str, Any], otherwise: str) -> None:
    """Whole or not at all: others may look for the same file now. Where it cannot be, `otherwise` happens."""
    part = path.with_name(f".{path.stem}-{os.getpid()}.part")
    dense = torch.contiguous_format  # and of their own: a layer may go by two names
    state = {name: tensor.cpu().clone(memory_format=dense) for name, tensor in network.state_dict().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        told = {ABOUT: json.dumps(about)} if about else {}
        save_file(state, part, metadata={CHECKSUM: state_hash(network), **told})
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        log.warning("teacher: %s cannot be written (%s): %s", path, error, otherwise)


def load(path: Path, make: Callable[[dict[str, Any]], nn.Module]) -> nn.Module | None:
    """The network that `make` makes of what the file says about it, with its weights; None if there is no file.

    Raises:
        DamagedError: it is not what was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
        about = json.loads(told.get(ABOUT, "{}"))
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError) as error:
        raise DamagedError(one_line(str(error), 200)) from error
    network = make(about)
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DamagedError(one_line(str(error), 200)) from error
    if state_hash(network) != told.get(CHECKSUM):
        raise DamagedError("its checksum differs")
    return network


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy in a run's directory of what a teacher weighs.

    Attributes:
        said: what the scenario says of the teacher, by which the copy is found: what it names may be gone by then.
        about: what has to be known to make its network again.
    """

    said: dict[str, Any]
    about: dict[str, Any]

    @property
    def name(self) -> str:
        """The file's."""
        said = json.dumps(self.said, sort_keys=True)
        return f"{self.said['kind']}-{hashlib.sha256(said.encode()).hexdigest()[:16]}.safetensors"

    def write(self, network: nn.Module, folder: Path) -> None:
        """Beside what is there already; a file that holds something else is replaced."""
        try:
            there = load(folder / self.name, lambda about: copy.deepcopy(network))
        except DamagedError:
            there = None
        if there is None:
            save(network, folder / self.name, self.about, "the run goes on only where this teacher can be had again")


def copied(said: dict[str, Any], context: Context, make: Callable[[dict[str, Any]], nn.Module]) -> nn.Module | None:
    """The network out of the run's own copy, or out of its origin's; None if there is none."""
    for folder in context.kept:
        path = folder / Copy(said, {}).name
        try:
            network = load(path, make)
        except DamagedError as error:
            log.warning("teacher: %s is damaged (%s): the teacher is had anew", path, error)
            continue
        if network is not None:
            log.info("teacher: %s from the run's copy (%s)", said["kind"], path)
            return network
    return None
