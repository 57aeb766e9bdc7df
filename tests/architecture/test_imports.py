"""Imports go down the levels only, and rooms of one level do not know each other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import clkd
from clkd.plugins import BUILT_IN

HOUSE = Path(clkd.__file__).parent

ROOMS = ("data", "streams", "models", "teachers", "losses", "memory", "transfer", "metrics", "schedules", "gradients")
LEVELS = (
    (
        "errors",
        "handlers",
        "options",
        "signals",
        "experience",
        "seeding",
        "hooks",
        "context",
        "optimizers",
        "cache",
        "disk",
        "locks",
        "leash",
        "vision",
        "frozen",
        "ranks",
        "weights",
        "view",
        "reversal",
        "perceptron",
    ),
    ROOMS,
    ("registry", "plugins", "scenario", "tracking", "checkpoint"),
    ("engine",),
    ("testing", "scaffold", "reproduce", "compare", "sweep", "page"),
    ("cli", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


def _files():
    return sorted(HOUSE.rglob("*.py"))


def _room(path):
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def _type_only(tree):
    """Everything below `if TYPE_CHECKING:`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for statement in node.body:
                yield from ast.walk(statement)


def imports(text):
    """Every module of clkd's that a text imports when it runs, with the line."""
    tree = ast.parse(text)
    exempt = set(map(id, _type_only(tree)))
    for node in ast.walk(tree):
        if id(node) in exempt:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name.split(".")[0] == "clkd")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "clkd":
            if node.module == "clkd":
                yield from ((f"clkd.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module, node.lineno


def wrong(room, module):
    """Why a file of `room` must not import `module`; '' where it may."""
    target = module.split(".")[1]
    if target not in LEVEL or room == target or room == "":
        return ""  # a name of clkd's own front door, a room's own files, or that front door itself
    if LEVEL[target] > LEVEL[room]:
        return f"{room} (level {LEVEL[room]}) imports {module} (level {LEVEL[target]})"
    if LEVEL[room] == LEVEL[target] == 1:
        return f"{room} imports {module}, another room"
    return ""


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(HOUSE)))
def test_imports_go_down_only(path):
    room = _room(path)
    assert room == "" or room in LEVEL, f"{room} has no level yet: give it one here"
    found = [f"{path}:{line}: {why}" for module, line in imports(path.read_text()) if (why := wrong(room, module))]
    assert not found, "\n".join(found)


def test_this_test_sees_what_it_is_to_see():
    text = """
from typing import TYPE_CHECKING
import typing
if TYPE_CHECKING:
    from clkd.engine.run import Run
if typing.TYPE_CHECKING:
    import clkd.cli.main
import clkd.engine.run
from clkd import registry
def late():
    from clkd.memory.base import Memory
"""
    assert [module for module, _ in imports(text)] == ["clkd.engine.run", "clkd.registry", "clkd.memory.base"]
    assert wrong("losses", "clkd.memory.base")
    assert wrong("losses", "clkd.registry")
    assert wrong("registry", "clkd.engine.run")
    assert not wrong("losses", "clkd.losses.base")
    assert not wrong("engine", "clkd.memory.base")
    assert not wrong("losses", "clkd.signals")


HEAVY = ("torch", "torchvision", "mlflow", "avalanche", "numpy", "sklearn", "matplotlib", "PIL")


def test_front_doors_are_light():
    modules = [*BUILT_IN, "clkd", "clkd.cli.main", "clkd.scenario.load", "clkd.scenario.schema", "clkd.optimizers"]
    code = (
        f"import importlib, sys\nfor name in {modules!r}:\n    importlib.import_module(name)\n"
        f"    heavy = [each for each in {HEAVY!r} if each in sys.modules]\n"
        "    assert not heavy, f'{name} loads {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
