"""What can be wrong with a plugin, shown with files of `--plugins-dir`."""

import re
import sys
from types import SimpleNamespace

import pytest

from clkd.errors import PluginError, UserError
from clkd.plugins import load_plugins
from clkd.registry import OF_THE_RUN, OFFERS, REGISTER_HOOKS
from clkd.scenario.describe import describe_options
from clkd.scenario.schema import schema

HEAD = "from clkd import hookimpl\n"


@pytest.fixture
def found(tmp_path):
    def load(code, name="mine", disabled=()):
        (tmp_path / f"{name}.py").write_text(HEAD + code)
        plugins = load_plugins([tmp_path], disabled)
        return plugins, next(plugin for plugin in plugins.found if plugin.name == name)

    return load


GOOD = """
@hookimpl
def clkd_register_losses(register):
    register("mine", dict, summary="one")
"""


def test_a_file_is_a_plugin(found, tmp_path):
    plugins, mine = found(GOOD)
    assert (mine.status, mine.provides, mine.origin) == ("ok", ["losses:mine"], str(tmp_path / "mine.py"))
    assert plugins.registry.get("losses", "mine").summary == "one"
    assert plugins.guests() == [mine]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "@hookimpl\ndef clkd_register_loses(register): ...",
            "unknown hook 'clkd_register_loses' (did you mean 'clkd_register_losses'?)",
        ),
        ("def clkd_register_losses(register): ...", "'clkd_register_losses' is not marked: write @hookimpl"),
        ("@hookimpl\ndef clkd_run_start(run, speed): ...", "Argument(s) {'speed'} are declared in the hookimpl but"),
        (
            "@hookimpl\ndef clkd_register_losses(register):\n    register('x', dict)\n    1 / 0",
            "ZeroDivisionError: division by zero",
        ),
        ("import sys\nsys.exit('no')", "SystemExit: no"),
        ("x = (", "SyntaxError: '(' was never closed"),
        (
            "from clkd import Options\nclass O(Options):\n    weight: float = 1\n"
            "@hookimpl\ndef clkd_register_losses(register): register('x', dict, config=O)",
            "every loss has a 'weight': rename this option",
        ),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_named_with_its_reason_and_leaves_nothing_behind(code, reason, found, caplog):
    plugins, mine = found(code)
    assert mine.status == "broken"
    assert reason in mine.reason
    assert "\n" not in mine.reason
    assert plugins.registry.provided_by("mine") == []
    assert plugins.registry.broken == {"mine": mine.reason}
    assert not plugins.manager.has_plugin("mine")
    assert f"plugin 'mine' ({mine.origin}) is broken: {mine.reason}" in caplog.messages
    assert plugins.registry.get("losses", "kd")


@pytest.mark.parametrize(("kind", "hook"), REGISTER_HOOKS.items())
def test_every_kind_of_part_can_be_registered(kind, hook, found):
    plugins, mine = found(f"@hookimpl\ndef {hook}(register): register('mine', 'mine:Mine', summary='one')")
    assert mine.provides == [f"{kind}:mine"]
    assert plugins.registry.get(kind, "mine").origin == mine.origin


def test_a_helper_of_any_other_name_is_no_hook(found):
    _, mine = found("import json as clkd_json\ndef clkd_helper(): ...\nclkd_number = 3")
    assert mine.status == "ok"


def test_a_name_that_is_taken_is_an_error_and_harms_nobody(found, tmp_path):
    other = tmp_path / "more"
    other.mkdir()
    (tmp_path / "mine.py").write_text(HEAD)
    (other / "mine.py").write_text(HEAD)
    with pytest.raises(PluginError, match="plugin name 'mine' is claimed by") as caught:
        load_plugins([tmp_path, other])
    assert str(tmp_path / "mine.py") in str(caught.value)
    assert str(other / "mine.py") in str(caught.value)


def test_a_part_of_clkds_own_cannot_be_replaced(found):
    with pytest.raises(PluginError, match=r"losses: 'kd' is registered by 'clkd\.losses' .* and by 'mine'"):
        found(GOOD.replace('"mine"', '"kd"'))


def test_files_can_be_left_out_and_those_with_an_underscore_are_no_plugins(found, tmp_path):
    (tmp_path / "_tools.py").write_text("1 / 0")
    plugins, mine = found("1 / 0", disabled=["mine"])
    assert mine.status == "disabled"
    assert plugins.broken() == []


