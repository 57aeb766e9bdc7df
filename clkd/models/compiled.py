"""A backbone's forward pass with its taps, compiled."""

from __future__ import annotations

import logging
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch._functorch import config as functorch

from clkd.models.taps import Runner, Taps

log = logging.getLogger("clkd.models")

GRAPHS = {"reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}
"""Modes that use CUDA graphs on a GPU, and the same without them."""


class Compiled:
    """Runs `Taps.run`, compiled for batches of `sizes` rows; batches of any other size run as they are.

    Weights are inputs of what is compiled, so deep copies of a backbone share it: a new previous self compiles nothing.
    The head is not part of it and may grow. What was compiled never depends on which batches came before, so a resumed
    run computes what an uninterrupted one does. Where compiling fails, a warning names the reason, once, and
    everything runs as it is.

    Args:
        mode: of `torch.compile`. CUDA graphs serve passes with gradients only: a teacher's answers and an
            evaluation's must outlive the next pass.
        sizes: how many rows a batch has to have.
        backend: of `torch.compile`.

    Attributes:
        graphs: whether passes with gradients are CUDA graphs on a GPU. Then who trains calls
            `torch.compiler.cudagraph_mark_step_begin`, once in a step, before the first of them: from there on what the
            step before put out may be overwritten.
    """

    def __init__(self, mode: str, sizes: frozenset[int], backend: str | Callable[..., Any] = "inductor") -> None:
        self.mode, self.sizes, self.backend = mode, sizes, backend
        self.graphs = mode in GRAPHS
        self.failed = False
        self._compiled: dict[tuple[bool, bool, tuple[str, ...]], Runner] = {}

    def __call__(
        self, taps: Taps, backbone: nn.Module, x: Tensor, names: tuple[str, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.failed or len(x) not in self.sizes:
            return taps.run(backbone, x, names)
        try:
            return self._run(taps, backbone, x, names)
        except TorchDynamoException as error:
            self.failed = True
            log.warning("train.compile: %s cannot be compiled and runs as it is: %s", _name(backbone), _reason(error))
            return taps.run(backbone, x, names)

    def _run(
        self, taps: Taps, backbone: nn.Module, x: Tensor, names: tuple[str, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        learns = torch.is_grad_enabled()
        kind = learns, backbone.training, names
        if kind not in self._compiled:
            self._compiled[kind] = _compiled(self.mode if learns else GRAPHS.get(self.mode, self.mode), self.backend)
        return self._compiled[kind](taps, backbone, x, names)

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        """Copies of a student run what was compiled for it."""
        return self


def _compiled(mode: str, backend: str | Callable[..., Any]) -> Runner:
    """`Taps.run`, from a code object of its own.

    torch counts recompilations per code object and gives up at 8. Here one is compiled for each size, and once more
    where a frozen copy runs it as well, which makes 6 at most.
    """
    _keep_what_is_saved()
    own = types.FunctionType(Taps.run.__code__.replace(), Taps.run.__globals__)
    return torch.compile(own, fullgraph=True, dynamic=False, backend=backend, mode=mode)


def _keep_what_is_saved() -> None:
    """Have backward passes write over nothing that the forward pass saved for them: some steps go through one twice.

    For good and for all that the process compiles, since torch asks again in each backward pass: on a GPU in a thread
    of its own, where what was set in this one does not hold, but what an environment variable forces does. That is
    torch's own affair: a version that has no such entry compiles all the same.
    """
    functorch.donated_buffer = False
    entry = getattr(functorch, "_config", {}).get("donated_buffer")
    if entry is not None:
        entry.env_value_force = False


def _name(backbone: nn.Module) -> str:
    return f"the backbone {type(backbone).__name__}"


def _reason(error: Exception) -> str:
    """The first line that says something; a backend's own error comes behind a line that ends in `raised:`."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line and not line.endswith("raised:")), type(error).__name__)
