"""clkd: continual-learning distillation.

Everything a plugin needs can be imported from here. Names are loaded when they are first used, so that `import clkd`
and the command line stay fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clkd.context import Context
    from clkd.experience import Experience, Rows
    from clkd.gradients.base import GradientPolicy
    from clkd.hooks import hookimpl
    from clkd.losses.base import Loss
    from clkd.losses.logits import LogitLoss
    from clkd.losses.regulariser import Regulariser
    from clkd.memory.base import Memory
    from clkd.metrics.base import Metric
    from clkd.options import Options, Scheduled
    from clkd.schedules.base import Schedule
    from clkd.signals import Batch, Needs, Signals, Spec
    from clkd.teachers.base import Teacher
    from clkd.tracking.base import Tracker
    from clkd.transfer.base import Transfer

__version__ = "0.1.0"

_HOME = {
    "Batch": "clkd.signals",
    "Context": "clkd.context",
    "Experience": "clkd.experience",
    "GradientPolicy": "clkd.gradients.base",
    "LogitLoss": "clkd.losses.logits",
    "Loss": "clkd.losses.base",
    "Memory": "clkd.memory.base",
    "Metric": "clkd.metrics.base",
    "Needs": "clkd.signals",
    "Options": "clkd.options",
    "Regulariser": "clkd.losses.regulariser",
    "Rows": "clkd.experience",
    "Schedule": "clkd.schedules.base",
    "Scheduled": "clkd.options",
    "Signals": "clkd.signals",
    "Spec": "clkd.signals",
    "Teacher": "clkd.teachers.base",
    "Tracker": "clkd.tracking.base",
    "Transfer": "clkd.transfer.base",
    "hookimpl": "clkd.hooks",
}

__all__ = [
    "Batch",
    "Context",
    "Experience",
    "GradientPolicy",
    "LogitLoss",
    "Loss",
    "Memory",
    "Metric",
    "Needs",
    "Options",
    "Regulariser",
    "Rows",
    "Schedule",
    "Scheduled",
    "Signals",
    "Spec",
    "Teacher",
    "Tracker",
    "Transfer",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clkd' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)
