"""Options of parts: the strict base of every config model, and the fields that name another part.

Nothing here loads torch: a scenario is checked in well under a second.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    SerializationInfo,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

from clkd.errors import did_you_mean, shorten

Place = tuple[str | int, ...]
"""Where something stands in a scenario: `("losses", 1, "temperature")`."""
Problem = tuple[Place, str]
"""A mistake: where it is, and what to do about it."""


class Options(BaseModel):
    """Base of all config models: unknown keys are errors, values are fixed once checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False, use_attribute_docstrings=True)

    @model_validator(mode="wrap")
    @classmethod
    def _say_it_plainly(cls, raw: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        """Pydantic's words for a mistake are replaced here, where the allowed keys are known."""
        try:
            return check(raw)
        except ValidationError as error:
            details = error.errors()
        own = [item for item in details if not _follows(item, details)]
        raise mistakes([(item["loc"], worded(item, cls.model_fields)) for item in own])


def _follows(item: ErrorDetails, details: Iterable[ErrorDetails]) -> bool:
    """Whether a list is said to be too short only because entries of it are wrong, which is said already."""
    place = item["loc"]
    within = (other["loc"] for other in details if other is not item)
    return item["type"] == "too_short" and any(other[: len(place)] == place for other in within)


def mistakes(found: Iterable[tuple[Place, str | PydanticCustomError]]) -> ValidationError:
    """Several mistakes as one error; pydantic puts the place of whatever contains them in front."""
    lines: list[InitErrorDetails] = [
        {"type": _stated(why) if isinstance(why, str) else why, "loc": place, "input": None} for place, why in found
    ]
    return ValidationError.from_exception_data("scenario", lines)


def unknown_key(key: str, allowed: Iterable[str]) -> str:
    """What is said of a key that nobody reads."""
    words = list(allowed)
    return f"unknown key ({did_you_mean(key, words)})" if words else "unknown key (there are no options here)"


def _stated(reason: str) -> PydanticCustomError:
    return PydanticCustomError("clkd", "{reason}", {"reason": reason})


def worded(item: ErrorDetails, known: Iterable[str]) -> str | PydanticCustomError:
    """One of pydantic's errors as clkd says it; what clkd said already stays as it is."""
    if item["type"] == "extra_forbidden":
        return unknown_key(str(item["loc"][-1]), known)
    if item["type"] == "missing":
        return "is missing"
    if item["type"] in ("clkd", UNKNOWN_PART):
        return PydanticCustomError(item["type"], "{reason}", item["ctx"])
    plain = PLAINLY.get(item["type"])
    message = plain.format(**item.get("ctx", {})) if plain else item["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:] + _got(item["input"], message, item["type"] in PLAINLY)


PLAINLY = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "give a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "give a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "give true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "give a list"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "give keys and values"),
    "string_type": "give text",
    "literal_error": "give {expected}",
    "finite_number": "give a finite number",
    "greater_than": "give more than {gt}",
    "greater_than_equal": "give at least {ge}",
    "less_than": "give less than {lt}",
    "less_than_equal": "give at most {le}",
    "too_short": "give at least {min_length}",
    "too_long": "give at most {max_length}",
}
"""What pydantic's types of mistakes ask for."""


def _got(given: object, message: str, wrong_type: bool) -> str:
    """What was given, where that can be shown in a few letters and is not told yet."""
    if wrong_type and isinstance(given, list | tuple | dict | None):
        return f"; got {'nothing' if given is None else 'keys and values' if isinstance(given, dict) else 'a list'}"
    told = isinstance(given, str) and repr(given) in message
    return f"; got {shorten(repr(given))}" if isinstance(given, str | int | float) and not told else ""


UNKNOWN_PART = "clkd_unknown_part"
"""The type of the error that says a name is not registered: the only one that a broken plugin may be to blame for."""


@dataclass(frozen=True, slots=True)
class Part:
    """A named part with its checked options, as a scenario declares it; the registry builds it.

    `shared` holds the keys that every part of the kind has beside its own (a loss's `between` and `weight`).
    """

    kind: str
    name: str
    options: Options
    shared: Options | None = None

    def dump(self, *, brief: bool = False) -> dict[str, Any]:
        """The part as plain data, every default filled in, or (`brief`) left out."""
        shared = self.shared.model_dump(mode="json", exclude_defaults=brief) if self.shared else {}
        own = self.options.model_dump(mode="json", exclude_defaults=brief)
        return {SELECTOR.get(self.kind, "kind"): self.name, **shared, **own}


def dump(value: Part | float, info: SerializationInfo) -> Any:
    """A part (or the number that stands for a constant schedule) as plain data."""
    return value.dump(brief=info.exclude_defaults) if isinstance(value, Part) else value


SELECTOR = {"datasets": "name", "streams": "by"}
"""The key that names a part in YAML where it is not `kind`."""


class PartParser(Protocol):
    """What checks a part's options against its config model: the registry."""

    def parse(self, kind: str, raw: object, parsing: Parsing) -> Part: ...


@dataclass(frozen=True, slots=True)
class Parsing:
    """The context of one pass over a scenario: who knows the parts."""

    parser: PartParser


class Opened(dict[str, Any]):
    """A part given by its bare name, and options that were set into it since (`--set memory.size=100`)."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


@dataclass(frozen=True, slots=True)
class PartField:
    """Marks a field as "a part of this kind": a bare name, or a mapping with its options."""

    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self.check, serialization=core_schema.plain_serializer_function_ser_schema(dump, info_arg=True)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"$ref": f"#/$defs/{self.kind}"}

    def check(self, raw: object, info: ValidationInfo) -> Part | float:
        if isinstance(raw, Part):
            return raw
        if self.kind == "schedules" and isinstance(raw, int | float) and not isinstance(raw, bool):
            return _finite(raw)
        if not isinstance(info.context, Parsing):
            raise ValueError("a part can only be read through a registry: use Registry.parse")
        return info.context.parser.parse(self.kind, raw, info.context)


def _finite(raw: float) -> float:
    """A number that can be reckoned with. Integers may be too large for one."""
    if abs(raw) > sys.float_info.max or raw != raw:  # what is not equal to itself is not a number
        raise ValueError("give a finite number")
    return float(raw)


@dataclass(frozen=True, slots=True)
class OptionalPart(PartField):
    """A part that may be left out. (A union would report each mistake twice, once for `None`.)"""

    def check(self, raw: object, info: ValidationInfo) -> Any:
        return None if raw is None else PartField.check(self, raw, info)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"$ref": f"#/$defs/{self.kind}"}, {"type": "null"}]}


@dataclass(frozen=True, slots=True)
class SeveralParts(Part):
    """Several parts where there may be one or a list of them. It is called by all their names."""

    members: tuple[Part, ...] = ()

    def dump(self, *, brief: bool = False) -> Any:
        return [member.dump(brief=brief) for member in self.members]


@dataclass(frozen=True, slots=True)
class OneOrSeveral(PartField):
    """A part, or a list of them."""

    def check(self, raw: object, info: ValidationInfo) -> Any:
        if not isinstance(raw, list | tuple):
            return PartField.check(self, raw, info)
        if not raw:
            raise ValueError("is an empty list: name one, or leave it out")
        members, found = [], []
        for i, each in enumerate(raw):
            try:
                members.append(PartField.check(self, each, info))
            except ValidationError as error:
                found += [((i, *item["loc"]), worded(item, ())) for item in error.errors()]
            except ValueError as error:
                found.append(((i,), str(error)))
        if found:
            raise mistakes(found)
        return several(self.kind, [member for member in members if isinstance(member, Part)])

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        one = {"$ref": f"#/$defs/{self.kind}"}
        return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}


def several(kind: str, members: list[Part]) -> Part:
    """One part that stands for all."""
    names = " + ".join(member.name for member in members)
    return SeveralParts(kind, names, Options(), SHARED[kind]() if kind in SHARED else None, tuple(members))


ModelPart = Annotated[Part, PartField("models")]
HeadPart = Annotated[Part, PartField("heads")]
Scheduled = Annotated[Part | float, PartField("schedules")]
"""A number, or what it follows over time: `0.5`, `old_fraction`, `{kind: warmup, …}`."""
DatasetPart = Annotated[Part, PartField("datasets")]
StreamPart = Annotated[Part, PartField("streams")]
LossPart = Annotated[Part, PartField("losses")]
MemoryPart = Annotated[Part, PartField("memories")]
TransferPart = Annotated[Part, OneOrSeveral("transfers")]
TeacherPart = Annotated[Part, PartField("teachers")]
GradientPart = Annotated[Part, PartField("gradients")]
MetricPart = Annotated[Part, PartField("metrics")]
TrackerPart = Annotated[Part, PartField("trackers")]


def _known_channels(raw: Any) -> Any:
    """Told apart here, so that only the mistake of the one that is meant is reported."""
    if isinstance(raw, str) and raw not in ("gray", "rgb"):
        raise ValueError(f"'{raw}' is not known ({did_you_mean(raw, ('gray', 'rgb'))})")
    places = isinstance(raw, list | tuple) and raw and all(type(each) is int and each >= 0 for each in raw)
    if not (raw is None or isinstance(raw, str) or places):
        raise ValueError("give gray, rgb, or a list of channels that count from 0, such as [0, 2]")
    return raw


Channels = Annotated[Literal["gray", "rgb"] | tuple[int, ...] | None, BeforeValidator(_known_channels)]


class ViewOptions(Options):
    """What one model sees of a row that others see in another way: applied in this order, to whole batches."""

    channels: Channels = None
    """`gray`: how bright red, green and blue are together; `rgb`: one channel three times; or the channels (of vectors,
    the features) that it sees, in their order."""
    crop: Annotated[int, Field(gt=0)] | None = None
    """So many pixels a side, cut out of the middle."""
    rotate: Literal[90, 180, 270] | None = None
    """Degrees, counter-clockwise."""
    size: Annotated[int, Field(gt=0)] | None = None
    """Resized to so many pixels a side (bilinear, antialiased)."""
    mean: tuple[float, ...] | None = None
    """What it is normalised with, for each channel that it sees; by default as the rows of the stream are. (The
    deviation of `gray` then is that of channels which rise and fall together.)"""
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """The deviation that goes with `mean`, for each channel that it sees."""


class TermOptions(Options):
    """Keys that every loss has beside its own."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None
    """The term's name in logs and errors; by default the loss's kind and what it compares."""
    between: tuple[str, ...] | None = None
    """`[student, previous]`, `[student.stage3, external.stage3]`, `[student@new]`: model, tap, rows."""
    weight: Scheduled = 1.0
    """What the loss is multiplied with in the sum: a number, or the schedule that it follows."""
    if_undefined: Literal["error", "skip"] = "error"
    """What happens where an experience's classes or layers leave this loss nothing to teach: the run is refused before
    any training, or goes on without the loss in that experience."""

    @property
    def of_new_rows(self) -> bool:
        """Whether it is about new rows alone: rows named on one side hold for both."""
        return any(side.endswith("@new") for side in self.between or ())


class MemoryOptions(Options):
    """Keys that every memory has beside its own."""

    retrieval: Annotated[Part | None, OptionalPart("retrievals")] = None
    """Which of its rows are replayed in a step (`clkd list retrievals`); by default each with the same probability."""


class TransferOptions(Options):
    """Keys that every transfer strategy has beside its own."""

    weight: Scheduled = 1.0
    """What the strategy's term is multiplied with in the sum: a number, or the schedule that it follows."""


class TeacherOptions(Options):
    """Keys that every teacher has beside its own."""

    sees: Literal["student", "weak"] = "student"
    """The view that the student sees, or (`weak`) the one before `stream.augment.strong` changed it."""
    recall: bool | Literal["memory"] = True
    """Where rows come in fixed views (nothing is augmented, or `augment.views` is set), ask a frozen teacher about each
    of them once and recall its answers: a teacher from outside once for all runs, its answers in the cache as float16;
    any other, and with `memory` that one too, once per experience."""


SHARED: dict[str, type[Options]] = {
    "losses": TermOptions,
    "memories": MemoryOptions,
    "transfers": TransferOptions,
    "teachers": TeacherOptions,
}
