import re

import pytest

from clkd.errors import UserError
from clkd.options import SELECTOR, SHARED, Options
from clkd.registry import KINDS, Registry
from clkd.scenario.document import parse
from clkd.scenario.load import load
from clkd.scenario.resolve import resolved
from clkd.scenario.schema import schema

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int}


@pytest.fixture(scope="module")
def whole(registry):
    return schema(registry)


def fits(value, rule, root) -> bool:
    """As much of JSON Schema as clkd's own schema uses, written from the standard."""
    rule = dict(rule)
    if "$ref" in rule and not fits(value, root["$defs"][rule["$ref"].removeprefix("#/$defs/")], root):
        return False
    if "const" in rule and value != rule["const"]:
        return False
    if "enum" in rule and value not in rule["enum"]:
        return False
    if "anyOf" in rule and not any(fits(value, each, root) for each in rule["anyOf"]):
        return False
    if "oneOf" in rule and sum(fits(value, each, root) for each in rule["oneOf"]) != 1:
        return False
    kind = rule.get("type")
    if kind == "number":
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
    elif kind and (not isinstance(value, TYPES[kind]) or (kind == "integer" and isinstance(value, bool))):
        return False
    if isinstance(value, dict):
        known = rule.get("properties", {})
        if not set(rule.get("required", [])) <= set(value):
            return False
        for key, inner in value.items():
            extra = rule.get("additionalProperties", True)
            here = known.get(key, extra)
            if here is False or (isinstance(here, dict) and not fits(inner, here, root)):
                return False
    if isinstance(value, list) and "items" in rule:
        return all(fits(each, rule["items"], root) for each in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value >= rule.get("minimum", value) and value > rule.get("exclusiveMinimum", value - 1)
    return not (isinstance(value, str) and "pattern" in rule and not re.search(rule["pattern"], value))


def test_the_example_and_its_resolved_form_fit(whole, example, registry):
    assert fits(parse(example.read_text()).data, whole, whole)
    assert fits(resolved(load(example, [], registry).scenario), whole, whole)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("epochs: 1", "epoch: 1"),
        ("temperature: 2", "temprature: 2"),
        ("kind: reservoir", "kind: resevoir"),
        ("by: class", "by: clas"),
        ("- cross_entropy", "- cross_entrpy"),
        ("size: 500", "size: 0"),
        ("head: linear", "head: 3"),
        ("name: split_cifar\n", ""),
        ("weight: 0.5", "weight: true"),
    ],
)
def test_what_clkd_refuses_does_not_fit(old, new, whole, write):
    assert not fits(parse(write(old, new).read_text()).data, whole, whole)


def test_every_part_of_every_kind_is_there_by_name_and_with_options(whole, registry):
    for kind in KINDS:
        names, *choices = whole["$defs"][kind]["oneOf"]
        assert names["enum"] == registry.names(kind)
        parts = {choice["title"]: choice for choice in choices if "title" in choice}
        assert set(parts) == set(registry.names(kind))
        for name, part in parts.items():
            shared = SHARED[kind].model_fields if kind in SHARED else {}
            keys = {SELECTOR.get(kind, "kind"), *registry.get(kind, name).options.model_fields, *shared}
            assert set(part["properties"]) == keys
            assert part["additionalProperties"] is False


def test_every_reference_leads_somewhere(whole):
    text = str(whole)
    for target in set(re.findall(r"#/\$defs/([\w.-]+)", text)):
        assert target in whole["$defs"]


def test_a_plugins_part_is_in_the_schema(registry):
    class MineOptions(Options):
        """Options."""

        power: int = 2
        """How strong it is."""

    own = Registry(dict(registry.entries))
    own.register_for("losses", "test", "here")("mine", "nowhere:Mine", config=MineOptions, summary="a loss of mine")
    mine = schema(own)["$defs"]["losses"]["oneOf"]
    (part,) = [choice for choice in mine if choice.get("title") == "mine"]
    assert part["properties"]["power"] == {
        "default": 2, "description": "How strong it is.", "title": "Power", "type": "integer",
    }  # fmt: skip
    assert part["description"] == "a loss of mine"


def test_one_kind_alone(registry):
    losses = schema(registry, "losses")
    assert fits({"kind": "kd", "temperature": 3}, losses, losses)
    assert not fits({"kind": "kd", "temprature": 3}, losses, losses)
    with pytest.raises(UserError, match="did you mean 'losses'"):
        schema(registry, "loses")


@pytest.mark.parametrize(
    "text",
    [
        "method: er\nmemory: {size: 200}",
        "method: er\nmemory: {retrieval: mir}",
        "method: joint\ntransfer: {weight: 0.5}",
        "stream: {dataset: digits, split: {by: class, experiences: 2}, augment: {mix: mixup}}",
        "stream: {dataset: digits, split: {by: class, experiences: 2}, augment: {mix: {kind: cutmix, alpha: 2}}}",
    ],
)
def test_what_may_be_said_in_short_fits(text, whole):
    said = parse(text).data
    rules = {"properties": {key: whole["properties"][key] for key in said}, "additionalProperties": False}
    assert fits(said, rules, whole)


@pytest.mark.parametrize("text", ["memory: {sizes: 200}", "memory: {kind: resevoir}", "memory: {kind: ring, size: 0}"])
def test_what_is_said_in_short_is_checked_too(text, whole):
    rules = {"properties": {"memory": whole["properties"]["memory"]}}
    assert not fits(parse(text).data, rules, whole)
