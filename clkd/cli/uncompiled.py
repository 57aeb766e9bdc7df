"""torch without its compiler, until somebody asks for it.

torch's optimizers import `torch._dynamo` only to tell a compiler to keep away from them. That takes a second, about as
long as importing torch, and nobody compiles anything unless the scenario says so.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

NAME = "torch._dynamo"

Function = TypeVar("Function", bound=Callable[..., Any])


class StandIn(ModuleType):
    """Answers what optimizers ask of the compiler as it does when it is not at work; for all else it makes way."""

    @staticmethod
    def graph_break(msg: str = "") -> None:
        """There is no graph to break."""

    @staticmethod
    def disable(fn: Function, recursive: bool = True, *, reason: str | None = None, wrapping: bool = True) -> Function:
        """Nothing is compiled, so nothing is left out of it."""
        return fn

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # who looks at all modules there are; not who imports from it
            raise AttributeError(name)
        if sys.modules.get(NAME) is self:
            del sys.modules[NAME]
        return getattr(importlib.import_module(NAME), name)


def leave_out_the_compiler() -> None:
    """Let the stand-in stand where `torch._dynamo` would, unless that is loaded already."""
    import torch

    if NAME not in sys.modules:
        sys.modules[NAME] = torch._dynamo = StandIn(NAME)
