"""What every registered part must keep: its options and its factory say the same."""

import ast
import inspect
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

import clkd
from clkd import hooks
from clkd.plugins import load_plugins
from clkd.registry import KINDS, NOTHING, OFFERS, REGISTER_HOOKS

REGISTRY = load_plugins().registry
ENTRIES = [entry for entry in REGISTRY.entries.values() if entry.plugin.startswith("clkd.")]


FILE, FITTED = {"path": "rows.npz"}, {"model": "mlp"}
NEEDED = {
    ("datasets", "image_folder"): {"path": "pictures"},
    ("datasets", "arrays"): FILE,
    ("datasets", "avalanche"): {"benchmark": "SplitMNIST"},
    ("datasets", "domains"): {"of": ["digits", {"name": "arrays", **FILE}]},
    ("streams", "class"): {"experiences": 2},
    ("streams", "task"): {"experiences": 2},
    ("streams", "repeated"): {"experiences": 4, "repetition": 0.5},
    ("streams", "domain"): {"transform": "rotated", "experiences": 2},
    ("streams", "data"): {"experiences": 2},
    ("models", "torchvision"): {"model": "resnet18"},
    ("teachers", "ensemble"): {"members": ["a", "b"]},
    ("teachers", "fit"): FITTED,
    ("teachers", "born_again"): FITTED,
    ("teachers", "run"): {"run": "runs/one"},
    ("teachers", "checkpoint"): {"path": "weights.safetensors", **FITTED},
    ("teachers", "torchvision"): {"model": "resnet18", "weights": "DEFAULT"},
    ("teachers", "mlflow"): {"uri": "models:/student/1"},
    ("schedules", "per_experience"): {"values": [1, 2]},
    ("metrics", "intransigence"): {"joint": [0.5, 0.6]},
}
"""What has no default."""


def _names(entries):
    return [f"{entry.kind}:{entry.name}" for entry in entries]


@pytest.mark.parametrize("entry", ENTRIES, ids=_names(ENTRIES))
def test_a_factorys_parameters_are_its_options(entry):
    parameters = inspect.signature(entry.load).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        pytest.skip(reason="takes any keyword: there are no parameters to compare with its options")
    fields = entry.options.model_fields
    offers = OFFERS.get(entry.kind, NOTHING)
    own = {name: each for name, each in parameters.items() if name not in offers or name in fields}
    assert set(own) == set(fields), "constructor parameters and options differ"
    for name, each in own.items():
        wanted = fields[name].get_default(call_default_factory=True)
        if wanted is PydanticUndefined or each.default is each.empty:
            continue  # a required option, or one whose default only the options know
        assert each.default == wanted, f"{name}: the constructor's default and the option's differ"


@pytest.mark.parametrize("entry", ENTRIES, ids=_names(ENTRIES))
def test_a_part_says_what_it_is(entry):
    assert entry.summary, "a line for `clkd list`"
    assert "\n" not in entry.summary
    assert isinstance(entry.factory, str), "a built-in part is imported when it is built, not before"
    assert entry.options.__doc__


@pytest.mark.parametrize("entry", ENTRIES, ids=_names(ENTRIES))
def test_what_a_resolved_scenario_says_of_a_part_is_read_as_the_same_part(entry):
    """With all defaults written out, as a resumed run finds them."""
    key = {"datasets": "name", "streams": "by"}.get(entry.kind, "kind")
    given = {key: entry.name, **NEEDED.get((entry.kind, entry.name), {})}
    part = REGISTRY.parse(entry.kind, given)
    assert REGISTRY.parse(entry.kind, part.dump()) == part


def test_options_that_tell_the_number_of_sides_agree_with_the_loss():
    for name in REGISTRY.names("losses"):
        entry = REGISTRY.get("losses", name)
        told = getattr(entry.options, "sides", None)
        if told is not None:
            assert told == entry.load.sides, name


def test_every_kind_has_its_hook_and_every_hook_a_meaning():
    specs = {name: each for name, each in vars(hooks).items() if name.startswith("clkd_")}
    assert set(REGISTER_HOOKS.values()) == {name for name in specs if name.startswith("clkd_register_")} - {
        "clkd_register_commands"
    }
    assert set(REGISTER_HOOKS) == set(KINDS)
    for name, spec in specs.items():
        assert inspect.getdoc(spec), f"{name} has no docstring"
        assert hasattr(spec, "clkd_spec"), f"{name} is not marked"


HOUSE = Path(clkd.__file__).parent
LONGEST = 60


def test_no_long_function_without_an_explanation():
    for path in HOUSE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= LONGEST or ast.get_docstring(node), (
                    f"{path}:{node.lineno}: {node.name} has {length} lines"
                )
