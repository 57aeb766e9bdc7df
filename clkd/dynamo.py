"""Not importing torch's compiler, which takes 3 s, in a process that compiles nothing.

Some of torch's methods import `torch._dynamo` at their first call, only to mark themselves as not to be traced. The mark
is a function to call instead, kept beside each of them; where it is there already, nothing is imported. Should another
release of torch keep it elsewhere, the import is back and nothing else changes.
"""

from __future__ import annotations

import sys


def spare(kind: type) -> None:
    """Mark the methods of one of torch's classes, unless the compiler is in use already."""
    if "torch._dynamo" in sys.modules:
        return
    for method in vars(kind).values():
        if (plain := getattr(method, "__wrapped__", None)) is not None and not hasattr(plain, "__dynamo_disable"):
            setattr(plain, "__dynamo_disable", plain)  # noqa: B010  # written as an attribute, mypy would look for it