def test_a_directory_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        load_plugins([tmp_path / "nope"])


def test_the_options_of_a_factory_are_its_parameters_without_what_is_offered(found):
    plugins, _ = found(
        "class Mine:\n    def __init__(self, size: int, context, seed, rate: float = 0.5, *more, **rest): ...\n"
        "@hookimpl\ndef clkd_register_memories(register): register('mine', Mine)"
    )
    part = plugins.registry.parse("memories", {"kind": "mine", "size": "3"})
    assert part.options.model_dump() == {"size": 3, "rate": 0.5}
    with pytest.raises(ValueError, match=r"seed: unknown key .*; |size: is missing"):
        plugins.registry.parse("memories", {"kind": "mine", "seed": 3})


def test_a_factory_gets_its_options_and_the_offers_it_names(found):
    plugins, _ = found(
        "class Mine:\n    def __init__(self, size: int, seed, rate=1.0): self.got = (size, seed, rate)\n"
        "@hookimpl\ndef clkd_register_memories(register): register('mine', Mine)"
    )
    part = plugins.registry.parse("memories", {"kind": "mine", "size": 3})
    assert plugins.registry.build(part, seed=7, context=None).got == (3, 7, 1.0)


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ("rows: 'Sequence[int]' = ()", ".*'Sequence' is not defined"),
        ("gamma=2.0, weight=None", "every loss has a 'weight': rename this option"),
        ("activation=dict", "the default of 'activation' is <class 'dict'>, which a scenario cannot say"),
        ("margin: float = None", r"the default of 'margin' is None, which its own type refuses \(give a number"),
    ],
)
def test_parameters_that_cannot_be_options_are_a_mistake_of_the_plugin(parameters, reason, found):
    plugins, _ = found(
        f"class Mine:\n    def __init__(self, {parameters}): ...\n"
        "@hookimpl\ndef clkd_register_losses(register): register('mine', Mine)"
    )
    with pytest.raises(PluginError, match=f"losses: 'mine' from plugin 'mine': {reason}"):
        plugins.registry.parse("losses", "mine")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("x = (", "SyntaxError: '(' was never closed"),
        ("Lost = confident", "NameError: name 'confident' is not defined"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import nowhere_xyz", "No module named 'nowhere_xyz'"),
        ("", "module 'late_part' has no attribute 'Lost'"),
    ],
)
def test_whatever_is_wrong_with_a_module_that_is_loaded_late_is_named(code, reason, found, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "late_part.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    monkeypatch.delitem(sys.modules, "late_part", raising=False)
    plugins, _ = found("@hookimpl\ndef clkd_register_losses(register): register('lost', 'late_part:Lost')")
    with pytest.raises(PluginError, match=re.escape(f"losses: 'lost' from plugin 'mine' does not load: {reason}")):
        plugins.registry.parse("losses", "lost")


def test_options_whose_defaults_are_no_plain_values_are_told(found):
    plugins, _ = found(
        "from pathlib import Path\nfrom clkd import Options\n"
        "class Mine(Options):\n    folder: Path = Path('models')\n"
        "@hookimpl\ndef clkd_register_trackers(register): register('mine', dict, config=Mine)"
    )
    assert describe_options(plugins.registry.get("trackers", "mine").options)[0]["default"] == "models"


GIVEN_CONFIG = "@hookimpl\ndef clkd_register_losses(register): register('mine', dict, config=Mine)"
NEEDS = "class Mine:\n    def __init__(self, {0}): self.got = {0}\n"
GIVEN = "@hookimpl\ndef clkd_register_{0}(register): register('mine', Mine)"


@pytest.mark.parametrize("kind", [kind for kind in OFFERS if "context" in OFFERS[kind]])
@pytest.mark.parametrize("name", sorted(OF_THE_RUN - {"context"}))
def test_what_is_of_the_run_is_offered_wherever_a_context_is(kind, name, found):
    plugins, _ = found(NEEDS.format(name) + GIVEN.format(kind))
    part = plugins.registry.parse(kind, "mine")
    context = SimpleNamespace(seed=3, shape=(1,), class_names=("a",), device="cpu")
    assert plugins.registry.build(part, context=context).got == getattr(context, name)


@pytest.mark.parametrize("kind", ["schedules", "gradients", "retrievals", "trackers", "datasets"])
def test_what_is_not_offered_is_an_option(kind, found):
    plugins, _ = found(NEEDS.format("seed") + GIVEN.format(kind))
    assert "seed" in plugins.registry.get(kind, "mine").options.model_fields


def test_a_config_models_default_that_its_own_type_refuses_is_told(found):
    plugins, _ = found(
        "from typing import Annotated\nfrom pydantic import Field\nfrom clkd import Options\n"
        "class Mine(Options):\n    top: Annotated[int, Field(gt=0)] = 0\n" + GIVEN_CONFIG
    )
    with pytest.raises(PluginError, match=r"the default of 'top' is 0, which its own type refuses .*more than 0"):
        plugins.registry.parse("losses", "mine")


def test_a_default_without_a_type_is_the_same_after_it_was_written_down(found):
    plugins, _ = found(
        "from enum import Enum\nfrom pathlib import Path\n"
        "class Side(Enum):\n    LEFT = 'left'\n"
        "class Mine:\n    def __init__(self, folder=Path('models'), side=Side.LEFT): self.got = (folder, side)\n"
        "@hookimpl\ndef clkd_register_trackers(register): register('mine', Mine)"
    )
    first = plugins.registry.parse("trackers", "mine")
    again = plugins.registry.parse("trackers", first.dump())
    assert plugins.registry.build(first).got == plugins.registry.build(again).got


@pytest.mark.parametrize("named", ["nothing", "checkpoint"])
def test_what_weights_begin_with_is_an_option_that_can_be_left_out(named, found):
    plugins, _ = found(
        "from typing import ClassVar\nfrom clkd import Options\n"
        f"class Mine(Options):\n    begins_with: ClassVar[tuple[str, ...]] = ('{named}',)\n    checkpoint: str\n"
        "@hookimpl\ndef clkd_register_models(register): register('mine', dict, config=Mine)"
    )
    with pytest.raises(PluginError, match=f"begins_with names '{named}', which is no option with a default"):
        plugins.registry.parse("models", {"kind": "mine", "checkpoint": "x"})


def test_a_config_model_that_allows_any_option_hands_them_all_on_but_those_that_all_parts_have(found):
    plugins, _ = found(
        "from pydantic import ConfigDict\nfrom clkd import Options\n"
        "class Any(Options):\n    model_config = ConfigDict(extra='allow')\n    beta: float = 1.0\n"
        "def made(**options): return options\n"
        "@hookimpl\ndef clkd_register_losses(register): register('lib', made, config=Any)"
    )
    said = {"kind": "lib", "between": ["student", "previous"], "weight": 0.1, "alpha": 3}
    part = plugins.registry.parse("losses", said)
    assert plugins.registry.build(part) == {"beta": 1.0, "alpha": 3}
    assert (part.shared.weight, part.shared.between) == (0.1, ("student", "previous"))
    assert plugins.registry.parse("losses", part.dump()) == part


def test_a_type_that_only_python_knows_takes_nobodys_schema_away(found):
    plugins, _ = found(
        "from collections.abc import Callable\n"
        "class Mine:\n    def __init__(self, activation: Callable[[int], int] | None = None): ...\n"
        "@hookimpl\ndef clkd_register_losses(register): register('mine', Mine)"
    )
    parts = {each.get("title"): each for each in schema(plugins.registry, "losses")["$defs"]["losses"]["oneOf"]}
    assert "activation" in parts["mine"]["properties"]
    assert "temperature" in parts["kd"]["properties"]


@pytest.mark.parametrize(
    "check",
    [
        "    @field_validator('weights')\n    @classmethod\n    def _many(cls, v, info):\n"
        "        if len(v) != len(info.data['layers']): raise ValueError('give as many')\n        return v\n",
        "    @field_validator('weights')\n    @classmethod\n    def _many(cls, v, info):\n"
        "        if len(v) != len(info.data.get('layers', ())): raise ValueError('give as many')\n        return v\n",
        "    @model_validator(mode='before')\n    @classmethod\n    def _all(cls, raw):\n"
        "        raw['layers']\n        return raw\n",
    ],
)
def test_validators_of_a_config_model_are_not_asked_about_defaults_alone(check, found):
    plugins, _ = found(
        "from pydantic import field_validator, model_validator\nfrom clkd import Options\n"
        "class Mine(Options):\n    layers: tuple[str, ...]\n    weights: tuple[float, ...] = (1.0,)\n"
        + check
        + GIVEN_CONFIG
    )
    part = plugins.registry.parse("losses", {"kind": "mine", "layers": ["a"]})
    assert part.options.weights == (1.0,)
