"""What a part can be told, in words: the name, type with its range, default and meaning of each option."""

from __future__ import annotations

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from clkd.options import PartField
from clkd.registry import noun
from clkd.scenario.document import to_yaml

_WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", NoneType: "null", Any: "anything"}


def describe_options(model: type[BaseModel]) -> list[dict[str, Any]]:
    """One entry an option: `name`, `type`, `required`, `default` (as in YAML) and `doc`.

    >>> from clkd.options import TransferOptions
    >>> describe_options(TransferOptions)
    [{'name': 'weight', 'type': 'schedule or number', 'required': False, 'default': '1.0', 'doc': "What ..."}]
    """
    return [
        {
            "name": name,
            "type": _type_of(info),
            "required": info.is_required(),
            "default": None if info.is_required() else _default(info),
            "doc": " ".join((info.description or "").split()),
        }
        for name, info in model.model_fields.items()
    ]


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True)
    return to_yaml(to_jsonable_python(value, fallback=repr), flow=True).strip()


def _type_of(info: FieldInfo) -> str:
    part = next((mark for mark in info.metadata if isinstance(mark, PartField)), None)
    return _part_words(part) if part else _words(info.annotation) + _range(info.metadata)


def _part_words(part: PartField) -> str:
    return "schedule or number" if part.kind == "schedules" else noun(part.kind)


def _words(annotation: Any) -> str:
    """A type as people read it.

    >>> _words(tuple[int, ...] | None)
    'list of integer, or null'
    >>> from pydantic import Field
    >>> _words(Annotated[float, Field(ge=0, le=1)] | None)
    'number ≥ 0 and ≤ 1, or null'
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        part = next((mark for mark in inner[1:] if isinstance(mark, PartField)), None)
        return _part_words(part) if part else _words(inner[0]) + _range(inner[1:])
    if origin in (Union, UnionType):
        return ", or ".join(_words(each) for each in inner)
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (tuple, list):
        return f"list of {_words(inner[0])}" if inner else "list"
    if origin is dict:
        return f"mapping of {_words(inner[1])}"
    return _WORDS.get(annotation) or getattr(annotation, "__name__", str(annotation)).removesuffix("Options").lower()


_LIMITS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}", "min_length": "with {} or more",
           "pattern": "like `{}`"}  # fmt: skip


def _range(marks: Iterable[Any]) -> str:
    """What a value's marks allow, to follow its type; empty if that is everything."""
    flat = [each for mark in marks for each in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]
    found = ((said, getattr(mark, name, None)) for mark in flat for name, said in _LIMITS.items())
    words = " and ".join(said.format(limit) for said, limit in found if limit is not None)
    return f" {words}" if words else ""
