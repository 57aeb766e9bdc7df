"""Options of parts: the strict base of every config model, and the fields that name another part.

Nothing here loads torch: a scenario is checked in well under a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationInfo
from pydantic.json_schema import GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Options(BaseModel):
    """Base of all config models: unknown keys are errors, values are fixed once checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)


@dataclass(frozen=True, slots=True)
class Part:
    """A named part with its checked options, as a scenario declares it; the registry builds it.

    `shared` holds the keys that every part of the kind has beside its own (a loss's `between` and `weight`).
    """

    kind: str
    name: str
    options: Options
    shared: Options | None = None

    def dump(self) -> dict[str, Any]:
        """The part as plain data, every default filled in."""
        shared = self.shared.model_dump(mode="json") if self.shared else {}
        return {SELECTOR.get(self.kind, "kind"): self.name, **shared, **self.options.model_dump(mode="json")}


def dump(value: Part | float) -> Any:
    """A part (or the number that stands for a constant schedule) as plain data."""
    return value.dump() if isinstance(value, Part) else value


SELECTOR = {"datasets": "name", "streams": "by"}
"""The key that names a part in YAML where it is not `kind`."""


class PartParser(Protocol):
    """What checks a part's options against its config model: the registry."""

    def parse(self, kind: str, raw: object, parsing: Parsing) -> Part: ...


@dataclass(slots=True)
class Parsing:
    """One pass over a scenario: who knows the parts, where each piece of it stood, and what was wrong so far."""

    parser: PartParser
    paths: Mapping[int, tuple[str | int, ...]] = field(default_factory=dict)
    problems: list[tuple[tuple[str | int, ...], str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PartField:
    """Marks a field as "a part of this kind": a bare name, or a mapping with its options."""

    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self.check, serialization=core_schema.plain_serializer_function_ser_schema(dump)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"$ref": f"#/$defs/{self.kind}"}

    def check(self, raw: object, info: ValidationInfo) -> Part | float:
        if isinstance(raw, Part):
            return raw
        if self.kind == "schedules" and isinstance(raw, int | float) and not isinstance(raw, bool):
            return float(raw)
        if not isinstance(info.context, Parsing):
            raise ValueError("a part can only be read through a registry: use Registry.parse")
        return info.context.parser.parse(self.kind, raw, info.context)


ModelPart = Annotated[Part, PartField("models")]
HeadPart = Annotated[Part, PartField("heads")]
Scheduled = Annotated[Part | float, PartField("schedules")]
"""A number, or what it follows over time: `0.5`, `old_fraction`, `{kind: warmup, …}`."""
DatasetPart = Annotated[Part, PartField("datasets")]
StreamPart = Annotated[Part, PartField("streams")]
LossPart = Annotated[Part, PartField("losses")]
MemoryPart = Annotated[Part, PartField("memories")]
TransferPart = Annotated[Part, PartField("transfers")]
TeacherPart = Annotated[Part, PartField("teachers")]
MetricPart = Annotated[Part, PartField("metrics")]
TrackerPart = Annotated[Part, PartField("trackers")]


class TermOptions(Options):
    """Keys that every loss has beside its own."""

    name: str | None = None
    """The term's name in logs and errors; by default the loss's kind and what it compares."""
    between: tuple[str, ...] | None = None
    """`[student, previous]`, `[student.stage3, external.stage3]`, `[student@new]`: model, tap, rows."""
    weight: Scheduled = 1.0


class TransferOptions(Options):
    """Keys that every transfer strategy has beside its own."""

    weight: Scheduled = 1.0


SHARED: dict[str, type[Options]] = {"losses": TermOptions, "transfers": TransferOptions}
