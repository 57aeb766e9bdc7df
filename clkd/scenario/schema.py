"""The JSON Schema of scenario files, installed plugins included, for editors (yaml-language-server) and for people."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import DefsRef, GenerateJsonSchema, JsonRef, JsonSchemaValue

from clkd.errors import UserError, did_you_mean
from clkd.optimizers import OPTIMIZERS, SCHEDULERS
from clkd.options import SELECTOR, SHARED
from clkd.registry import KINDS, Entry, Registry, noun
from clkd.scenario.model import DEFAULTS, Scenario

OF_A_METHOD = {"memory": "memories", "transfer": "transfers"}
"""Sections in which a file that names a method may change single keys of the part that it brings."""
DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Generator(GenerateJsonSchema):
    """pydantic's generator, told that there will be a definition for each kind of part."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        for kind in KINDS:
            self.json_to_defs_refs[JsonRef(f"#/$defs/{kind}")] = DefsRef(kind)
            self.definitions[DefsRef(kind)] = {}
            self._prioritized_defsref_choices[DefsRef(kind)] = [DefsRef(kind)]

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        """Anything: a type that only Python knows, of one plugin's option, does not take everybody's schema away."""
        return {}


def _of(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema(schema_generator=_Generator)


def schema(registry: Registry, kind: str | None = None) -> dict[str, Any]:
    """The schema of a scenario, or of one kind of part (`losses`)."""
    if kind is not None and kind not in KINDS:
        raise UserError(f"'{kind}' is no kind of part ({did_you_mean(kind, KINDS)})")
    scenario = _of(Scenario)
    definitions = scenario.pop("$defs")
    kinds = {each: _kind(each, registry, definitions) for each in KINDS}
    definitions |= kinds
    definitions["OptimizerOptions"] = _torch("optimizer", OPTIMIZERS, definitions["OptimizerOptions"])
    definitions["SchedulerOptions"] = _torch("scheduler", SCHEDULERS, definitions["SchedulerOptions"])
    scenario["properties"]["method"]["anyOf"][0] = {"enum": registry.names("methods")}
    scenario["required"] = [key for key in scenario["required"] if key not in DEFAULTS]
    definitions["StudentOptions"]["required"].remove("head")  # which a method may fill in
    for key, each in OF_A_METHOD.items():
        scenario["properties"][key] = {"anyOf": [scenario["properties"][key], _changes(kinds[each])]}
    root = scenario if kind is None else {"$ref": f"#/$defs/{kind}"}
    return {"$schema": DIALECT, **root, "$defs": dict(sorted(definitions.items()))}


def _changes(kind: dict[str, Any]) -> dict[str, Any]:
    """Single keys of a method's part, which of the kind's it is left unsaid."""
    keys = {key for part in kind["oneOf"] for key in part.get("properties", {}) if key != "kind"}
    return {"type": "object", "properties": {key: {} for key in sorted(keys)}, "additionalProperties": False}


def _kind(kind: str, registry: Registry, definitions: dict[str, Any]) -> dict[str, Any]:
    """Any part of a kind: its bare name, or a mapping with its own options and those every part of the kind has."""
    names = registry.names(kind)
    choices: list[dict[str, Any]] = [{"enum": names, "description": f"the {noun(kind)}'s name"}]
    choices += [_part(registry.entries[kind, name], definitions) for name in names]
    if kind == "schedules":
        choices.append({"type": "number"})
    return {"oneOf": choices}


def _part(entry: Entry, definitions: dict[str, Any]) -> dict[str, Any]:
    selector = SELECTOR.get(entry.kind, "kind")
    properties: dict[str, Any] = {selector: {"const": entry.name, "description": entry.summary}}
    required = [selector]
    extra = False
    for model in (entry.options, SHARED.get(entry.kind)):
        if model is None:
            continue
        own = _of(model)
        definitions |= {name: what for name, what in own.pop("$defs", {}).items() if name not in definitions}
        properties |= own.get("properties", {})
        required += own.get("required", [])
        extra = extra or bool(own.get("additionalProperties"))
    return {
        "title": entry.name,
        "description": entry.summary,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": extra,
    }


def _torch(what: str, table: dict[str, Any], full: dict[str, Any]) -> dict[str, Any]:
    """Name or mapping; the keywords are those of any kind, for what fits which is checked by clkd itself."""
    keywords: dict[str, Any] = {
        word: {} for signature in table.values() for word in (*signature.keywords, *signature.switches)
    }
    properties = {**keywords, **full["properties"], "kind": {"type": "string", "description": f"the {what}'s name"}}
    return {"oneOf": [{"type": "string"}, {**full, "properties": properties, "additionalProperties": False}]}
